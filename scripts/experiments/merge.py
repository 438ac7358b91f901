"""Can one agent do what three do? Three CartPoles, an agent trained in each, and their student on states of all three.

python scripts/experiments/merge.py --results docs/results/merge-cartpole.json

The first is CartPole-v1, the second has its actions swapped, the third too, with a pole three times as long, twice the
gravity and a stronger push. Three numbers of the observation say which it is. Returns are means of 100 greedy episodes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import rlsd

#: What each variant changes in the environment, and whether it swaps the actions.
VARIANTS: tuple[tuple[dict[str, float], bool], ...] = (
    ({}, False),
    ({}, True),
    ({"length": 1.5, "gravity": 19.6, "force_mag": 20.0}, True),
)


class Variant(gym.Wrapper[Any, Any, Any, Any]):
    """A CartPole whose observation ends in one number for each variant: 1 for its own, 0 for the others."""

    def __init__(self, number: int) -> None:
        super().__init__(gym.make("CartPole-v1"))
        changes, self._swapped = VARIANTS[number]
        for name, value in changes.items():
            setattr(self.unwrapped, name, value)
        inner: Any = self.unwrapped
        inner.polemass_length = inner.masspole * inner.length
        self._context = np.eye(len(VARIANTS), dtype=np.float32)[number]
        own = self.env.observation_space
        assert isinstance(own, spaces.Box)
        low, high = (np.append(bound, edge * np.ones(len(VARIANTS))) for bound, edge in ((own.low, 0), (own.high, 1)))
        self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def reset(self, **settings: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(**settings)
        return np.concatenate((observation, self._context)), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action, or the other one."""
        observation, reward, ended, cut, info = self.env.step(1 - action if self._swapped else action)
        return np.concatenate((observation, self._context)), reward, ended, cut, info


def variant(number: int, n_envs: int = 8, seed: int = 0) -> Any:
    """Return a vector environment of one variant."""
    return make_vec_env(lambda: Variant(number), n_envs, seed=seed)


def returns(agent: Any) -> list[float]:
    """Return an agent's mean return in each variant."""
    means = []
    for number in range(len(VARIANTS)):
        episodes, _ = evaluate_policy(
            agent, variant(number, 10, 1_000), n_eval_episodes=100, return_episode_rewards=False
        )
        means.append(round(float(np.mean(np.asarray(episodes))), 1))
    return means


def trial(seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Train an agent in each variant and merge them; return what all earn everywhere."""
    agents = []
    for number in range(len(VARIANTS)):
        settings: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "learning_rate": 1e-3, "seed": seed}
        agent = rlsd.SelfDistilled(PPO)("MlpPolicy", variant(number, seed=seed), distill=None, device="cpu", **settings)
        agents.append(agent.learn(asked.steps))
    began = time.process_time()
    student = rlsd.merge(agents, states=asked.states, steps=asked.merge_steps, seed=seed)
    seconds = round(time.process_time() - began, 1)
    teachers, merged = [returns(agent) for agent in agents], returns(student)
    own = [row[number] for number, row in enumerate(teachers)]
    kept = [round(ours / theirs, 3) for ours, theirs in zip(merged, own, strict=True)]
    return {"teachers": teachers, "student": merged, "kept": kept, "merge_cpu_seconds": seconds}


def main() -> None:
    """Run the trials that are missing, and print how much of each teacher's return the students keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80_000, help="of each teacher's training")
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--merge-steps", type=int, default=6_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data: dict[str, Any] = json.loads(asked.results.read_text()) if asked.results.exists() else {"trials": {}}
    settings = {name: getattr(asked, name) for name in ("steps", "states", "merge_steps")}
    data |= {"variants": VARIANTS, "settings": settings, "version": rlsd.__version__}
    for seed in map(str, asked.seeds):
        if seed not in data["trials"]:
            data["trials"][seed] = trial(int(seed), asked)
            asked.results.write_text(json.dumps(data, indent=1) + "\n")
        print(seed, data["trials"][seed], flush=True)
    print("worst share of a teacher's return kept:", min(min(one["kept"]) for one in data["trials"].values()))


if __name__ == "__main__":
    main()
