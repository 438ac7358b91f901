"""The time of a gradient step in an agent that trains, against the size of its reservoir or the number of teachers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rlsd.cli.benchmarks.report import wait_for
from rlsd.cli.benchmarks.series import STEP_TIME, Block, Point, Series
from rlsd.cli.errors import UserError, blame_input, one_line

if TYPE_CHECKING:
    from rlsd import DistillConfig
    from rlsd.cli.plan import Plan

#: Teachers that are several, and what says how many.
TEACHERS = {"ensemble": "k", "cascade": "n"}
#: Environment steps after which a teacher that is not complete is thought never to be.
_LONGEST_WARM_UP = 400_000
#: States that are copied into a reservoir at once.
_CHUNK = 50_000


class _Stopwatch:
    wall = 0.0
    cpu = 0.0


def _timed(base: type[Any], watch: _Stopwatch) -> type[Any]:
    """Return the class with its updates timed. A subclass of ours: a method on the instance would switch off speed."""

    class Timed(base):  # type: ignore[misc]
        def train(self, *args: Any, **kwargs: Any) -> None:
            wait_for(self.device)
            wall, cpu = time.perf_counter(), time.process_time()
            super().train(*args, **kwargs)
            wait_for(self.device)
            watch.wall += time.perf_counter() - wall
            watch.cpu += time.process_time() - cpu

    return Timed


class Training:
    """An agent in the midst of its training, which goes on in stretches of which only the updates are timed.

    :param plan: what is trained.
    :param steps: environment steps of a stretch.
    """

    def __init__(self, plan: Plan, steps: int) -> None:
        from rlsd.cli.agents import new_agent
        from rlsd.cli.environments import training_env

        self.env = training_env(plan)
        self.agent = cast(Any, new_agent(plan, self.env, Path()))
        self.agent.tensorboard_log = None
        self.steps = steps
        self._watch = _Stopwatch()
        self.agent.__class__ = _timed(type(self.agent), self._watch)

    def work(self) -> Block:
        """Train on, and return what the gradient steps took."""
        self._watch.wall = self._watch.cpu = 0.0
        before = self.agent.distiller.steps
        self.agent.learn(self.steps, reset_num_timesteps=False)
        done = self.agent.distiller.steps - before
        if not done:
            raise UserError("the recipe never pulled, so there is no gradient step to time: give another --recipe")
        return Block(self._watch.wall, self._watch.cpu, done)

    def warm_up(self, refreshes: int) -> None:
        """Train until the teacher has been refreshed so often that it is complete."""
        teacher = self.agent.distiller.teacher
        while teacher.version < refreshes or not teacher.ready:
            if self.agent.num_timesteps > _LONGEST_WARM_UP:
                raise UserError(
                    f"the teacher is not complete after {self.agent.num_timesteps:,} steps: lower its every"
                )
            self.agent.learn(self.steps, reset_num_timesteps=False)

    def fill(self) -> None:
        """Fill the reservoir with copies of the states in it."""
        import numpy as np

        store = self.agent.distiller.states
        states = {key: tensor.cpu().numpy() for key, tensor in store.tensors().items()}
        rows = np.random.default_rng(0).integers(store.count, size=store.capacity - store.count)
        for start in range(0, len(rows), _CHUNK):
            store.add({key: array[rows[start : start + _CHUNK]] for key, array in states.items()})
        assert store.count == store.capacity, f"{store.count} of {store.capacity} states"


def sized_reservoirs(plan: Plan, sizes: tuple[int, ...]) -> list[DistillConfig]:
    """Return the plan's config with reservoirs of these sizes.

    :raises UserError: when the recipe has no reservoir, or a size does not hold a batch.
    """
    with blame_input("--reservoirs"):
        return [_config(plan).changed({"states.capacity": size}) for size in sizes]


def against_reservoir(plan: Plan, sizes: tuple[int, ...], steps: int) -> Series:
    """Prepare agents whose reservoirs differ in size, each full."""
    points = []
    for size, config in zip(sizes, sized_reservoirs(plan, sizes), strict=True):
        training = Training(replace(plan, distill=config), steps)
        training.warm_up(1)
        training.fill()
        points.append(Point(size, training.work, training.env.close))
    return Series("reservoir", "states", STEP_TIME, points)


def against_teachers(plan: Plan, teacher: str, sizes: tuple[int, ...], steps: int) -> Series:
    """Prepare agents that differ in the number of their teachers, each complete. Unknown teachers give no points."""
    from rlsd.config import Answer

    series = Series("teachers", teacher, STEP_TIME, [])
    try:
        Answer.named("teacher", teacher)
    except ValueError as error:
        series.skipped.append(one_line(error))
        return series
    for size in sizes:
        try:
            config = _several(_config(plan), teacher, size)
        except ValueError as error:
            series.skipped.append(f"{teacher} with {TEACHERS[teacher]}={size}: {one_line(error)}")
            continue
        training = Training(replace(plan, distill=config), steps)
        training.warm_up(size)
        series.points.append(Point(size, training.work, training.env.close))
    return series


def _config(plan: Plan) -> DistillConfig:
    assert plan.distill is not None
    return plan.distill


def _several(config: DistillConfig, teacher: str, size: int) -> DistillConfig:
    """Return the config with so many teachers, refreshed as often as the one it has, where both can say how often."""
    answer = {"type": teacher, TEACHERS[teacher]: size}
    every = getattr(config.teacher, "every", None)
    try:
        return config.changed({"teacher": answer | ({} if every is None else {"every": every})})
    except ValueError:
        return config.changed({"teacher": answer})
