"""What a handful of seeds can tell, after Agarwal et al. (2021), "Deep RL at the Edge of the Statistical Precipice".

Few runs scatter widely, so every figure comes with the interval that a stratified bootstrap gives it. All functions
look along the last axis, so that thousands of resamples are one call. The few formulas are ours:
``rlsd compare`` needs no scipy. The tests hold each equal to scipy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Resamples that are in memory at once.
_BLOCK = 500


def interquartile_mean(values: ArrayLike) -> Floats:
    """Return the mean of the middle half, shape ``(..., n)`` to ``(...)``: a quarter is cut off at either end.

    It is hardly moved by an outlier, as the median, and uses twice as many of the values. Below four values nothing
    is cut, and it is the mean.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def probability_of_improvement(ours: ArrayLike, theirs: ArrayLike) -> Floats:
    """Return how likely one of ours, drawn at random, is higher than one of theirs; a draw counts half.

    Shapes ``(..., n)`` and ``(..., m)`` to ``(...)``. It is the Mann-Whitney U over ``n * m``, and needs no common
    scale: returns of different environments can be averaged in it.
    """
    x = np.asarray(ours, dtype=np.float64)[..., :, None]
    y = np.asarray(theirs, dtype=np.float64)[..., None, :]
    return np.asarray(((x > y) + 0.5 * (x == y)).mean(axis=(-2, -1)))


def mean_probability_of_improvement(samples: Sequence[ArrayLike]) -> Floats:
    """Return the mean over environments, with ``samples`` = ours, theirs, ours, theirs ... of one each."""
    pairs = zip(samples[::2], samples[1::2], strict=True)
    return np.asarray(np.mean([probability_of_improvement(x, y) for x, y in pairs], axis=0))


def mean_of_one(samples: Sequence[ArrayLike]) -> Floats:
    """Return the mean of a single sample, shape ``(..., n)`` to ``(...)``."""
    return np.asarray(np.asarray(samples[0], dtype=np.float64).mean(axis=-1))


def bootstrap_interval(
    statistic: Callable[[Sequence[Floats]], Floats],
    samples: Sequence[ArrayLike],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a figure, stratified: every sample is redrawn from itself alone.

    :param statistic: from the redrawn samples, shape ``(resamples, n)`` each, to ``(resamples,)``.
    :param samples: the values of each stratum, such as one method's seeds on one environment.
    :param confidence: the share of resampled figures inside the interval.
    :param resamples: usual range 2,000 to 50,000. Raising it steadies the interval's ends.
    :param seed: of the drawing: the same figures get the same interval.
    """
    generator = np.random.default_rng(seed)
    strata = [np.asarray(sample, dtype=np.float64) for sample in samples]
    drawn = []
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        redrawn = [stratum[generator.integers(len(stratum), size=(count, len(stratum)))] for stratum in strata]
        drawn.append(statistic(redrawn))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return float(low), float(high)
