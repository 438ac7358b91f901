"""Rows of batched observations: arrays, dictionaries and tuples of arrays alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def take(observations: Any, indices: NDArray[np.intp]) -> Any:
    """Return a copy of some rows of ``(n_envs, ...)`` observations."""
    if isinstance(observations, dict):
        return {key: take(value, indices) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(take(value, indices) for value in observations)
    return observations[indices]


def row(observations: Any, index: int) -> Any:
    """Return one environment's observation, which shares the memory of the batch."""
    if isinstance(observations, dict):
        return {key: row(value, index) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(row(value, index) for value in observations)
    return observations[index]


def put(observations: Any, indices: NDArray[np.intp], rows: Any) -> Any:
    """Return the observations with some rows replaced, in place where the memory may be written."""
    if isinstance(observations, dict):
        return {key: put(value, indices, rows[key]) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(put(value, indices, part) for value, part in zip(observations, rows, strict=True))
    if not observations.flags.writeable:
        observations = observations.copy()
    observations[indices] = rows
    return observations


def length(observations: Any) -> int:
    """Return the number of rows."""
    if isinstance(observations, dict):
        return length(next(iter(observations.values())))
    if isinstance(observations, tuple):
        return length(observations[0])
    return len(observations)


def same(left: Any, right: Any) -> bool:
    """Whether two batches hold the same numbers."""
    if isinstance(left, dict):
        return all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, tuple):
        return all(same(*pair) for pair in zip(left, right, strict=True))
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))
