"""How well an agent does at present, judged by the episodes it trains on, with exploration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm

#: Enough episodes to tell something, and few enough to tell it in time: a mean over many lags behind the policy.
EPISODES = 20
#: Fewer do not tell how far chance carries their mean: they may be alike by chance, and a single one always is.
FEWEST = 5


class SmoothedReturn(NamedTuple):
    """The mean return of the latest training episodes, and the standard error of that mean, infinite if unknown."""

    mean: float
    error: float


def smoothed_return(agent: BaseAlgorithm) -> SmoothedReturn | None:
    """Return how the latest 20 training episodes went, None before as many have ended.

    Of as many as SB3 keeps, where its ``stats_window_size`` is less.
    """
    returns = [float(episode["r"]) for episode in agent.ep_info_buffer or ()]
    n = min(EPISODES, agent._stats_window_size)
    if len(returns) < n:
        return None
    found = mean_and_error(returns[-n:])
    return found if n >= FEWEST else found._replace(error=math.inf)


def mean_and_error(returns: Sequence[float]) -> SmoothedReturn:
    """Return the mean of some returns, two at least, and the standard error of that mean."""
    n = len(returns)
    mean = sum(returns) / n
    variance = sum((value - mean) ** 2 for value in returns) / max(n - 1, 1)
    return SmoothedReturn(mean, math.sqrt(variance / n))


class Ended:
    """The training episodes that end, each once, as far as SB3 still has them."""

    def __init__(self) -> None:
        self._latest: Any = None  # of those seen: SB3's own dict, known again by its identity

    def skip(self, agent: BaseAlgorithm) -> None:
        """Take all that have ended by now as seen."""
        self._latest = agent.ep_info_buffer[-1] if agent.ep_info_buffer else None

    def returns(self, agent: BaseAlgorithm) -> list[float]:
        """Return the returns of those that ended since the last look, in order."""
        new: list[float] = []
        for episode in reversed(agent.ep_info_buffer or ()):
            if episode is self._latest:
                break
            new.append(float(episode["r"]))
        self.skip(agent)
        return new[::-1]
