"""On which states? The answers to the second question."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from rlsd.config import Answer, integer
from rlsd.observations import Observations, as_items, from_items, storage_dtype
from rlsd.sources import ReplaySource, Source
from rlsd.speed.memory import check_states

#: Floats are kept in 32 bits, where anything larger would be infinite.
_LARGEST = np.finfo(np.float32).max


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

    def place(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Decide where ``n`` new states go: which of them are kept, and in which slots, each slot at most once."""
        raise NotImplementedError

    def collect(self, agent: BaseAlgorithm, source: Source) -> np.ndarray:
        """Take up the states that the agent met since the last time, and return the slots that hold a new one."""
        added = [self.add(states) for states in source.take(agent)]
        return np.concatenate(added) if added else np.arange(0)

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

    def gather(self, slots: np.ndarray, index: Tensor) -> Observations:
        """Return the raw states in some slots.

        :param slots: on the host.
        :param index: the same on the store's device, so that neither kind of store has to move them.
        """
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
        lengths = sorted({len(tensor) for tensor in tensors.values()})
        if count > self.capacity or lengths != ([count] if count else []):
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


class ReplayBufferStore(StateStore):
    """An agent's own replay buffer, seen as a store; slot ``row * n_envs + env`` is a state of the buffer's."""

    def __init__(self, capacity: int, batch_size: int, seed: np.random.SeedSequence, device: torch.device) -> None:
        super().__init__(capacity, batch_size, seed, device)
        self._views: dict[str, np.ndarray] = {}

    def collect(self, agent: Any, source: Source) -> np.ndarray:  # noqa: D102
        assert isinstance(source, ReplaySource)
        buffer = agent.replay_buffer
        shapes = as_items(get_obs_shape(agent.observation_space))
        # Views, taken anew each time: a buffer may have been loaded in the place of the one before.
        items = as_items(buffer.observations).items()
        self._views = {key: array.reshape(self.capacity, *shapes[key]) for key, array in items}
        self.count = buffer.size() * buffer.n_envs
        rows = source.rows(agent)
        if getattr(buffer, "optimize_memory_usage", False):
            rows = np.append(rows, buffer.pos)  # where the observation after the latest is kept, over an old state
        slots: np.ndarray = rows[:, None] * buffer.n_envs + np.arange(buffer.n_envs)
        return slots.ravel()

    def gather(self, slots: np.ndarray, index: Tensor) -> Observations:  # noqa: D102
        picked = {key: torch.from_numpy(view[slots]) for key, view in self._views.items()}
        floats = {key: t.float() if t.is_floating_point() else t for key, t in picked.items()}
        return from_items({key: tensor.to(self.device) for key, tensor in floats.items()})

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up the counters; the states come with the agent's own buffer."""
        self.count, self.rejected = int(state["count"]), int(state["rejected"])
        self._generator.bit_generator.state = state["generator"]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_views": {}}  # the agent pickles its own buffer


def _finite_rows(observations: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return which rows are finite throughout, None when all are."""
    masks = [
        (np.abs(array) <= _LARGEST).reshape(len(array), -1).all(axis=1)
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
    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> StateStore:
        """Make an empty store for one agent.

        :raises TypeError: when the agent has no such states.
        :raises ValueError: when they would not fit in memory.
        """


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

    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> ReservoirStore:  # noqa: D102
        check_states(self.capacity, agent.observation_space, agent.device)
        return ReservoirStore(self.capacity, self.batch_size, seed, agent.device)


@dataclass(frozen=True)
class ReplayBuffer(States, name="replay_buffer"):
    """The states in the agent's own replay buffer, read where they lie: no second copy is kept.

    :param batch_size: states compared at one gradient step. Usual range 64 to 512.
    """

    batch_size: int = integer(128, low=1)

    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> ReplayBufferStore:  # noqa: D102
        buffer = getattr(agent, "replay_buffer", None)
        if buffer is None:
            raise TypeError(
                f"states 'replay_buffer' needs an agent with a replay buffer, and a {type(agent).__name__} has none: "
                "use 'reservoir'"
            )
        return ReplayBufferStore(buffer.buffer_size * buffer.n_envs, self.batch_size, seed, agent.device)
