"""A cold process that trains as ``rlsd train`` does: ``python -m benchmarks.rlsd_child JSON``, prints JSON.

No run folder, checkpoints or logs are written, as the peer in :mod:`benchmarks.plain_child` writes none.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.plain_child import stop_at_target
from rlsd.cli.options import TrainOptions

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from rlsd.cli.plan import Plan


def build(plan: Plan) -> BaseAlgorithm:
    """Make environment and agent."""
    from rlsd.cli.agents import new_agent
    from rlsd.cli.environments import training_env

    agent = new_agent(plan, training_env(plan), Path())
    agent.tensorboard_log = None
    return agent


def planned(task: dict[str, Any]) -> Plan:
    """Settle what is trained, with the seed of the pair."""
    from rlsd.cli.plan import plan_new

    return replace(plan_new(TrainOptions.from_dict(task["options"])), seed=task["seed"])


def solve(task: dict[str, Any]) -> dict[str, Any]:
    """Train until an evaluation reaches the target, or to the last step."""
    from rlsd.cli.environments import evaluation_env

    plan = planned(task)
    agent = build(plan)

    def evaluated_in(count: int, seed: int, trained_in: Any) -> Any:
        return evaluation_env(replace(plan, options=replace(plan.options, n_eval_envs=count)), seed, trained_in)

    stopping = stop_at_target(task, evaluated_in)
    agent.learn(task["n_timesteps"], callback=stopping)
    return dict(stopping.report)


def learn(task: dict[str, Any]) -> dict[str, Any]:
    """Train, and time it from after the imports to the end of ``learn()``."""
    import rlsd.cli.agents  # noqa: F401 - the imports are what is not timed

    plan = planned(task)
    wall, cpu = time.perf_counter(), time.process_time()
    agent = build(plan)
    agent.learn(task["n_timesteps"])
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "steps": int(agent.num_timesteps)}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps({"learn": learn, "solve": solve}[given["do"]](given)))
