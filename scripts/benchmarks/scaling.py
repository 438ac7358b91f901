"""``scripts/benchmark.py scaling``: does a gradient step, or an environment step, cost more when there is more?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from benchmarks.options import BenchmarkOptions, settings
from benchmarks.plots import check_plot, draw
from benchmarks.report import begin, finish, one_thread
from benchmarks.series import STEP_TIME, Measured, Series, flat, measure, series_dict, series_table
from rlsd.cli.console import say
from rlsd.cli.errors import UserError, choices
from rlsd.cli.flags import Count, MaybeText, read_flags

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan

AXES = ("reservoir", "teachers", "envs", "training")


@dataclass(frozen=True)
class ScalingOptions(BenchmarkOptions):
    """Time gradient steps and environment steps against sizes; every size in turn with the smallest.

    Everything is set up first, and then goes on in stretches. The ratios are to the smallest size's figure.
    """

    n_timesteps: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 4_096
    """Environment steps of a stretch."""
    pairs: Count = 7
    """Pairs of stretches for each size, 5 at least."""
    recipe: MaybeText = "snapshot"
    """Kind of self-distillation; one that pulls at every update, or there is little to time."""
    axes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="AXIS ...")] = AXES
    """Against what: reservoir, teachers, envs (stepped alone), training (environments, with the agent that learns)."""
    reservoirs: Annotated[tuple[Count, ...], tyro.conf.arg(metavar="N ...")] = (1_000, 10_000, 100_000, 1_000_000)
    """Sizes of the reservoir, in states."""
    teachers: Annotated[tuple[Count, ...], tyro.conf.arg(metavar="N ...")] = (1, 2, 4, 8, 16)
    """Numbers of teachers."""
    envs: Annotated[tuple[Count, ...], tyro.conf.arg(metavar="N ...")] = (1, 4, 16, 64, 256, 1024)
    """Numbers of environments."""
    backends: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND ...")] = ("dummy", "gymnasium", "subproc")
    """What runs the environments, as in --vec-env of rlsd train."""
    most_processes: Count = 16
    """Environments that subproc, with a process each, is asked for at most."""
    plot: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """Draw the curves into this .svg, .png or .pdf; needs matplotlib."""


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the files that were asked for.

    :raises UserError: when the input is wrong; nothing has been timed then.
    """
    options = read_flags(ScalingOptions(), "python scripts/benchmark.py scaling", argv)
    options.check({"most_processes": 1})
    _check_sizes(options)
    check_plot(options.plot)
    plan = options.plan()
    if "reservoir" in options.axes:
        from benchmarks.gradient_steps import sized_reservoirs

        sized_reservoirs(plan, options.reservoirs)
    say(
        f"{plan.algorithm.__name__} on {plan.env_id}, recipe {options.recipe}, {plan.n_timesteps:,} steps a stretch, "
        f"{options.pairs} pairs for each size, one thread, {plan.device}; hyperparameters {plan.hyperparams.source}"
    )
    measured: list[tuple[Series, list[Measured]]] = []
    with one_thread():
        started = begin("scaling", argv)
        for series in _all_series(options, plan):
            measured.append((series, _measure(series, options.pairs)))
    if options.plot is not None:
        draw([(series, points) for series, points in measured if points], options.plot)
        say(f"\nPlot      {options.plot}")
    figures: dict[str, Any] = {"series": [series_dict(series, points) for series, points in measured]}
    finish({**started, **settings(options, plan), **figures}, options.json)
    return 0


def _measure(series: Series, rounds: int) -> list[Measured]:
    say(f"\n{series.name}, against the number of {series.axis}" if series.axis != "reservoir" else "\nReservoir")
    for line in series.skipped:
        say(f"  left out: {line}")
    if not series.points:
        return []
    with ExitStack() as stack:
        stack.callback(series.close)
        points = measure(series, rounds)
    say(series_table(series, points))
    if series.measure is STEP_TIME:  # more environments are there to be faster
        say(f"{'Flat' if flat(points) else 'Not flat'} within 5 % (CPU time, median).")
    return points


def _all_series(options: ScalingOptions, plan: Plan) -> Iterator[Series]:
    """Set up one series after the other, when its turn has come."""
    from benchmarks import environment_steps, gradient_steps

    steps = plan.n_timesteps
    if "reservoir" in options.axes:
        yield gradient_steps.against_reservoir(plan, options.reservoirs, steps)
    if "teachers" in options.axes:
        for teacher in gradient_steps.TEACHERS:
            for alone in (False, True):
                yield gradient_steps.against_teachers(plan, teacher, options.teachers, steps, alone)
    for axis, prepare in (("envs", environment_steps.alone), ("training", environment_steps.in_training)):
        if axis in options.axes:
            for backend in options.backends:
                yield prepare(plan, backend, options.envs, steps, options.most_processes)


def _check_sizes(options: ScalingOptions) -> None:
    from rlsd.cli.probe import check_backend

    for axis in options.axes:
        if axis not in AXES:
            raise UserError(f"unknown --axes {axis!r}; {choices(axis, AXES)}")
    for name in ("axes", "reservoirs", "teachers", "envs", "backends"):
        if not getattr(options, name):
            raise UserError(f"--{name} is empty: name one at least")
    for name in ("reservoirs", "teachers", "envs"):
        sizes = getattr(options, name)
        if min(sizes) < 1 or list(sizes) != sorted(set(sizes)):
            raise UserError(f"--{name} must be 1 or more and rise, got {' '.join(map(str, sizes))}")
    for backend in options.backends:
        check_backend(backend)
