"""How does a penalty enter an algorithm? As a gradient, unless the algorithm has a file of its own here."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.algorithms.ars import RandomSearch
from rlsd.algorithms.base import Algorithm
from rlsd.algorithms.trpo import NaturalGradient

_ALGORITHMS: tuple[type[Algorithm], ...] = (NaturalGradient, RandomSearch, Algorithm)

__all__ = ["Algorithm", "NaturalGradient", "RandomSearch", "algorithm_of"]


def algorithm_of(algorithm: type[BaseAlgorithm]) -> type[Algorithm]:
    """Return how a penalty enters an algorithm."""
    return next(one for one in _ALGORITHMS if one.is_of(algorithm))
