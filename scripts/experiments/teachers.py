"""What teachers from elsewhere are good for, on CartPole: how soon a student does as well as its teacher.

python scripts/experiments/teachers.py privileged --results docs/results/teachers-privileged.json

privileged: the teacher sees the state of two steps, its student positions alone; beside it, the same student without a
teacher. Counted are environment steps until ten greedy episodes give 95 % of the teacher's return.

two_tasks: one teacher of CartPole, another of CartPole with its actions swapped, one student that is told by a bit
which it is, taught offline on states that were gathered in both. What the file has already is not trained again.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import rlsd
from rlsd_envs import Privileged, StudentExtractor
from rlsd_envs.flipped import make_flipped

#: Of rl_zoo3's for CartPole-v1, at a constant learning rate.
SETTINGS: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
    "device": "cpu",
}
ENVS, EPISODES, LONGEST = 8, 10, 150_000
Record = dict[str, Any]


def judged(agent: Any, env: VecEnv) -> float:
    """Return the mean return of ten greedy episodes."""
    return float(np.mean(evaluate_policy(agent, env, n_eval_episodes=EPISODES, warn=False)[0]))


class Until(BaseCallback):
    """Ends training when the greedy return reaches a goal, and keeps it."""

    def __init__(self, env: VecEnv, goal: float, every: int = 2048) -> None:
        super().__init__()
        self.env, self.goal, self.every, self.next = env, goal, every, every
        self.found = -np.inf

    def _on_step(self) -> bool:
        if self.num_timesteps < self.next:
            return True
        self.next += self.every
        self.found = judged(self.model, self.env)
        return self.found < self.goal


def trained(agent: Any, env: VecEnv, goal: float, most: int = LONGEST) -> Record:
    """Train an agent until it reaches a goal, and return after how many steps, and what it earned then."""
    until = Until(env, goal)
    agent.learn(most, callback=until)
    return {"steps": agent.num_timesteps, "return": until.found, "reached": until.found >= goal}


def two_steps() -> gym.Env[Any, Any]:
    """CartPole that shows the states of two steps as one vector of 8."""
    return gym.wrappers.FlattenObservation(gym.wrappers.FrameStackObservation(gym.make("CartPole-v1"), 2))


def positions() -> gym.Env[Any, Any]:
    """The same, of which the student sees positions alone."""
    return Privileged(two_steps(), hidden=[1, 3, 5, 7])


def envs(make: Callable[[], Any], seed: int) -> tuple[VecEnv, VecEnv]:
    """Return where to train and where to judge."""
    return make_vec_env(make, ENVS, seed=seed), make_vec_env(make, EPISODES, seed=10_000 + seed)


def privileged(seed: int) -> Record:
    """Train a teacher on all, and a student on half, with it and without."""
    env, judge = envs(two_steps, seed)
    teacher = PPO("MlpPolicy", env, seed=seed, **SETTINGS)
    found = {"teacher": trained(teacher, judge, 495.0)}
    goal = 0.95 * judged(teacher, judge)
    for name in ("taught", "alone"):
        env, judge = envs(positions, seed)
        extractor = {"features_extractor_class": StudentExtractor}
        student = PPO("MultiInputPolicy", env, seed=100 + seed, policy_kwargs=extractor, **SETTINGS)
        if name == "taught":
            answer = rlsd.Frozen(agent=teacher, observations="teacher")
            rlsd.distill(student, {"teacher": answer, "states": "recent", "strength": 1.0})
        found[name] = trained(student, judge, goal)
    return {"goal": goal, **found}


def two_tasks(seed: int) -> Record:
    """Train a teacher of each task, and let both teach one student."""
    tasks = [functools.partial(make_flipped, "CartPole-v1", flipped=flipped) for flipped in (False, True)]
    teachers, judges, found = [], [], {}
    for number, make in enumerate(tasks):
        env, judge = envs(make, seed + number)
        teachers.append(PPO("MlpPolicy", env, seed=seed, **SETTINGS))
        found[f"teacher {number}"] = trained(teachers[-1], judge, 495.0)
        judges.append(judge)
    student = PPO("MlpPolicy", make_vec_env(tasks[0], 1), seed=100 + seed, **SETTINGS)
    both = DummyVecEnv([tasks[i % 2] for i in range(ENVS)])
    taught = rlsd.distill_into(
        student, rlsd.Several(teachers, task=4), states=20_000, steps=4_000, learning_rate=3e-3, env=both
    )
    returns = [judged(student, judge) for judge in judges]
    shares = [own / judged(teacher, judge) for own, teacher, judge in zip(returns, teachers, judges, strict=True)]
    return {**found, "agreement": taught.agreement, "states": taught.states, "returns": returns, "shares": shares}


EXPERIMENTS: dict[str, Callable[[int], Record]] = {"privileged": privileged, "two_tasks": two_tasks}


def main() -> None:
    """Run the trials that are missing, and print each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=[*EXPERIMENTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    data = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    for seed in asked.seeds:
        name = f"{asked.experiment} CartPole-v1 seed {seed}"
        if name not in data:
            data[name] = EXPERIMENTS[asked.experiment](seed) | {"version": rlsd.__version__}
            lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
            asked.results.write_text("{\n" + lines + "\n}\n")
        print(name, json.dumps(data[name]), flush=True)


if __name__ == "__main__":
    main()
