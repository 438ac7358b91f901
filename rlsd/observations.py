"""Batches of observations: one tensor, or a dict of tensors where the space is a Dict.

States are kept *raw*, as the environment gave them. Under ``VecNormalize`` the statistics move on with training, so an
observation that was normalised last week means something else today; a raw one can be shown to the student through
today's statistics and to a teacher through those of the day it was frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecNormalize, VecTransposeImage
from torch import Tensor

Observations = Tensor | dict[str, Tensor]
T = TypeVar("T")


class Beside(str):
    """A key of ours among those of a user's Dict, equal to none of them whatever it is called."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Beside) and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


_PLAIN = Beside("@observation")  # the key under which an observation that is no dict travels
_BLOCK = 4 * 2**20  # bytes of states that are copied at a time
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
    context = {str(key): value for key, value in states.items() if isinstance(key, Beside) and key != _PLAIN}
    rest = {key: value for key, value in states.items() if not isinstance(key, Beside) or key == _PLAIN}
    return from_items(rest), context


def with_context(observations: Any, context: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`split_context`, and return the observations and the rest as one dict.

    :param context: by keys that begin with ``"@"``. A user's Dict may have the same keys: these are others.
    """
    return as_items(observations) | {Beside(key): value for key, value in context.items()}


def to_names(items: Mapping[str, T]) -> dict[str, T]:
    """Return states by key under names for a file: ours begin with one ``"@"``, a user's never do."""
    return {str(key) if isinstance(key, Beside) or key[:1] != "@" else f"@{key}": item for key, item in items.items()}


def from_names(named: Mapping[str, T]) -> dict[str, T]:
    """Undo :func:`to_names`."""
    return {
        name[1:] if name[:2] == "@@" else Beside(name) if name[:1] == "@" else name: item
        for name, item in named.items()
    }


def storage_dtype(array: np.ndarray) -> torch.dtype:
    """Return the dtype in which observations like ``array`` are kept: their own, but floats always in 32 bits.

    Whole numbers without a sign that take more than 8 bits are kept with one, in 32 or 64.
    """
    kind = array.dtype.type
    if issubclass(kind, np.floating):
        return torch.float32
    own = torch.from_numpy(np.empty(0, kind)).dtype
    return _SIGNED.get(own, own)


def as_array(values: Any) -> np.ndarray:
    """Return values as a numpy array on the host: a buffer of somebody's own may keep tensors, or read them anew."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray((values.float() if values.dtype == torch.bfloat16 else values).numpy())
    return np.asarray(values)


def blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Return slices of ``n`` rows, few enough at a time that a copy of them is small."""
    at_once = max(_BLOCK // max(row_bytes, 1), 1)
    return (slice(start, start + at_once) for start in range(0, n, at_once))


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros that take memory on the host as they are written to, which torch's own do at once."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def finite_rows(observations: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return which rows are finite throughout as they are kept, None when all are."""
    masks = []
    for array in observations.values():
        if np.issubdtype(array.dtype, np.floating):
            masks.append(np.ones(len(array), dtype=bool))
            for some in blocks(len(array), array[:1].nbytes):
                part = array[some]
                masks[-1][some] = (np.abs(part) <= _LARGEST).reshape(len(part), -1).all(axis=1)
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
            if mean.shape != items[key].shape[1:]:  # of one frame, and what is seen is a stack of them
                mean, std = (_repeated(one, tuple(items[key].shape[1:])) for one in (mean, std))
                self.statistics[key] = (mean, std)
            items[key] = ((items[key] - mean) / std).clamp_(-self.clip, self.clip)
        return from_items(items)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is needed to build this object again, as tensors by name."""
        out = {"clip": torch.tensor(self.clip, dtype=torch.float64)}
        for name, (mean, std) in to_names(self.statistics).items():
            out[f"mean/{name}"], out[f"std/{name}"] = mean, std
        return out

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Normalization:
        """Undo :meth:`tensors`."""
        names = [name.removeprefix("mean/") for name in tensors if name.startswith("mean/")]
        statistics = {name: (tensors[f"mean/{name}"].to(device), tensors[f"std/{name}"].to(device)) for name in names}
        return cls(from_names(statistics), float(tensors["clip"]))


def normalizing_env(agent: BaseAlgorithm) -> VecNormalize | None:
    """Return the agent's ``VecNormalize`` when it normalises what the policy sees, else None.

    None, too, where something around it changes observations in a way that is not known: states are then kept as the
    policy saw them, by the statistics of the time.
    """
    env = agent.get_vec_normalize_env()
    if env is None or not env.norm_obs:
        return None
    around = getattr(agent, "env", None)
    return None if around is not None and unknown_wrapper(around) is not None else env


def unknown_wrapper(env: VecEnv) -> VecEnvWrapper | None:
    """Return a wrapper around ``VecNormalize`` that changes observations in a way that is not known, None for none."""
    found, around = wrappers_around(env)
    if not isinstance(found, VecNormalize) or not found.norm_obs:
        return None
    known = (VecTransposeImage, VecFrameStack)
    return next(
        (w for w in around if not isinstance(w, known) and w.observation_space != w.venv.observation_space), None
    )


def wrappers_around(env: VecEnv) -> tuple[VecEnv, list[VecEnvWrapper]]:
    """Return ``VecNormalize``, or the environment below all wrappers, and what is around it, the innermost first."""
    around: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper) and not isinstance(env, VecNormalize):
        around.insert(0, env)
        env = env.venv
    return env, around


def raw_of(env: VecNormalize, key: str, seen: np.ndarray) -> np.ndarray:
    """Return normalised observations of a key mapped back, exactly but for rounding and for what was clipped.

    :param seen: ``(batch, *shape)``, of frames or of stacks of them.
    """
    statistics = as_items(env.obs_rms).get(key)
    if statistics is None:
        return seen.copy()
    mean = torch.as_tensor(statistics.mean)
    std = torch.as_tensor(np.sqrt(statistics.var + env.epsilon))
    mapped = seen * _repeated(std, seen.shape[1:]).numpy() + _repeated(mean, seen.shape[1:]).numpy()
    return np.asarray(mapped, dtype=np.float32)


def _repeated(statistic: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the statistic of a frame for a stack of frames of some shape."""
    for axis, (own, wanted) in enumerate(zip(statistic.shape, shape, strict=True)):
        if own != wanted and own and wanted % own == 0:
            statistic = torch.cat([statistic] * (wanted // own), dim=axis)
    return statistic
