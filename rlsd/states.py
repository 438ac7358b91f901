"""On which states? The answers to the second question."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlsd.config import Answer, integer
from rlsd.observations import Observations, from_items, storage_dtype


class StateStore:
    """A fixed number of states in memory, from which minibatches are drawn with a generator of its own.

    :param capacity: how many states fit.
    :param batch_size: how many are drawn for one gradient step.
    :param seed: of the store's own generator; the global generators are never touched.
    :param device: where the states lie.
    """

    def __init__(self, capacity: int, batch_size: int, seed: np.random.SeedSequence, device: torch.device) -> None:
        self.capacity = capacity
        self.batch_size = batch_size
        self.device = device
        self.count = 0
        self.rejected = 0
        self._generator = np.random.default_rng(seed)
        self._arrays: dict[str, Tensor] = {}

    @abstractmethod
    def place(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Decide where ``n`` new states go: which of them are kept, and in which slots, each slot at most once."""

    def add(self, observations: Mapping[str, np.ndarray]) -> np.ndarray:
        """Offer raw states to the store and return the slots that hold a new one.

        :param observations: ``(n, *shape)`` by key. A state with a NaN or an infinity in it never enters.
        """
        finite = _finite_rows(observations)
        if finite is not None:
            self.rejected += int((~finite).sum())
            observations = {key: array[finite] for key, array in observations.items()}
        kept, slots = self.place(len(next(iter(observations.values()))))
        if len(slots) == 0:
            return slots
        if not self._arrays:
            self._allocate(observations)
        index = torch.from_numpy(slots).to(self.device)
        for key, array in observations.items():
            rows = torch.as_tensor(np.ascontiguousarray(array[kept]), device=self.device)
            self._arrays[key][index] = rows.to(self._arrays[key].dtype)
        return slots

    def draw(self, batches: int) -> np.ndarray:
        """Draw slots for some minibatches, ``(batches, batch_size)``, uniformly and with replacement."""
        return self._generator.integers(self.count, size=(batches, self.batch_size))

    def __getitem__(self, index: Tensor) -> Observations:
        """Return the raw states in some slots."""
        return from_items({key: array[index] for key, array in self._arrays.items()})

    @property
    def nbytes(self) -> int:
        """The memory that the states take, in bytes."""
        return sum(array.nbytes for array in self._arrays.values())

    def _allocate(self, like: Mapping[str, np.ndarray]) -> None:
        for key, array in like.items():
            shape = (self.capacity, *array.shape[1:])
            self._arrays[key] = torch.zeros(shape, dtype=storage_dtype(array), device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored states by key, without the empty slots."""
        return {key: array[: self.count] for key, array in self._arrays.items()}

    def state(self) -> dict[str, Any]:
        """Return counters and generator as plain data."""
        return {"count": self.count, "rejected": self.rejected, "generator": self._generator.bit_generator.state}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up what :meth:`tensors` and :meth:`state` returned."""
        count = int(state["count"])
        if count > self.capacity or any(len(tensor) != count for tensor in tensors.values()):
            lengths = sorted({len(tensor) for tensor in tensors.values()})
            raise ValueError(f"the saved states do not fit: {count} said, {lengths} found, capacity {self.capacity}")
        self.count, self.rejected = count, int(state["rejected"])
        self._generator.bit_generator.state = state["generator"]
        self._arrays = {}
        for key, tensor in tensors.items():
            shape = (self.capacity, *tensor.shape[1:])
            self._arrays[key] = torch.zeros(shape, dtype=tensor.dtype, device=self.device)
            self._arrays[key][:count] = tensor.to(self.device)


class ReservoirStore(StateStore):
    """A uniform sample of all states ever offered (Vitter 1985, algorithm R, a batch at a time)."""

    def __init__(self, capacity: int, batch_size: int, seed: np.random.SeedSequence, device: torch.device) -> None:
        super().__init__(capacity, batch_size, seed, device)
        self.seen = 0

    def place(self, n: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        # State number i (from 0) gets a uniform draw from 0..i and enters when that is a slot. Below the capacity
        # every state enters, at its own number.
        numbers = np.arange(self.seen, self.seen + n)
        drawn = self._generator.integers(0, numbers + 1)
        slots = np.where(numbers < self.capacity, numbers, drawn)
        kept = np.flatnonzero(slots < self.capacity)
        # Of several that chose the same slot, the last one stays, as if they had come one by one.
        _, from_end = np.unique(slots[kept][::-1], return_index=True)
        kept = kept[len(kept) - 1 - from_end]
        self.seen += n
        self.count = min(self.seen, self.capacity)
        return kept, slots[kept]

    def state(self) -> dict[str, Any]:  # noqa: D102
        return super().state() | {"seen": self.seen}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:  # noqa: D102
        super().load(tensors, state)
        self.seen = int(state["seen"])


def _finite_rows(observations: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return which rows are finite throughout, None when all are."""
    masks = [
        np.isfinite(array).reshape(len(array), -1).all(axis=1)
        for array in observations.values()
        if np.issubdtype(array.dtype, np.floating)
    ]
    if not masks or all(mask.all() for mask in masks):
        return None
    return np.asarray(np.all(masks, axis=0))


@dataclass(frozen=True)
class States(Answer, question="states"):
    """A choice of the states on which teacher and student are compared."""

    @abstractmethod
    def build(self, seed: np.random.SeedSequence, device: torch.device) -> StateStore:
        """Make an empty store for one agent."""


@dataclass(frozen=True)
class Reservoir(States, name="reservoir"):
    """A uniform sample over all states of the agent's life.

    :param capacity: states kept. Raising it covers more of the past and takes ``capacity`` times a state's bytes.
        Usual range 5,000 to 200,000.
    :param batch_size: states compared at one gradient step. Raising it makes the pull smoother and costs time.
        Usual range 64 to 512.
    :raises ValueError: when the capacity is smaller than the batch.
    """

    capacity: int = integer(20_000, low=1)
    batch_size: int = integer(128, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.capacity < self.batch_size:
            raise ValueError(
                f"states.capacity must be at least states.batch_size = {self.batch_size}, got {self.capacity}"
            )

    def build(self, seed: np.random.SeedSequence, device: torch.device) -> ReservoirStore:  # noqa: D102
        return ReservoirStore(self.capacity, self.batch_size, seed, device)
