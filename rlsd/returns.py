"""How well an agent does at present, judged by the episodes it trains on."""

from __future__ import annotations

import math
from typing import NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm

#: Fewer episodes than these say nothing yet: the first few make a lucky agent its own best.
FEWEST_EPISODES = 20


class SmoothedReturn(NamedTuple):
    """The mean return of the latest training episodes, and the standard error of that mean."""

    mean: float
    error: float


def smoothed_return(agent: BaseAlgorithm) -> SmoothedReturn | None:
    """Return how the latest training episodes went, with exploration; None before enough have ended.

    These are the episodes that ``Monitor`` remembers, ``stats_window_size`` of them (100 by default).
    """
    returns = [float(episode["r"]) for episode in agent.ep_info_buffer or ()]
    n = len(returns)
    if n < min(FEWEST_EPISODES, agent._stats_window_size):
        return None
    mean = sum(returns) / n
    variance = sum((value - mean) ** 2 for value in returns) / max(n - 1, 1)
    return SmoothedReturn(mean, math.sqrt(variance / n))
