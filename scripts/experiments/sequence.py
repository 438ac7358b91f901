"""Does an agent keep five tasks that follow one another, twice? Variants of CartPole that the observation tells apart.

python scripts/experiments/sequence.py --seeds 200-205 --results docs/results/sequence-cartpole.json

After each stretch the agent is evaluated on all tasks, and after a tenth of a stretch on the present one. `alone` is
plain SB3 trained on each task only; `keeper` acts by how an episode begins. What the file has already is not trained
again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from rlsd import ByStart, SelfDistilled, __version__
from rlsd.cli.variants import parse_seeds
from rlsd.rng import private_numbers
from rlsd_envs import make_vec_env

ENV = "rlsd_envs/Sequence-v1"
TASKS: list[dict[str, Any]] = [
    {},
    {"flipped": True},
    {"gravity": 25.0},
    {"flipped": True, "gravity": 25.0},
    {"force_mag": 4.0},
]
ROUNDS, COPIES, EPISODES = 2, 8, 20
#: As in scripts/retention.py: what rl_zoo3 tuned, with rates held where they begin and half the epochs.
SETTINGS: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 10,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
    "device": "cpu",
}


def returns(agent: Any, task: int, seed: int) -> float:
    """Return the mean greedy return on a task; draws nothing from the global generators."""
    kwargs = {"tasks": TASKS, "steps": 0, "start": task}
    with private_numbers(seed):
        env = make_vec_env(ENV, n_envs=10, seed=2**29 + seed, env_kwargs=kwargs)
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=EPISODES, warn=False)
        env.close()
    return float(np.mean(mean))


class Early(BaseCallback):
    """Evaluates on the present task once a tenth of each stretch is over."""

    def __init__(self, steps: int, look: Callable[[int], float]) -> None:
        super().__init__()
        self.steps, self.look = steps, look
        self.seen: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        stretch = len(self.seen)
        if self.num_timesteps >= stretch * self.steps + self.steps // 10:
            self.seen.append(self.look(stretch % len(TASKS)))


def trial(variant: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one agent through the sequence, or one on each task alone, and return what it earned."""
    if variant == "alone":
        return {"returns": [_trained("plain", seed, steps, 1, task)[1][0][task] for task in range(len(TASKS))]}
    early, table = _trained(variant, seed, steps, ROUNDS * len(TASKS), 0)
    return {"returns": table, "early": early}


def _trained(variant: str, seed: int, steps: int, stretches: int, start: int) -> tuple[list[float], list[list[float]]]:
    fixed = stretches == 1
    kwargs = {"tasks": TASKS, "steps": 0 if fixed else steps // COPIES, "start": start}
    env = make_vec_env(ENV, n_envs=COPIES, seed=seed, env_kwargs=kwargs)
    distill = None if variant == "plain" else True if variant == "default" else variant
    agent: Any = SelfDistilled(PPO)("MlpPolicy", env, seed=seed, distill=distill, **SETTINGS)
    early = Early(steps, lambda task: returns(agent, task, seed))
    table = []
    for stretch in range(stretches):
        agent.learn(steps, callback=None if fixed else early, reset_num_timesteps=stretch == 0)
        acting = ByStart(agent) if variant == "keeper" else agent
        table.append([returns(acting, task, seed) for task in range(len(TASKS))])
    env.close()
    return early.seen, table


def main() -> None:
    """Run the trials that are missing, and print the means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="alone,plain,default")
    parser.add_argument("--seeds", default="200-205")
    parser.add_argument("--steps", type=int, default=30_000, help="of each stretch")
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    for seed in parse_seeds(asked.seeds):
        for variant in asked.variants.split(","):
            name = f"{variant} {asked.steps} seed {seed}"
            if name not in data:
                data[name] = trial(variant, seed, asked.steps) | {"version": __version__}
                lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
                asked.results.write_text("{\n" + lines + "\n}\n")
            found = data[name]["returns"]
            last = found if variant == "alone" else found[-1]
            print(f"{name:<28}{'  '.join(f'{value:5.0f}' for value in last)}   mean {np.mean(last):.0f}", flush=True)


if __name__ == "__main__":
    main()
