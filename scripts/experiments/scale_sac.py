"""Does SAC whose transitions come from Ray workers learn Pendulum as a local run does? Both are trained of each seed.

python scripts/experiments/scale_sac.py --results docs/results/scale-sac.json

The local run has as many environments in this process, and as many gradient steps for each environment step. What the
file has already is not trained again. It needs ``pip install 'rlsd[ray]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import rlsd
from rlsd.cli.statistics import bootstrap_interval, probability_of_improvement
from rlsd.scaling.ray_cluster import import_ray

Results = dict[str, dict[str, Any]]
WORKERS = 4
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "gradient_steps": -1,
    "learning_starts": 400,
    "batch_size": 128,
    "policy_kwargs": {"net_arch": [64, 64]},
    "device": "cpu",
}


def trial(where: str, steps: int, seed: int) -> dict[str, Any]:
    """Train with workers or without, and return the mean return of 30 episodes and the seconds."""
    agent_class = rlsd.SelfDistilled(SAC)
    if where == "ray":
        workers = rlsd.RayWorkers(WORKERS, fragment=16)
        agent = agent_class("MlpPolicy", "Pendulum-v1", distill=None, seed=seed, workers=workers, **SETTINGS)
    else:
        env = make_vec_env("Pendulum-v1", WORKERS, seed=seed)
        agent = agent_class("MlpPolicy", env, distill=None, seed=seed, **SETTINGS)
    began, busy = time.perf_counter(), time.process_time()
    agent.learn(steps)
    seconds = {"seconds": time.perf_counter() - began, "learner_cpu_seconds": time.process_time() - busy}
    figures = {key: agent.logger.name_to_value[f"scale/{key}"] for key in ("updates_behind", "fragments_lost")}
    assert agent.env is not None
    agent.env.close()
    returns, _ = evaluate_policy(agent, make_vec_env("Pendulum-v1", 10, seed=10_000 + seed), n_eval_episodes=30)
    return {
        "return": float(np.mean(np.asarray(returns))),
        "updates": agent._n_updates,
        **{name: round(value, 1) for name, value in seconds.items()},
        **(figures if where == "ray" else {}),
        "load": round(os.getloadavg()[0], 1),
    }


def _mean_difference(samples: Any) -> Any:
    return np.mean(samples[0], axis=-1) - np.mean(samples[1], axis=-1)


def summary(trials: Results, seeds: list[int]) -> Results:
    """Return the means of both, the difference with a 95 % bootstrap interval, and the wall-clock."""
    returns = {where: [trials[f"{where} {seed}"]["return"] for seed in seeds] for where in ("local", "ray")}
    pair = [returns["ray"], returns["local"]]
    low, high = bootstrap_interval(_mean_difference, pair)
    told: Results = {
        where: {
            "mean": round(float(np.mean(returns[where])), 1),
            "worst": round(min(returns[where]), 1),
            "median_seconds": float(np.median([trials[f"{where} {seed}"]["seconds"] for seed in seeds])),
        }
        for where in returns
    }
    told["ray - local"] = {
        "mean": round(float(np.mean(pair[0]) - np.mean(pair[1])), 1),
        "interval_95": [round(low, 1), round(high, 1)],
        "probability_of_improvement": round(float(probability_of_improvement(*pair)), 3),
    }
    return told


def main() -> None:
    """Run the trials that are missing, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3_600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(10)])
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    data: dict[str, Any] = json.loads(asked.results.read_text()) if asked.results.exists() else {"trials": {}}
    data |= {"steps": asked.steps, "workers": WORKERS, "settings": SETTINGS, "version": rlsd.__version__}
    torch.set_num_threads(1)
    pairs = [(where, seed) for seed in asked.seeds for where in ("local", "ray")]
    missing = [(where, seed) for where, seed in pairs if f"{where} {seed}" not in data["trials"]]
    if missing:  # one Ray for all trials: a new one takes seconds
        memory = 100 * 2**20
        import_ray().init("local", num_cpus=WORKERS, include_dashboard=False, object_store_memory=memory)
    for where, seed in missing:
        data["trials"][f"{where} {seed}"] = trial(where, asked.steps, seed)
        print(where, seed, data["trials"][f"{where} {seed}"], flush=True)
        _write(asked.results, data)
    data["summary"] = summary(data["trials"], asked.seeds)
    _write(asked.results, data)
    print(json.dumps(data["summary"], indent=1))


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
