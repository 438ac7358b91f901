"""Betting against chance: a stake on ranks that are uniform while nothing changes, whatever the moment of a change.

What a stake of 1 has become is a martingale while ranks are independent and uniform: by Ville's inequality it ever
reaches ``c`` with a probability of at most ``1 / c``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

#: Exponents of the bets ``k p^(k - 1)``: small ones win much on clear changes, large ones on faint.
EXPONENTS = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9])
#: Bets that all since a moment rank before all others lie in the first so many times their share of ranks.
SPANS = np.array([1.0, 2.0])
#: What of these bets is kept back at each rank, so that one that is wrong costs no more than the rest.
KEPT = 0.1
#: The latest moments at which such bets begin.
MOMENTS = 128
#: The first so many times their share of ranks, of all since each of these moments.
_FIRST = np.arange(MOMENTS, 0, -1)[:, None] * SPANS


class Bets:
    """The stake as it stands. A part of it is put on a change just before each rank; all parts together are 1."""

    def __init__(self) -> None:
        #: Ranks seen.
        self.count = 0
        self._powers = np.zeros(len(EXPONENTS))
        self._spans = np.zeros((0, len(SPANS)))  # from each of the latest moments on
        #: The latest ranks, and the number that was given with each.
        self.ranks, self.numbers = np.zeros(0), np.zeros(0, np.int64)

    @property
    def wealth(self) -> float:
        """What a stake of 1 has become. While nothing changes it is 1 on average, or less, whenever one looks."""
        return float(self._powers.sum() + self._spans.sum()) + _kept_back(self.count)

    def add(self, rank: float, among: int, number: int) -> None:
        """Bet on a rank, and pay out.

        :param rank: in 0..1, uniform while nothing changes.
        :param among: how many there are, this one included.
        :param number: by which the rank is known afterwards.
        """
        self.count += 1
        part = (_kept_back(self.count - 1) - _kept_back(self.count)) / 2
        self._powers = (self._powers + part / len(EXPONENTS)) * EXPONENTS * rank ** (EXPONENTS - 1.0)
        begun = np.full((1, len(SPANS)), part / len(SPANS))
        self._spans = np.concatenate([self._spans[1 - MOMENTS :], begun])
        first = np.minimum(_FIRST[-len(self._spans) :] / among, 1.0)
        self._spans *= KEPT + (1.0 - KEPT) * (rank < first) / first
        self.ranks = np.concatenate([self.ranks[1 - 2 * MOMENTS :], (rank,)])
        self.numbers = np.concatenate([self.numbers[1 - 2 * MOMENTS :], (number,)])

    def moment(self) -> int:
        """Return the number of the rank from which on most was won."""
        gains = np.log(0.35 * self.ranks**-0.65)
        return int(self.numbers[np.argmax(np.cumsum(gains[::-1])[::-1])])

    def likelihoods(self) -> np.ndarray:
        """Return how much likelier the ranks from each on are under the best bet than by chance, in logarithms."""
        surprise, n = -np.log(self.ranks[::-1]), np.arange(1, len(self.ranks) + 1)
        mean = np.maximum(np.cumsum(surprise) / n, 1.0)
        return np.asarray((n * (mean - 1.0 - np.log(mean)))[::-1])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name."""
        return {"powers": self._powers, "spans": self._spans, "ranks": self.ranks, "numbers": self.numbers}

    def load(self, arrays: Mapping[str, np.ndarray], count: Any) -> None:
        """Load what :meth:`arrays` returned, and :attr:`count`."""
        self._powers, self._spans = arrays["powers"], arrays["spans"]
        self.ranks, self.numbers = arrays["ranks"], arrays["numbers"]
        self.count = int(count)


def _kept_back(count: int) -> float:
    """Return the part of the stake that waits for later moments: it falls to nothing, but slowly."""
    return 1.0 / math.log2(2.0 + count / 16.0)
