"""Two ways to do the same work, timed in turn.

A machine is faster at one moment than at another, and more so when others use it. Two runs one right after the other
meet nearly the same machine, so their ratio says more than their seconds; A B B A A B ... lets a slow drift cancel.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from rlsd.cli.tables import table

#: Fewer pairs give a median that one bad moment decides.
FEWEST_PAIRS = 5


class Work(NamedTuple):
    """Something to be timed, with all preparation done.

    :param run: is timed; returns the environment steps it took, or a whole :class:`Timing` where the work was done and
        timed by another process.
    :param close: gives back what the work holds.
    """

    run: Callable[[], int | Timing]
    close: Callable[[], None]


@dataclass(frozen=True)
class Side:
    """One of the two ways.

    :param name: for the table.
    :param prepare: makes fresh work for the pair with this number; called anew for every run, and not timed.
    """

    name: str
    prepare: Callable[[int], Work]


class Timing(NamedTuple):
    """What one run took.

    :param wall: seconds on the clock.
    :param cpu: seconds of processor time of this process, all its threads together; others' load hardly moves it.
    :param steps: environment steps, or gradient steps.
    """

    wall: float
    cpu: float
    steps: int


class Measure(NamedTuple):
    """What a ratio is a ratio of.

    :param unit: for people.
    :param of: the figure, from seconds and steps.
    :param form: how the figure is written.
    """

    unit: str
    of: Callable[[float, int], float]
    form: str


#: Lower is better; and higher is better.
SECONDS = Measure("s", lambda seconds, steps: seconds, ".2f")
RATE = Measure("steps/s", lambda seconds, steps: steps / seconds, ",.0f")


class Pair(NamedTuple):
    """Two runs, one right after the other; ratios are over / under.

    :param number: from 0.
    :param first: name of the side that ran first.
    :param measure: what the ratios are of.
    """

    number: int
    first: str
    over: Timing
    under: Timing
    measure: Measure = SECONDS

    @property
    def wall(self) -> tuple[float, float]:
        """What the clock said of both sides, in the measure's unit."""
        return self.measure.of(self.over.wall, self.over.steps), self.measure.of(self.under.wall, self.under.steps)

    @property
    def cpu(self) -> tuple[float, float]:
        """What the processor time said of both sides, in the measure's unit."""
        return self.measure.of(self.over.cpu, self.over.steps), self.measure.of(self.under.cpu, self.under.steps)

    @property
    def wall_ratio(self) -> float:
        """Ratio by the clock."""
        return self.wall[0] / self.wall[1]

    @property
    def cpu_ratio(self) -> float:
        """Ratio by the processor time."""
        return self.cpu[0] / self.cpu[1]


#: A name for people, and what does the work and times it.
Way = tuple[str, Callable[[], Timing]]


class Spread(NamedTuple):
    """The smallest, middle and largest of the ratios."""

    minimum: float
    median: float
    maximum: float


def interleave(
    over: Side, under: Side, pairs: int, announce: Callable[[Pair], None], measure: Measure = SECONDS
) -> list[Pair]:
    """Time both sides ``pairs`` times in turn; the side that goes first alternates.

    :param announce: is handed each pair when it is done.
    :param measure: what the ratios are to be of.
    """
    done = []
    for number in range(pairs):
        way, other = ((side.name, partial(time_once, side, number)) for side in (over, under))
        done.append(time_pair(number, way, other, measure))
        announce(done[-1])
    return done


def time_pair(number: int, over: Way, under: Way, measure: Measure) -> Pair:
    """Time two ways, one right after the other; the one that goes first alternates.

    :param number: of the pair, from 0.
    """
    if number % 2 == 0:
        first, second = over[1](), under[1]()
        return Pair(number, over[0], first, second, measure)
    first, second = under[1](), over[1]()
    return Pair(number, under[0], second, first, measure)


def time_once(side: Side, number: int) -> Timing:
    """Prepare fresh work, and time it."""
    work = side.prepare(number)
    try:
        gc.collect()  # the garbage of the run before is not this one's work
        wall, cpu = time.perf_counter(), time.process_time()
        done = work.run()
        if isinstance(done, Timing):
            return done
        return Timing(time.perf_counter() - wall, time.process_time() - cpu, done)
    finally:
        work.close()


def spread(ratios: list[float]) -> Spread:
    """Return smallest, median and largest."""
    return Spread(min(ratios), statistics.median(ratios), max(ratios))


def pair_line(pair: Pair) -> str:
    """Return a line about one pair."""
    form, unit = pair.measure.form, pair.measure.unit
    wall, cpu = (f"{over:{form}} / {under:{form}} {unit}" for over, under in (pair.wall, pair.cpu))
    return (
        f"  pair {pair.number + 1}, {pair.first} first: {wall} = {pair.wall_ratio:.3f}, "
        f"CPU {cpu} = {pair.cpu_ratio:.3f}"
    )


def spread_table(title: str, pairs: list[Pair]) -> str:
    """Return the table of the ratios' spread."""
    rows = [
        [name, *(f"{ratio:.3f}" for ratio in spread(ratios))]
        for name, ratios in (
            ("wall-clock", [pair.wall_ratio for pair in pairs]),
            ("CPU time", [pair.cpu_ratio for pair in pairs]),
        )
    ]
    return table((title, "min", "median", "max"), rows)


def to_dict(over: Side, under: Side, pairs: list[Pair]) -> dict[str, Any]:
    """Return all pairs and the ratios' spread as plain data."""
    return {
        "ratio": f"{over.name} / {under.name}",
        "unit": pairs[0].measure.unit,
        "wall_ratio": spread([pair.wall_ratio for pair in pairs])._asdict(),
        "cpu_ratio": spread([pair.cpu_ratio for pair in pairs])._asdict(),
        "pairs": [
            {
                "first": pair.first,
                over.name: pair.over._asdict(),
                under.name: pair.under._asdict(),
                "wall_ratio": pair.wall_ratio,
                "cpu_ratio": pair.cpu_ratio,
            }
            for pair in pairs
        ],
    }
