"""How well an agent does at present, judged by the episodes it trains on."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm


def smoothed_return(agent: BaseAlgorithm) -> float | None:
    """Return the mean return of the latest training episodes, None before any has ended.

    These are the episodes that ``Monitor`` remembers, ``stats_window_size`` of them (100 by default), with exploration.
    """
    returns = [episode["r"] for episode in agent.ep_info_buffer or ()]
    return float(sum(returns) / len(returns)) if returns else None
