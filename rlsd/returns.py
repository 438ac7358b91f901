"""How well an agent does at present, judged by the episodes it trains on, with exploration."""

from __future__ import annotations

import math
from typing import NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm

#: Enough episodes to tell something, and few enough to tell it in time: a mean over many lags behind the policy.
EPISODES = 20


class SmoothedReturn(NamedTuple):
    """The mean return of the latest training episodes, and the standard error of that mean."""

    mean: float
    error: float


def smoothed_return(agent: BaseAlgorithm) -> SmoothedReturn | None:
    """Return how the latest 20 training episodes went, None before as many have ended."""
    returns = [float(episode["r"]) for episode in agent.ep_info_buffer or ()]
    n = min(EPISODES, agent._stats_window_size)
    if len(returns) < n:
        return None
    latest = returns[-n:]
    mean = sum(latest) / n
    variance = sum((value - mean) ** 2 for value in latest) / max(n - 1, 1)
    return SmoothedReturn(mean, math.sqrt(variance / n))
