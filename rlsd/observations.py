"""Batches of observations: one tensor, or a dict of tensors where the space is a Dict.

States are kept *raw*, as the environment gave them. Under ``VecNormalize`` the statistics move on with training, so an
observation that was normalised last week means something else today; a raw one can be shown to the student through
today's statistics and to a teacher through those of the day it was frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

Observations = Tensor | dict[str, Tensor]
_PLAIN = "@observation"  # the key under which an observation that is no dict travels
_LARGEST = np.finfo(np.float32).max  # floats are kept in 32 bits, where anything larger would be infinite
# torch can carry these about, but neither write some rows of them nor compute with them and floats.
_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def as_items(observations: Any) -> dict[str, Any]:
    """Return the observations as a dict, whether or not their space is one."""
    return dict(observations) if isinstance(observations, Mapping) else {_PLAIN: observations}


def from_items(items: Mapping[str, Tensor]) -> Observations:
    """Undo :func:`as_items`."""
    return items[_PLAIN] if items.keys() == {_PLAIN} else dict(items)


def split_context(states: Observations) -> tuple[Observations, dict[str, Tensor]]:
    """Separate states into the observations and what else decided the action: masks, a recurrent memory."""
    if isinstance(states, Tensor):
        return states, {}
    context = {key: value for key, value in states.items() if key.startswith("@") and key != _PLAIN}
    return from_items({key: value for key, value in states.items() if key not in context}), context


def storage_dtype(array: np.ndarray) -> torch.dtype:
    """Return the dtype in which observations like ``array`` are kept: their own, but floats always in 32 bits.

    Whole numbers without a sign that take more than 8 bits are kept with one, in 32 or 64.
    """
    kind = array.dtype.type
    if issubclass(kind, np.floating):
        return torch.float32
    own = torch.from_numpy(np.empty(0, kind)).dtype
    return _SIGNED.get(own, own)


def finite_rows(observations: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return which rows are finite throughout as they are kept, None when all are."""
    masks = [
        (np.abs(array) <= _LARGEST).reshape(len(array), -1).all(axis=1)
        for array in observations.values()
        if np.issubdtype(array.dtype, np.floating)
    ]
    if not masks or all(mask.all() for mask in masks):
        return None
    return np.asarray(np.all(masks, axis=0))


class Normalization:
    """Frozen ``VecNormalize`` statistics, on the agent's device.

    :param statistics: mean and standard deviation of each normalised observation key.
    :param clip: normalised values are clipped to ``[-clip, clip]``.
    """

    def __init__(self, statistics: dict[str, tuple[Tensor, Tensor]], clip: float) -> None:
        self.statistics = statistics
        self.clip = clip

    @classmethod
    def of(cls, agent: BaseAlgorithm) -> Normalization | None:
        """Copy the present statistics of the agent's environment; None when it does not normalise observations."""
        env = normalizing_env(agent)
        if env is None:
            return None
        statistics = {
            key: (
                torch.as_tensor(rms.mean, dtype=torch.float32, device=agent.device).clone(),
                torch.as_tensor(np.sqrt(rms.var + env.epsilon), dtype=torch.float32, device=agent.device),
            )
            for key, rms in as_items(env.obs_rms).items()
        }
        return cls(statistics, float(env.clip_obs))

    def __call__(self, observations: Observations) -> Observations:
        """Return raw observations as the policy is to see them, ``(x - mean) / std``, clipped."""
        items = as_items(observations)
        for key, (mean, std) in self.statistics.items():
            items[key] = ((items[key] - mean) / std).clamp_(-self.clip, self.clip)
        return from_items(items)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is needed to build this object again, as tensors by name."""
        out = {"clip": torch.tensor(self.clip, dtype=torch.float64)}
        for key, (mean, std) in self.statistics.items():
            out[f"mean/{key}"], out[f"std/{key}"] = mean, std
        return out

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Normalization:
        """Undo :meth:`tensors`."""
        keys = [name.removeprefix("mean/") for name in tensors if name.startswith("mean/")]
        statistics = {key: (tensors[f"mean/{key}"].to(device), tensors[f"std/{key}"].to(device)) for key in keys}
        return cls(statistics, float(tensors["clip"]))


def normalizing_env(agent: BaseAlgorithm) -> VecNormalize | None:
    """Return the agent's ``VecNormalize`` when it normalises observations, else None."""
    env = agent.get_vec_normalize_env()
    return env if env is not None and env.norm_obs else None
