"""Do episodes still begin as they did? Two sequential tests with a bound on false alarms over a run of any length.

One asks how *odd* a start is: how thinly others lie around it. It learns nothing, so that it is quick where a start is
unlike any before. The other asks how *new* it is: how much more like the latest starts than like older ones. Every
second start trains that score, and the others are tested by it: it also sees starts that lie among those of before.

In both a start is ranked among those that were tested before. While starts are exchangeable its rank is uniform, and
independent of all ranks before, whatever the score: the tests bet against that (:mod:`rlsd.betting`), and raise an
alarm once one would have won ``2 / level`` times its stake. See docs/change.md for the proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rlsd.betting import Bets

#: Latest starts that train the score, and older ones, at most: a random part of them.
LATEST, OLDER = 32, 96
#: Starts among which another is ranked, at most. One more leaves a random one out, so that a change of starts that
#: takes many times as many episodes is never seen.
RANKED = 256
#: The first starts, which only tell the scale of each number.
SCALE = 8
#: Starts scored before the score is brought up to date.
CHUNK = 8
#: Starts that are remembered in order, to tell afterwards when they changed.
ORDERED = 256
#: Standardised starts are clipped here: for the score, which is to bear outliers, and to tell how odd one is.
LARGEST, FARTHEST = 10.0, 1000.0
#: Weight of the guess that scores tell nothing, in starts.
PRIOR = 0.1


class Alarm(NamedTuple):
    """What an alarm says.

    :param step: of the start at which it was raised.
    :param since: the step of the first start of another kind, as it is estimated.
    :param latest: the starts from that one on, ``(n, size)``.
    :param wealth: of the better test.
    :param limit: what it went past.
    """

    step: int
    since: int
    latest: np.ndarray
    wealth: float
    limit: float


@dataclass(frozen=True)
class ChangeEvent:
    """A change of the task, as a callback's ``on_change(agent, event)`` is told of it (:class:`rlsd.DistillCallback`).

    :param step: the agent's environment steps when it was noticed.
    :param since: when it was, as it is estimated, in environment steps.
    :param kind: ``"change"`` to a task that was not met before, or ``"return"`` to one that was.
    :param statistic: what a stake of 1 became by betting that episodes begin otherwise.
    :param bound: what it went past: the larger, the less often an alarm is false.
    """

    step: int
    since: int
    kind: str
    statistic: float
    bound: float

    def __str__(self) -> str:
        what = {"change": "the task changed", "return": "a task that is known came back"}[self.kind]
        return f"{what} at about step {self.since:,} (evidence {self.statistic:.3g}, bound {self.bound:.3g})"


class ChangeTest:
    """The tests, as they stand.

    :param generator: breaks ties, and draws what is left out.
    :param level: the largest probability of any false alarm over a run of any length. The k-th alarm is given
        ``level / (k (k + 1))`` of it, half to either test.
    """

    def __init__(self, generator: np.random.Generator, level: float) -> None:
        self._generator = generator
        self.level = level
        #: Alarms raised, and starts seen.
        self.alarms = self.count = 0
        #: The latest starts of all, in order, and the step of each.
        self._ordered, self._steps = _none(), np.zeros(0, np.int64)
        #: Those that train the score of how new one is.
        self._latest, self._older = _none(), _none()
        self._begin()

    def _begin(self) -> None:
        """Bet anew, with none but the starts to come: those of before may be of another kind."""
        self.odd, self.new = Bets(), Bets()
        self._scale, self._among, self._near = _none(), _none(), np.zeros(0)
        self._ranked = _none()
        self._unit: tuple[np.ndarray, np.ndarray] | None = None  # mean and deviation of those that tell the scale

    @property
    def wealth(self) -> float:
        """What a stake of 1 has become in the better test."""
        return max(self.odd.wealth, self.new.wealth)

    @property
    def limit(self) -> float:
        """The wealth at which an alarm is raised."""
        return 2 * (self.alarms + 1) * (self.alarms + 2) / self.level

    @property
    def evidence(self) -> float:
        """How far wealth has come on the way to its limit, in logarithms: 0 to 1."""
        return max(math.log(self.wealth), 0.0) / math.log(self.limit)

    def observe(self, starts: np.ndarray, steps: np.ndarray) -> list[Alarm]:
        """Record some starts, in the order in which their episodes began, and return the alarms they raise.

        :param starts: ``(n, size)``.
        :param steps: when each began, ``(n,)``, rising.
        """
        pieces = range(CHUNK, len(starts), CHUNK)
        chunks = zip(np.split(starts, pieces), np.split(steps, pieces), strict=True)
        return [alarm for some, when in chunks for alarm in self._observe(some, when)]

    def _observe(self, starts: np.ndarray, steps: np.ndarray) -> list[Alarm]:
        testing = (self.count + np.arange(len(starts))) % 2 == 1
        scored = np.zeros(0)
        if testing.any():
            scored = self._scored(np.concatenate([self._ranked.reshape(-1, starts.shape[1]), starts[testing]]))
        ranked, scores = scored[: len(self._ranked)], iter(scored[len(self._ranked) :])
        alarms = []
        for row, start in enumerate(starts):
            self._ordered = _appended(self._ordered, start, ORDERED)
            self._steps = np.append(self._steps, steps[row])[-ORDERED:]
            self.count += 1
            self._rank_oddness(start)
            if testing[row]:
                score = next(scores)
                self._bet(self.new, ranked > score, ranked == score)
                left = self._left_out(self._ranked)
                if left is None:
                    self._ranked, ranked = _appended(self._ranked, start), np.append(ranked, score)
                elif left < RANKED:
                    self._ranked[left], ranked[left] = start, score
            if self.wealth >= self.limit:
                alarms.append(self._alarm())
                ranked = np.zeros(0)
        for start in starts[~testing]:
            self._learn(start)
        return alarms

    def _bet(self, bets: Bets, before: np.ndarray, equal: np.ndarray) -> None:
        """Bet on the rank of a start.

        :param before: which of the others rank before it.
        :param equal: which rank alike: ties are broken by chance.
        """
        ties = 1 + int(equal.sum())
        rank = (int(before.sum()) + self._generator.random() * ties) / (len(before) + 1)
        bets.add(max(rank, 1e-12), len(before) + 1, self.count)

    def _left_out(self, others: np.ndarray) -> int | None:
        """Return which is left out of some others and one more, that one being the last; None while there is room."""
        return None if len(others) < RANKED else int(self._generator.integers(RANKED + 1))

    def _rank_oddness(self, start: np.ndarray) -> None:
        """Rank a start by how thinly others lie around it, the thinnest first."""
        if len(self._scale) < SCALE:
            self._scale = _appended(self._scale, start)
            return
        if self._unit is None:
            self._unit = _scale_of(self._scale)
        mean, std = self._unit
        start = np.clip((start - mean) / std, -FARTHEST, FARTHEST)
        kernels = _kernels(start, self._among)
        near, own = self._near + kernels, kernels.sum()
        # Rounded, or sums that are equal would be told apart by the order in which they were added up.
        others, rounded = near.round(8), own.round(8)
        self._bet(self.odd, others < rounded, others == rounded)
        left = self._left_out(self._among)
        if left is None:
            self._among, self._near = _appended(self._among, start), np.append(near, own)
        elif left < RANKED:
            gone = self._among[left].copy()
            self._among[left], near[left] = start, own
            self._near = near - _kernels(gone, self._among)

    def _scored(self, starts: np.ndarray) -> np.ndarray:
        """Return how much more like the latest starts than like the older ones some are; at first zeros."""
        if len(self._latest) < 2 or len(self._older) < 4 or not len(starts):
            return np.zeros(len(starts))
        return score(starts, self._latest, self._older)

    def _learn(self, start: np.ndarray) -> None:
        """Let a start train the score of how new one is."""
        self._latest = _appended(self._latest, start)
        if len(self._latest) <= min(LATEST, max(4, len(self._older) // 2)):
            return
        oldest, self._latest = self._latest[0], self._latest[1:]
        if len(self._older) < OLDER:
            self._older = _appended(self._older, oldest)
        else:
            self._older[self._generator.integers(OLDER)] = oldest

    def _alarm(self) -> Alarm:
        first = self._first_of_its_kind()
        latest = self._ordered[first:].copy()
        found = Alarm(int(self._steps[-1]), int(self._steps[first]), latest, self.wealth, self.limit)
        self.alarms += 1
        self._ordered, self._steps = found.latest, self._steps[first:]
        self._older, self._latest = found.latest[-OLDER:], found.latest[:0]
        self._begin()
        return found

    def _first_of_its_kind(self) -> int:
        """Return which of the starts in order is the first of the new kind.

        First the one from which on the bets won most. Then, some times over, the one at which the logarithms of two
        likelihood ratios add up to most: that of the ranks from it on, and that of the starts themselves.
        """
        bets = max((self.odd, self.new), key=lambda bets: bets.wealth)
        n = len(self._ordered)
        rows = n - 1 - (self.count - bets.numbers)
        by_ranks = np.append(bets.likelihoods(), 0.0)[np.searchsorted(rows, np.arange(n))]
        first = min(max(n - 1 - int(self.count - bets.moment()), 1), n - 2)
        for _ in range(3):
            # Those shortly before may be of the new kind: the score had to learn it.
            before = first - (n - first) if first - (n - first) >= 8 else first
            by_starts = np.cumsum(_log_ratios(self._ordered, first, before)[::-1])[::-1]
            found = min(max(int(np.argmax(by_ranks + by_starts)), 1), n - 2)
            if found == first:
                break
            first = found
        return first

    def arrays(self) -> dict[str, np.ndarray]:
        """Return every array of the tests, by name."""
        own = {name: getattr(self, f"_{name}") for name in _ARRAYS}
        bets = {"odd": self.odd, "new": self.new}
        return own | {f"{test}/{name}": a for test, made in bets.items() for name, a in made.arrays().items()}

    def state(self) -> dict[str, Any]:
        """Return the rest as plain data. The generator is not the test's own."""
        return {"alarms": self.alarms, "count": self.count, "odd": self.odd.count, "new": self.new.count}

    def load(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Load what :meth:`arrays` and :meth:`state` returned."""
        for name in _ARRAYS:
            setattr(self, f"_{name}", arrays[name])
        self._unit = None
        self.alarms, self.count = int(state["alarms"]), int(state["count"])
        for test, bets in (("odd", self.odd), ("new", self.new)):
            mine = {name.removeprefix(f"{test}/"): a for name, a in arrays.items() if name.startswith(f"{test}/")}
            bets.load(mine, state[test])


_ARRAYS = ("ordered", "steps", "latest", "older", "scale", "among", "near", "ranked")


def _scale_of(starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each number, of those that never change next to nothing."""
    mean, std = starts.mean(0), starts.std(0)
    return mean, np.maximum(std, 1e-6 * (1.0 + np.abs(mean)))


def score(starts: np.ndarray, latest: np.ndarray, older: np.ndarray) -> np.ndarray:
    """Return how much more like the latest starts than like the older ones some are, ``(n,)``.

    The logarithm of a ratio of densities, by kernels with heavy tails, which see any difference, and that of a
    linear discriminant, which sees a shift sooner.
    """
    both = np.concatenate([latest, older])
    mean, std = _scale_of(both)
    starts, latest, older = (np.clip((some - mean) / std, -LARGEST, LARGEST) for some in (starts, latest, older))
    shift = latest.mean(0) - older.mean(0)
    spread = (latest - latest.mean(0)).T @ (latest - latest.mean(0))
    spread += (older - older.mean(0)).T @ (older - older.mean(0))
    linear = starts @ np.linalg.solve(spread / len(both) + 0.1 * np.eye(len(mean)), shift)
    return np.asarray(linear + _density(starts, latest) - _density(starts, older))


def _density(starts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the logarithm of how densely others lie around some starts."""
    far = starts @ (-2.0 * others.T)
    far += (starts**2).sum(1)[:, None] + (others**2).sum(1)
    near = 1.0 / (np.maximum(far, 0.0) / starts.shape[1] + 0.1)
    return np.asarray(np.log((near * near * near).mean(1)))


def _kernels(start: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how near each of some others lies to a start, exactly alike where they are."""
    apart = others.reshape(-1, len(start)) - start
    far = np.einsum("ij,ij->i", apart, apart, dtype=np.float64) / len(start)
    # Wide, so that within one kind all are about as near: a few of another kind count as odd, wherever they lie in it.
    return np.asarray(1.0 / (far + 0.5))


def _log_ratios(ordered: np.ndarray, first: int, before: int) -> np.ndarray:
    """Return how much likelier each start is among those from ``first`` on than among those up to ``before``.

    In logarithms, clipped. None is compared with itself.
    """
    new, old = ordered[first:], ordered[:before]
    scores = np.array(
        [
            score(
                ordered[row : row + 1],
                np.delete(new, row - first, 0) if row >= first and len(new) > 2 else new,
                np.delete(old, row, 0) if row < before and len(old) > 2 else old,
            )[0]
            for row in range(len(ordered))
        ]
    )
    return np.asarray(np.clip(calibrated(scores, scores[first:], scores[:before]), -3.0, 3.0))


def calibrated(scores: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return scores as logarithms of likelihood ratios of two kinds, by logistic regression: 0 where they tell nothing.

    :param scores: those to convert.
    :param new: scores of one kind, which were not made to be told apart; both kinds count alike.
    :param old: those of the other.
    """
    both = np.concatenate([new, old])
    middle, spread = (new.mean() + old.mean()) / 2, both.std() + 1e-3
    scores, z = (np.clip((some - middle) / spread, -LARGEST, LARGEST) for some in (scores, both))
    labels = np.arange(len(z)) < len(new)
    weights = np.where(labels, 1 / len(new), 1 / len(old)) * len(z) / 2
    design, found = np.stack([z, np.ones(len(z))], 1), np.zeros(2)
    for _ in range(20):
        chance = 1.0 / (1.0 + np.exp(-np.clip(design @ found, -30.0, 30.0)))
        slope = design.T @ (weights * (chance - labels)) + PRIOR * found
        curve = (design * (weights * chance * (1.0 - chance))[:, None]).T @ design + PRIOR * np.eye(2)
        step = np.linalg.solve(curve, slope)
        found -= step / max(np.abs(step).max(), 1.0)  # a whole step may be too far where the kinds lie well apart
    return np.asarray(max(found[0], 0.0) * scores + found[1])


def _none() -> np.ndarray:
    return np.zeros((0, 0), np.float32)


def _appended(rows: np.ndarray, row: np.ndarray, most: int | None = None) -> np.ndarray:
    """Return rows with one more at the end, and no more than ``most``: the first go."""
    joined = np.concatenate([rows.reshape(-1, len(row)), row[None]])
    return joined if most is None else joined[-most:]
