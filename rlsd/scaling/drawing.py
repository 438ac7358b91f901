"""Random numbers of each environment's own, and policies that draw their actions by them.

An environment's numbers follow from the run's key, the environment's place and the rollout alone. So they are the same
on whichever worker it lives, there is no generator whose state would have to be kept, and a worker that is started anew
draws what the lost one would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

#: SB3's and sb3-contrib's distributions whose samples are made here, by name: contrib may be missing.
_CHOICES = ("CategoricalDistribution", "MultiCategoricalDistribution")
_MASKED = tuple(f"Maskable{name}" for name in (*_CHOICES, "BernoulliDistribution"))
_GAUSSIANS = ("DiagGaussianDistribution", "SquashedDiagGaussianDistribution")
_HOMES = ("stable_baselines3.common.distributions", "sb3_contrib.common.maskable.distributions")
_STREAM = 0x5CA1E


@dataclass(frozen=True)
class Numbers:
    """Random numbers for one fragment, ``(steps, n_envs, width)``.

    :param drawn: for the policy's own samples: normal ones where it is continuous, else from ``[0, 1)``.
    :param uniform: from ``[0, 1)``, for random actions; the last column decides whether there is one.
    :param noise: normal ones, for an algorithm's action noise.
    """

    drawn: np.ndarray
    uniform: np.ndarray | None = None
    noise: np.ndarray | None = None


def width(space: spaces.Space[Any]) -> int:
    """Return how many numbers an action takes.

    :raises ValueError: when the space is none that SB3's policies act in.
    """
    if isinstance(space, spaces.Discrete):
        return 1
    if isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        return math.prod(space.shape)
    raise ValueError(f"workers cannot draw actions in a {type(space).__name__} space")


def numbers(
    key: int, environments: range, rollout: int, steps: int, space: spaces.Space[Any], explores: bool
) -> Numbers:
    """Draw the numbers of some environments for one rollout.

    :param key: of the run.
    :param environments: their places among all of the run.
    :param explores: whether random actions and noise come on top of the policy's samples.
    """
    wide = width(space)
    drawn, uniform, noise = [], [], []
    for environment in environments:
        generator = np.random.default_rng([_STREAM, key, environment, rollout])
        shape = (steps, wide)
        normal = isinstance(space, spaces.Box)
        # Of 24 bits, so that no product with a sum of probabilities rounds up to that sum.
        drawn.append(generator.standard_normal(shape, np.float32) if normal else generator.random(shape, np.float32))
        if explores:
            uniform.append(generator.random((steps, wide + 1), np.float32))
            noise.append(generator.standard_normal(shape, np.float32))
    if not explores:
        return Numbers(np.stack(drawn, axis=1))
    return Numbers(np.stack(drawn, axis=1), np.stack(uniform, axis=1), np.stack(noise, axis=1))


def random_actions(space: spaces.Space[Any], uniform: np.ndarray) -> np.ndarray:
    """Return actions from all over the space, as its ``sample`` would give them.

    :param uniform: ``(n_envs, width)`` from ``[0, 1)``.
    """
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start + (uniform[:, 0] * space.n).astype(space.dtype), dtype=space.dtype)
    assert isinstance(space, spaces.Box)
    low, high = space.low.reshape(-1).astype(np.float64), space.high.reshape(-1).astype(np.float64)
    return (low + uniform * (high - low)).astype(space.dtype).reshape(-1, *space.shape)


def why_not(dist: Any) -> str:
    """Return why a policy's samples cannot be drawn by numbers that are handed to it; empty when they can."""
    kind = type(dist)
    known = (*_CHOICES, *_MASKED, *_GAUSSIANS, "BernoulliDistribution")
    if kind.__module__ in _HOMES and kind.__name__ in known:
        return ""
    if kind.__name__ == "StateDependentNoiseDistribution":
        return "gSDE keeps one noise for all environments: set use_sde=False"
    return f"nobody knows how a {kind.__name__} is drawn from: let the policy use one of SB3's distributions"


class Drawing:
    """Lets a policy draw its samples by the numbers that are put here before each call.

    :param dist: the policy's distribution object, of a copy of the policy that nobody else uses.
    """

    def __init__(self, dist: Any) -> None:
        self.numbers = torch.empty(0)
        self._dist = dist
        name = type(dist).__name__
        dist.sample = self._gaussian if name in _GAUSSIANS else self._binary if name[:4] == "Bern" else self._choices

    def _gaussian(self) -> Tensor:
        own = self._dist.distribution
        sample: Tensor = own.mean + own.stddev * self.numbers
        if type(self._dist).__name__ == "SquashedDiagGaussianDistribution":
            self._dist.gaussian_actions = sample
            return torch.tanh(sample)
        return sample

    def _binary(self) -> Tensor:
        probs: Tensor = self._dist.distribution.probs
        return (self.numbers < probs).to(probs.dtype)

    def _choices(self) -> Tensor:
        several = self._dist.distributions if hasattr(self._dist, "distributions") else self._dist.distribution
        if not isinstance(several, list):
            return _chosen(several.probs, self.numbers[:, :1])[:, 0]
        columns = self.numbers.split(1, dim=1)
        return torch.cat([_chosen(one.probs, column) for one, column in zip(several, columns, strict=True)], dim=1)


def _chosen(probs: Tensor, uniform: Tensor) -> Tensor:
    """Return the choice at which the sum of probabilities passes a share of the whole: never one of probability 0."""
    sums = probs.double().cumsum(dim=-1)
    return (sums <= uniform.double() * sums[:, -1:]).sum(dim=-1, keepdim=True)


def noise_of(action_noise: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what makes an algorithm's action noise from normal numbers, None where it has none.

    :raises ValueError: when it is of a kind that remembers, or one of the user's own.
    """
    if action_noise is None:
        return None
    inner = getattr(action_noise, "base_noise", action_noise)
    if type(inner).__name__ != "NormalActionNoise":
        raise ValueError(f"workers cannot draw {type(inner).__name__}: use NormalActionNoise, or none")
    mean, scale, dtype = inner._mu, inner._sigma, inner._dtype

    def noise(normal: np.ndarray) -> np.ndarray:
        return np.asarray(mean + scale * normal, dtype=dtype)

    return noise
