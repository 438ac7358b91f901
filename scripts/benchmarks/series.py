"""One figure against a size: each size timed in turn with the smallest, whose figure it is divided by."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.pairs import Spread, spread
from rlsd.cli.tables import table

#: A ratio that stays this close to 1 is called flat.
FLAT = 0.05


class Block(NamedTuple):
    """What a stretch of work took.

    :param wall: seconds on the clock.
    :param cpu: seconds of processor time of this process.
    :param steps: gradient steps, or environment steps.
    """

    wall: float
    cpu: float
    steps: int


@dataclass(frozen=True)
class Point:
    """A size, set up and warm.

    :param size: what it is plotted against.
    :param work: does a stretch of work, times it, and may be called again and again.
    :param close: gives back what it holds.
    """

    size: int
    work: Callable[[], Block]
    close: Callable[[], None]


class Unit(NamedTuple):
    """What is measured.

    :param name: for people.
    :param of: the figure, from seconds and steps.
    :param form: how the figure is written.
    """

    name: str
    of: Callable[[float, int], float]
    form: str


STEP_TIME = Unit("µs per gradient step", lambda seconds, steps: seconds / steps * 1e6, ",.0f")
STEP_RATE = Unit("steps/s", lambda seconds, steps: steps / seconds, ",.0f")


@dataclass(frozen=True)
class Series:
    """A figure against the sizes of one thing.

    :param axis: what the sizes are of.
    :param name: of the variant, where there are several.
    :param unit: what is measured.
    :param points: in the order of their sizes; the first is what the others are divided by.
    :param skipped: what was left out, and why.
    """

    axis: str
    name: str
    unit: Unit
    points: list[Point]
    skipped: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Give back what the points hold."""
        for point in self.points:
            point.close()


class Measured(NamedTuple):
    """A size's figures, and their ratios to the smallest size's, a pair for each round.

    :param wall: the figure by the clock, the middle of all rounds.
    :param cpu: the same by processor time.
    """

    size: int
    wall: float
    cpu: float
    wall_ratio: Spread
    cpu_ratio: Spread


def measure(series: Series, rounds: int) -> list[Measured]:
    """Time every size in turn with the smallest, ``rounds`` times; which of the two goes first alternates.

    Of the smallest itself one stretch is divided by another, which shows how much is noise.
    """
    base, found = series.points[0], []
    blocks: dict[int, list[tuple[Block, Block]]] = {point.size: [] for point in series.points}
    for number in range(rounds):
        for point in series.points:
            order = (point, base) if number % 2 == 0 else (base, point)
            gc.collect()
            first, second = (one.work() for one in order)
            blocks[point.size].append((first, second) if number % 2 == 0 else (second, first))
    for point in series.points:
        walls = [(_figure(series, a.wall, a.steps), _figure(series, b.wall, b.steps)) for a, b in blocks[point.size]]
        cpus = [(_figure(series, a.cpu, a.steps), _figure(series, b.cpu, b.steps)) for a, b in blocks[point.size]]
        found.append(
            Measured(
                point.size,
                statistics.median(own for own, _ in walls),
                statistics.median(own for own, _ in cpus),
                spread([own / smallest for own, smallest in walls]),
                spread([own / smallest for own, smallest in cpus]),
            )
        )
    return found


def _figure(series: Series, seconds: float, steps: int) -> float:
    return series.unit.of(seconds, steps)


def flat(measured: Sequence[Measured]) -> bool:
    """Whether the middle ratio of every size stays within 5 % of 1, by processor time, which others hardly move."""
    return all(abs(one.cpu_ratio.median - 1) <= FLAT for one in measured)


def series_table(series: Series, measured: Sequence[Measured]) -> str:
    """Return the figures of a series in columns."""
    head = (series.axis, series.unit.name, "by CPU", "ratio min", "median", "max", "CPU min", "median", "max")
    form = series.unit.form
    rows = [
        [
            f"{one.size:,}",
            f"{one.wall:{form}}",
            f"{one.cpu:{form}}",
            *(f"{ratio:.3f}" for ratio in (*one.wall_ratio, *one.cpu_ratio)),
        ]
        for one in measured
    ]
    return table(head, rows)


def series_dict(series: Series, measured: Sequence[Measured]) -> dict[str, Any]:
    """Return a series as plain data."""
    return {
        "axis": series.axis,
        "name": series.name,
        "unit": series.unit.name,
        "flat_within_5_percent": flat(measured),
        "skipped": series.skipped,
        "sizes": [
            {
                "size": one.size,
                "wall": one.wall,
                "cpu": one.cpu,
                "wall_ratio": one.wall_ratio._asdict(),
                "cpu_ratio": one.cpu_ratio._asdict(),
            }
            for one in measured
        ],
    }
