"""What teachers from elsewhere are good for, on CartPole: how soon a student does as well as its teacher.

python scripts/experiments/teachers.py privileged --results docs/results/teachers-privileged.json

privileged: the teacher sees the state of two steps, its student positions alone; beside it, the same student without a
teacher. Counted are environment steps until ten greedy episodes give 95 % of the teacher's return.

two_tasks: one teacher of CartPole, another of CartPole with its actions swapped, one student that is told by a bit
which it is, taught offline on states that were gathered in both.

train_on: an agent that was taught offline, whose critic knows nothing, trains on: plainly, with a critic that learns
alone first, and with that and its former self as teacher. Counted is the worst of the evaluations on the way.

ppd: Proximal Policy Distillation (Spigler 2025) and the recipe kickstart, from a teacher as it is and one with noise of
a standard deviation on every weight. Counted are steps as above, the goal being 475. What the file has already is not
trained again.
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
import torch
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


class Worst(Until):
    """Goes on, and keeps the worst return."""

    def __init__(self, env: VecEnv, every: int = 1024) -> None:
        super().__init__(env, np.inf, every)
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        before = self.next
        super()._on_step()
        if self.next != before:
            self.returns.append(self.found)
        return True


def cartpole(seed: int) -> tuple[PPO, VecEnv, VecEnv]:
    """Return an agent that has solved CartPole, and where to train and to judge."""
    env, judge = envs(functools.partial(gym.make, "CartPole-v1"), seed)
    agent = PPO("MlpPolicy", env, seed=seed, **SETTINGS)
    trained(agent, judge, 495.0)
    return agent, env, judge


def train_on(seed: int, steps: int = 10_000) -> Record:
    """Teach an agent offline and train it on, in three ways."""
    teacher, env, judge = cartpole(seed)
    found: Record = {}
    for name in ("plain", "critic first", "critic first, retain"):
        agent = PPO("MlpPolicy", env, seed=100 + seed, **SETTINGS)
        rlsd.distill_into(agent, teacher, states=5_000, steps=2_000, learning_rate=3e-3, value_weight=0.0)
        start, worst = judged(agent, judge), Worst(judge)
        if name != "plain":
            strength = 1.0 if "retain" in name else 1e-6
            timing = rlsd.EveryStep(stride=2, critic_first=10)
            rlsd.distill(agent, rlsd.recipe("retain", strength=strength, timing=timing))
        agent.learn(steps, callback=worst)
        found[name] = {"start": start, "worst": min(worst.returns), "last": worst.returns[-1]}
    return found


class PPD(PPO):
    """PPO with ``lambda E[max(rho, 1 - eps) KL(teacher || student)]``, lambda 1, on its own minibatches."""

    teacher: Any

    def train(self) -> None:
        """SB3's own update, with one more term."""
        self.policy.set_training_mode(True)
        clip = SETTINGS["clip_range"]
        for _ in range(self.n_epochs):
            for data in self.rollout_buffer.get(self.batch_size):
                values, log_prob, _ = self.policy.evaluate_actions(data.observations, data.actions.long().flatten())
                advantages = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
                ratio = (log_prob - data.old_log_prob).exp()
                gain = torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
                with torch.no_grad():
                    wanted: Any = self.teacher.policy.get_distribution(data.observations).distribution
                own: Any = self.policy.get_distribution(data.observations).distribution
                apart = torch.distributions.kl_divergence(wanted, own)
                pull = (ratio.detach().clamp(min=1 - clip) * apart).mean()
                loss = -gain + self.vf_coef * (data.returns - values.flatten()).square().mean() + pull
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()


def ppd(seed: int, most: int = 30_000) -> Record:
    """Teach by PPD and by kickstart, from a clean teacher and noisy ones."""
    found: Record = {}
    for noise in (0.0, 0.05, 1.0):
        teacher, env, judge = cartpole(seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in teacher.policy.parameters():
                weight.add_(torch.randn_like(weight), alpha=noise)
        both: Record = {"teacher": judged(teacher, judge)}
        for name in ("ppd", "kickstart"):
            student = (PPD if name == "ppd" else PPO)("MlpPolicy", env, seed=100 + seed, **SETTINGS)
            if isinstance(student, PPD):
                student.teacher = teacher
            else:
                rlsd.distill(student, rlsd.recipe("kickstart", teacher=teacher))
            both[name] = trained(student, judge, 475.0, most)
        found[f"noise {noise}"] = both
    return found


EXPERIMENTS: dict[str, Callable[[int], Record]] = {
    "privileged": privileged,
    "two_tasks": two_tasks,
    "train_on": train_on,
    "ppd": ppd,
}


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
