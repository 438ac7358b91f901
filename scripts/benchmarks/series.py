"""One figure against a size: each size timed in turn with the smallest, whose figure it is divided by."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.pairs import Measure, Pair, Spread, Timing, spread, time_pair
from rlsd.cli.tables import table

#: A ratio that stays this close to 1 is called flat.
FLAT = 0.05


@dataclass(frozen=True)
class Point:
    """A size, set up and warm.

    :param size: what it is plotted against.
    :param work: does a stretch of work, times it, and may be called again and again.
    :param close: gives back what it holds.
    """

    size: int
    work: Callable[[], Timing]
    close: Callable[[], None]


STEP_TIME = Measure("µs per gradient step", lambda seconds, steps: seconds / steps * 1e6, ",.0f")


@dataclass(frozen=True)
class Series:
    """A figure against the sizes of one thing.

    :param axis: what the sizes are of.
    :param name: of the variant, where there are several.
    :param measure: what is measured.
    :param points: in the order of their sizes; the first is what the others are divided by.
    :param skipped: what was left out, and why.
    """

    axis: str
    name: str
    measure: Measure
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
    base = series.points[0]
    pairs: dict[int, list[Pair]] = {point.size: [] for point in series.points}
    for number in range(rounds):
        for point in series.points:
            gc.collect()
            way, smallest = ((str(one.size), one.work) for one in (point, base))
            pairs[point.size].append(time_pair(number, way, smallest, series.measure))
    return [_measured(size, found) for size, found in pairs.items()]


def _measured(size: int, pairs: Sequence[Pair]) -> Measured:
    return Measured(
        size,
        statistics.median(pair.wall[0] for pair in pairs),
        statistics.median(pair.cpu[0] for pair in pairs),
        spread([pair.wall_ratio for pair in pairs]),
        spread([pair.cpu_ratio for pair in pairs]),
    )


def flat(measured: Sequence[Measured]) -> bool:
    """Whether the middle ratio of every size stays within 5 % of 1, by processor time, which others hardly move."""
    return all(abs(one.cpu_ratio.median - 1) <= FLAT for one in measured)


def series_table(series: Series, measured: Sequence[Measured]) -> str:
    """Return the figures of a series in columns."""
    head = (series.axis, series.measure.unit, "by CPU", "ratio min", "median", "max", "CPU min", "median", "max")
    form = series.measure.form
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
        "unit": series.measure.unit,
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
