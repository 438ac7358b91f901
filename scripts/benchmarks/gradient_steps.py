"""The time of a gradient step in an agent that trains, against the size of its reservoir or the number of teachers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.pairs import Timing
from benchmarks.report import wait_for
from benchmarks.series import STEP_TIME, Point, Series
from rlsd.cli.errors import UserError, blame_input, one_line
from rlsd.observations import from_names
from rlsd.several import each

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
    """Adds up the time of a method, by the clock and by processor time."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.wall = self.cpu = 0.0

    def time(self, thing: Any, method: str) -> None:
        """Time a method of a thing from now on.

        By a subclass of the thing's class: a method on the instance would switch off what makes updates fast.
        """
        cls = type(thing)

        def timed(owner: Any, *args: Any, **kwargs: Any) -> Any:
            wait_for(self._device)
            wall, cpu = time.perf_counter(), time.process_time()
            result = getattr(cls, method)(owner, *args, **kwargs)
            wait_for(self._device)
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
            return result

        thing.__class__ = type(cls.__name__, (cls,), {method: timed, "__module__": cls.__module__})


class Training:
    """An agent in the midst of its training, which goes on in stretches of which only the updates are timed.

    :param plan: what is trained.
    :param steps: environment steps of a stretch.
    :param alone: leave out of the time what the teacher does beforehand: its answers for the states that will be
        drawn, which are kept, and its own training.
    """

    def __init__(self, plan: Plan, steps: int, alone: bool = False) -> None:
        from rlsd.cli.agents import new_agent
        from rlsd.cli.environments import training_env

        self.env = training_env(plan)
        self.agent = cast(Any, new_agent(plan, self.env, Path()))
        self.agent.tensorboard_log = None
        self.steps = steps
        self._watch, self._aside = _Stopwatch(self.agent.device), _Stopwatch(self.agent.device)
        self._watch.time(self.agent, "train")
        if alone:
            self._aside.time(self.agent.distiller.cache, "teach")
            self._aside.time(self.agent.distiller.teacher, "study")

    def work(self) -> Timing:
        """Train on, and return what the gradient steps took."""
        watch, aside = self._watch, self._aside
        watch.wall = watch.cpu = aside.wall = aside.cpu = 0.0
        before = self.agent.distiller.steps
        self.agent.learn(self.steps, reset_num_timesteps=False)
        done = self.agent.distiller.steps - before
        if not done:
            raise UserError("the recipe never pulled, so there is no gradient step to time: give another --recipe")
        return Timing(watch.wall - aside.wall, watch.cpu - aside.cpu, done)

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
        states = {key: tensor.cpu().numpy() for key, tensor in from_names(store.tensors()).items()}
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


def against_teachers(plan: Plan, teacher: str, sizes: tuple[int, ...], steps: int, alone: bool = False) -> Series:
    """Prepare agents that differ in the number of their teachers, each complete. Unknown teachers give no points.

    :param alone: see :class:`Training`.
    """
    from rlsd.config import Answer

    series = Series("teachers", f"{teacher}, the gradient steps alone" if alone else teacher, STEP_TIME, [])
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
        training = Training(replace(plan, distill=config), steps, alone)
        training.warm_up(size)
        series.points.append(Point(size, training.work, training.env.close))
    return series


def _config(plan: Plan) -> DistillConfig:
    (config,) = each(plan.distill)
    return config


def _several(config: DistillConfig, teacher: str, size: int) -> DistillConfig:
    """Return the config with so many teachers, refreshed as often as the one it has, where both can say how often."""
    answer = {"type": teacher, TEACHERS[teacher]: size}
    every = getattr(config.teacher, "every", None)
    try:
        return config.changed({"teacher": answer | ({} if every is None else {"every": every})})
    except ValueError:
        return config.changed({"teacher": answer})
