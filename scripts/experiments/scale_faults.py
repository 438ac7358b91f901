"""Kill workers, a node, the learner, and a node under a sweep, on a Ray cluster of two nodes on this machine.

    python scripts/experiments/scale_faults.py --results docs/results/scale-faults.json

``kills``: ten SIGKILLs of workers at random rollouts of one training, one of a raylet, and a node that joins later.
``learner``: SIGKILL of the learner; the resumed run is compared with one that nobody killed.
``sweep``: 20 trainings of ``rlsd compare --ray``; SIGKILL of a raylet when some are finished.
It needs ``pip install 'rlsd[ray]'``. What the file has already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import rlsd
from rlsd.scaling.ray_cluster import import_ray

ROLLOUTS, STEPS = 40, 64
SETTINGS: dict[str, Any] = {"n_steps": STEPS, "batch_size": 64, "n_epochs": 2, "seed": 0, "device": "cpu"}
MEMORY = 100 * 2**20


class Told(gym.Wrapper[Any, Any, Any, Any]):
    """A CartPole that says which process it is in."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))

    def process(self) -> int:
        """Return the process's number."""
        return os.getpid()


class Rollouts(BaseCallback):
    """Calls a function at the beginning of each rollout, and notes what is logged at its end."""

    def __init__(self, begin: Callable[[Any, int], None]) -> None:
        super().__init__()
        self._begin, self._number = begin, 0
        self.logged: list[dict[str, Any]] = []

    def _on_rollout_start(self) -> None:
        self._begin(self.model, self._number)
        self._number += 1

    def _on_rollout_end(self) -> None:
        self.logged.append({key: self.logger.name_to_value.get(f"scale/{key}") for key in ("fragments_lost", "nodes")})

    def _on_step(self) -> bool:
        return True


@contextmanager
def two_nodes(cpus: int, join: bool) -> Iterator[tuple[Any, Any]]:
    """Give a cluster of two nodes, and the second one.

    :param join: connect this process, too.
    """
    ray = import_ray()
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found, unused-ignore]

    node_args = {"num_cpus": cpus, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node_args)
    second = cluster.add_node(num_cpus=cpus, object_store_memory=MEMORY)
    if join:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield cluster, second
    finally:
        ray.shutdown()
        cluster.shutdown()


def built(workers: Any) -> Any:
    """Return an agent on some workers, 4 environments in all."""
    return rlsd.SelfDistilled(PPO)("MlpPolicy", workers.vec_env(Told), distill=None, **SETTINGS)


def kills() -> dict[str, Any]:
    """Kill ten workers and a raylet in one training; a node joins later."""
    generator = np.random.default_rng(0)
    at = sorted(int(number) for number in generator.choice(np.arange(1, 36), 10, replace=False))
    node_at, join_at = 20, 30
    with two_nodes(2, join=True) as (cluster, second):
        agent = built(rlsd.RayWorkers(2, 2, elastic=True, restarts=5))

        def begin(model: Any, number: int) -> None:
            if number == node_at:
                cluster.remove_node(second, allow_graceful=False)
            if number == join_at:
                cluster.add_node(num_cpus=2, object_store_memory=MEMORY)
            if number in at:
                os.kill(int(generator.choice(model.env.env_method("process"))), signal.SIGKILL)

        rollouts = Rollouts(begin)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            began = time.perf_counter()
            agent.learn(ROLLOUTS * STEPS * 4, callback=rollouts)
        seconds = time.perf_counter() - began
        agent.env.close()
    return {
        "rollouts": len(rollouts.logged),
        "num_timesteps": agent.num_timesteps,
        "workers_killed_at": at,
        "raylet_killed_at": node_at,
        "node_joined_at": join_at,
        "fragments_lost": rollouts.logged[-1]["fragments_lost"],
        "nodes": [one["nodes"] for one in rollouts.logged],
        "warnings_of_loss": sum("was lost" in str(one.message) for one in told),
        "seconds": round(seconds, 1),
    }


def child(folder: str) -> None:
    """Train on Ray workers with checkpoints, and be killed."""

    def begin(_: Any, number: int) -> None:
        if number == 6:
            os.kill(os.getpid(), signal.SIGKILL)

    agent = built(rlsd.RayWorkers(2, 2))
    agent.learn(12 * STEPS * 4, callback=[rlsd.Checkpoints(folder, every=2 * STEPS * 4), Rollouts(begin)])


def learner() -> dict[str, Any]:
    """Kill the learner, resume it on workers of another split, and compare it with a run that nobody killed."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, __file__, "--child", folder], check=False, env=dict(os.environ))
        newest = rlsd.latest_checkpoint(folder)
        assert newest is not None, f"no checkpoint after exit code {done.returncode}"
        agent = rlsd.resume(newest)
        resumed_at = agent.num_timesteps
    rlsd.scale(agent, rlsd.LocalWorkers(4, 1))
    agent.learn(12 * STEPS * 4 - resumed_at, reset_num_timesteps=False)
    never = built(rlsd.LocalWorkers(1, 4)).learn(12 * STEPS * 4)
    pairs = zip(agent.policy.state_dict().values(), never.policy.state_dict().values(), strict=True)
    return {
        "exit_code": done.returncode,
        "resumed_at": resumed_at,
        "num_timesteps": [agent.num_timesteps, never.num_timesteps],
        "parameters_equal": all(torch.equal(one, other) for one, other in pairs),
    }


def sweep() -> dict[str, Any]:
    """Run 20 trainings on two nodes of one CPU each, and kill one node when four are finished."""
    with tempfile.TemporaryDirectory() as folder, two_nodes(1, join=False) as (cluster, second):
        words = ["compare", "--env", "CartPole-v1", "--variants", "baseline", "--seeds", "0-19", "-n", "2048"]
        more = ["--eval-episodes", "20", "--ray", cluster.address, "-f", folder]
        began = time.perf_counter()
        log = Path(folder, "said.log")
        with log.open("w") as file:
            process = subprocess.Popen([sys.executable, "-m", "rlsd", *words, *more], stdout=file, stderr=file)
            killed_after = None
            while process.poll() is None:
                time.sleep(1.0)
                finished = len(list(Path(folder).glob("baseline/seed_*/ppo/*/results.json")))
                if killed_after is None and finished >= 4:
                    cluster.remove_node(second, allow_graceful=False)
                    killed_after = finished
        results = Path(folder, "compare.json")
        trials = json.loads(results.read_text())["results"] if results.exists() else []
        runs = [len(list(place.glob("ppo/*/results.json"))) for place in Path(folder).glob("baseline/seed_*")]
        return {
            "exit_code": process.returncode,
            "killed_after": killed_after,
            "finished": len(trials),
            "seeds": len({one["seed"] for one in trials}),
            "runs_of_each_seed": sorted(set(runs)),
            "resumed": sum(one.get("sessions", 1) > 1 for one in trials),
            "seconds": round(time.perf_counter() - began, 1),
        }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"kills": kills, "learner": learner, "sweep": sweep}


def main() -> None:
    """Run the parts that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.child:
        child(asked.child)
        return
    if asked.results is None:
        parser.error("--results is missing")
    data: dict[str, Any] = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    for part in asked.parts:
        if part not in data:
            data[part] = {**PARTS[part](), "load": round(os.getloadavg()[0], 1), "version": rlsd.__version__}
            asked.results.write_text(json.dumps(data, indent=1) + "\n")
        print(part, json.dumps(data[part]), flush=True)


if __name__ == "__main__":
    main()
