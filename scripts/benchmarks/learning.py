"""Runs of ``learn()``, ready to be timed: environment and agent are made anew for each, and not timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.pairs import Work
from benchmarks.report import wait_for

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from rlsd.cli.plan import Plan

#: Before the first pair each side runs this part of a measured run, so that imports, caches and allocator are warm.
WARM_UP = 10


def warm_up_steps(plan: Plan) -> int:
    """Return the steps of the run that is not counted."""
    return max(plan.n_timesteps // WARM_UP, 1)


def learning(plan: Plan, steps: int) -> Callable[[int], Work]:
    """Return what prepares a run of rlsd's ``learn(steps)``, by the pair's number."""

    def prepare(number: int) -> Work:
        from rlsd.cli.agents import new_agent
        from rlsd.cli.environments import training_env

        seeded = replace(plan, seed=plan.seed + number)
        env = training_env(seeded)
        agent = new_agent(seeded, env, Path())
        agent.tensorboard_log = None  # the disk is not what is measured
        return work_of(agent, env, steps)

    return prepare


def work_of(agent: BaseAlgorithm, env: VecEnv, steps: int) -> Work:
    """Return ``agent.learn(steps)`` as work."""

    def learn() -> int:
        agent.learn(steps)
        wait_for(agent.device)
        return int(agent.num_timesteps)

    return Work(learn, env.close)


def backend(plan: Plan) -> str:
    """Return what runs the environments, and why: a faster one makes the same cost a larger part of the whole."""
    from rlsd.cli.environments import training_env

    env = training_env(plan)
    try:
        described: str = env.unwrapped.describe_backend()  # type: ignore[attr-defined]  # ours, under SB3's type
        return described
    finally:
        env.close()
