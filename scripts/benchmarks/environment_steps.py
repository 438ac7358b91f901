"""Environment steps per second against the number of environments, for each backend: alone, and in training."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.pairs import RATE, Timing
from benchmarks.report import wait_for
from benchmarks.series import Point, Series
from rlsd.cli.errors import UserError

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan

#: Steps of all environments together that a stretch has at least, and that every environment of a rollout makes.
_FEWEST_STEPS = 32
_STEPS_OF_EACH = 8


def alone(plan: Plan, backend: str, sizes: tuple[int, ...], steps: int, most_processes: int) -> Series:
    """Prepare environments that are stepped with random actions, by nobody who learns."""
    from rlsd.cli.probe import make

    series = Series("environments", f"{backend}, stepped alone", RATE, [])
    for size in _possible(series, backend, sizes, most_processes):
        try:
            env = make(plan.env_id, size, backend, plan.seed, plan.env_kwargs)
        except UserError as error:
            series.skipped.append(f"{backend} with {size}: {error}")
            continue
        series.points.append(Point(size, _Stepping(env, size, steps).work, env.close))
    return series


class _Stepping:
    def __init__(self, env: Any, n_envs: int, steps: int) -> None:
        import numpy as np

        self.env = env
        self.rounds = max(steps // n_envs, _FEWEST_STEPS)
        space = env.action_space
        self.actions = [np.stack([space.sample() for _ in range(n_envs)]) for _ in range(_FEWEST_STEPS)]
        env.reset()
        env.step(self.actions[0])

    def work(self) -> Timing:
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(self.rounds):
            self.env.step(self.actions[number % _FEWEST_STEPS])
        return Timing(time.perf_counter() - wall, time.process_time() - cpu, self.rounds * self.env.num_envs)


def in_training(plan: Plan, backend: str, sizes: tuple[int, ...], steps: int, most_processes: int) -> Series:
    """Prepare agents that distil, all with rollouts of one size, so that each step of an environment costs the same."""
    from rlsd.cli.agents import new_agent
    from rlsd.cli.environments import training_env

    series = Series("environments", f"{backend}, in training", RATE, [])
    possible = _possible(series, backend, sizes, most_processes)
    rollout = max(_rollout(plan), _STEPS_OF_EACH * max(possible, default=1))
    for size in possible:
        sized = _with_envs(plan, backend, size, rollout)
        try:
            env = training_env(sized)
        except UserError as error:
            series.skipped.append(f"{backend} with {size}: {error}")
            continue
        agent = new_agent(sized, env, Path())
        agent.tensorboard_log = None
        agent.learn(1)  # a rollout: the first is slower
        series.points.append(Point(size, _Learning(agent, steps).work, env.close))
    return series


class _Learning:
    def __init__(self, agent: Any, steps: int) -> None:
        self.agent, self.steps = agent, steps

    def work(self) -> Timing:
        before = self.agent.num_timesteps
        wall, cpu = time.perf_counter(), time.process_time()
        self.agent.learn(self.steps, reset_num_timesteps=False)
        wait_for(self.agent.device)
        return Timing(time.perf_counter() - wall, time.process_time() - cpu, self.agent.num_timesteps - before)


def _rollout(plan: Plan) -> int:
    return int(plan.hyperparams.values.get("n_steps", 1)) * plan.hyperparams.n_envs


def _with_envs(plan: Plan, backend: str, n_envs: int, rollout: int) -> Plan:
    values = {**plan.hyperparams.values, "n_envs": n_envs}
    if "n_steps" in values:
        values["n_steps"] = rollout // n_envs
    hyperparams = replace(plan.hyperparams, values=values)
    return replace(plan, hyperparams=hyperparams, options=replace(plan.options, vec_env=backend))


def _possible(series: Series, backend: str, sizes: tuple[int, ...], most_processes: int) -> list[int]:
    """Return the sizes that can be made here, and note the others."""
    most = most_processes if backend == "subproc" else max(sizes)
    series.skipped.extend(
        f"{backend} with {size}: a process each; --most-processes is {most}" for size in sizes if size > most
    )
    return [size for size in sizes if size <= most]
