"""Ways to begin the next episode in the very step in which one ends, as SB3 wants it.

Gymnasium's vector environments say in ``metadata["autoreset_mode"]`` what they do by themselves:

- ``SAME_STEP``: just this; the last observation is in ``info["final_obs"]``;
- ``NEXT_STEP``: it begins one step late, and the action of that step is ignored;
- ``DISABLED``: nothing.

In the last two cases the environments that have ended are reset with ``options={"reset_mask": ...}``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from rlsd_envs.errors import UnsupportedByBackend
from rlsd_envs.infos import Info, unpack
from rlsd_envs.observations import length, put, same, take

AnyVectorEnv = VectorEnv[Any, Any, Any]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Restart:
    """The end of some episodes and the beginning of the next.

    :ivar observations: of all environments ``(n_envs, ...)``; of those that ended, the first of the new episode
    :ivar final_observations: the last ones of the episodes that ended ``(n_ended, ...)``, which nobody will overwrite
    :ivar final_infos: what the environments said at the end, one for each that ended
    :ivar reset_infos: what they said at the new beginning
    """

    observations: Any
    final_observations: Any
    final_infos: list[Info]
    reset_infos: list[Info]


class Autoreset(ABC):
    """Begins new episodes where episodes have ended."""

    @abstractmethod
    def restart(self, env: AnyVectorEnv, observations: Any, info: Info, ended: NDArray[np.bool_]) -> Restart:
        """Return both sides of the boundary between two episodes.

        :param env: the vector environment, which has just been stepped
        :param observations: what that step returned ``(n_envs, ...)``
        :param info: what that step returned
        :param ended: the environments whose episode ended ``(n_envs,)``, at least one
        """


class SameStep(Autoreset):
    """The environment has already begun the next episode."""

    def restart(self, env: AnyVectorEnv, observations: Any, info: Info, ended: NDArray[np.bool_]) -> Restart:
        """Take the end of the episode out of ``final_obs`` and ``final_info``."""
        indices = np.flatnonzero(ended)
        final_info: Mapping[str, Any] = info.get("final_info", {})
        return Restart(
            observations,
            _final_rows(info["final_obs"], indices),
            [unpack(final_info, index) for index in indices.tolist()],
            [unpack(info, index) for index in indices.tolist()],
        )


class MaskedReset(Autoreset):
    """The environments that have ended are reset by hand, and only they."""

    def __init__(self) -> None:
        self._proven = False

    def restart(self, env: AnyVectorEnv, observations: Any, info: Info, ended: NDArray[np.bool_]) -> Restart:
        """Reset the environments that have ended.

        :raises UnsupportedByBackend: the environment reset others too
        """
        indices = np.flatnonzero(ended)
        final = take(observations, indices)
        fresh, reset_info = env.reset(options={"reset_mask": ended})
        partial = length(fresh) == len(indices) < len(ended)  # EnvPool returns only what it has reset
        if not partial:
            self._prove(env, observations, fresh, ended)
            fresh = take(fresh, indices)
        return Restart(
            put(observations, indices, fresh),
            final,
            [unpack(info, index) for index in indices.tolist()],
            [unpack(reset_info, row) for row in (range(len(indices)) if partial else indices.tolist())],
        )

    def _prove(self, env: AnyVectorEnv, before: Any, after: Any, ended: NDArray[np.bool_]) -> None:
        """Make sure, once, that the environment knows ``reset_mask``: some ignore options that they do not know."""
        others = np.flatnonzero(~ended)
        if self._proven or len(others) == 0:
            return
        if not same(take(before, others), take(after, others)):
            name = type(env.unwrapped).__name__
            message = f"{name} ignores options={{'reset_mask': ...}}: it cannot reset single environments."
            raise UnsupportedByBackend(f"{message} Use backend='dummy' or 'subproc'.")
        self._proven = True


def autoreset_of(env: AnyVectorEnv) -> Autoreset:
    """Return the way that fits an environment's ``metadata["autoreset_mode"]`` (NEXT_STEP where it says nothing)."""
    mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    return SameStep() if mode is AutoresetMode.SAME_STEP else MaskedReset()


def _final_rows(final: Any, indices: Indices) -> Any:
    """Return the rows of ``final_obs`` that count: arrays as they are, objects one by one."""
    if isinstance(final, np.ndarray) and final.dtype == object:
        return _stack([final[index] for index in indices])
    return take(final, indices)


def _stack(rows: list[Any]) -> Any:
    first = rows[0]
    if isinstance(first, dict):
        return {key: _stack([row[key] for row in rows]) for key in first}
    if isinstance(first, tuple):
        return tuple(_stack([row[part] for row in rows]) for part in range(len(first)))
    return np.stack(rows)
