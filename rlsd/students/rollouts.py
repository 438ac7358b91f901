"""The states of the last few rollouts with their value targets, which SB3's own buffer forgets after each update."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rlsd.observations import Observations, finite_rows, from_items, from_names, storage_dtype, to_names, zeros

_RETURNS = "returns"
#: What a return takes beside its state.
RETURN_BYTES = 4


class Rollouts:
    """Raw states and returns, in memory on the agent's device, up to some number of them.

    :param capacity: how many states fit.
    :param device: where they lie.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self.count = 0
        self._arrays: dict[str, Tensor] = {}
        self._returns = torch.zeros(capacity, device=device)

    def add(self, states: Mapping[str, np.ndarray], returns: np.ndarray) -> int:
        """Take up a rollout's raw states, ``(n, *shape)`` by key, and returns; one with a NaN or an infinity never.

        :return: how many were refused for that.
        """
        finite, seen = np.isfinite(returns), finite_rows(states)
        finite = finite if seen is None else finite & seen
        kept = np.flatnonzero(finite)[: self.capacity - self.count]
        rows = slice(self.count, self.count + len(kept))
        for key, array in states.items():
            if key not in self._arrays:
                shape = (self.capacity, *array.shape[1:])
                self._arrays[key] = zeros(shape, storage_dtype(array), self.device)
            target = self._arrays[key]
            target[rows] = torch.as_tensor(np.ascontiguousarray(array[kept]), device=self.device).to(target.dtype)
        self._returns[rows] = torch.as_tensor(returns[kept], device=self.device).float()
        self.count += len(kept)
        return int((~finite).sum())

    def clear(self) -> None:
        """Make room for the next."""
        self.count = 0

    def states(self, index: Tensor) -> Observations:
        """Return some of the raw states."""
        return from_items({key: array[index] for key, array in self._arrays.items()})

    def pick(self, rows: np.ndarray) -> Observations:
        """Return the raw states of these numbers."""
        return self.states(torch.from_numpy(rows).to(self.device))

    def returns(self, index: Tensor) -> Tensor:
        """Return the value targets of the same, ``(batch,)``."""
        return self._returns[index]

    def tensors(self) -> dict[str, Tensor]:
        """Return all that is kept, by name."""
        if not self.count:
            return {}
        kept = {f"states/{name}": array[: self.count] for name, array in to_names(self._arrays).items()}
        return kept | {_RETURNS: self._returns[: self.count]}

    def load(self, tensors: Mapping[str, Tensor], most: int) -> None:
        """Load what :meth:`tensors` returned, of more than ``most`` states the newest.

        :raises ValueError: when states and returns are not as many.
        """
        self.count, self._arrays = 0, {}
        if _RETURNS not in tensors:
            return
        states = {
            key.removeprefix("states/"): t.cpu().numpy() for key, t in tensors.items() if key.startswith("states/")
        }
        returns = tensors[_RETURNS].cpu().numpy()
        lengths = sorted({len(array) for array in states.values()})
        if lengths != [len(returns)]:
            raise ValueError(f"the saved rollouts do not fit: {lengths} states and {len(returns)} returns found")
        newest = slice(max(len(returns) - most, 0), None)
        self.add({key: array[newest] for key, array in from_names(states).items()}, returns[newest])
