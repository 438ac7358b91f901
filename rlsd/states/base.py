"""What every store of states does, whatever it keeps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.config import Answer, switch
from rlsd.memory import check_states
from rlsd.observations import Observations, blocks, finite_rows, from_items, from_names, storage_dtype, to_names, zeros
from rlsd.plain import SavedState, State

#: Minibatches drawn ahead at a time: enough to fill a large forward.
MOST_AHEAD = 64


class StateStore:
    """A fixed number of states in memory, from which minibatches are drawn with a generator of its own.

    :param capacity: how many states fit.
    :param batch_size: how many are drawn for one gradient step.
    :param seed: of the store's own generator; the global generators are never touched.
    :param device: where the states lie.
    """

    #: Whether states are offered to it by a source; else it reads them where they lie.
    offers = True
    #: Whether it knows of which episode each state is.
    episodic = False
    #: Whether minibatches can be drawn ahead for a whole update; else each is known only at its gradient step.
    ahead = True

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

    def sync(self, agent: BaseAlgorithm) -> np.ndarray:
        """Look at the agent's buffers before new states are added, and return the slots that hold another state now.

        For stores that read states where they lie; most do not.
        """
        return np.arange(0)

    def add(self, observations: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
        """Offer raw states to the store and return the slots that hold a new one.

        :param observations: ``(n, *shape)`` by key. A state with a NaN or an infinity in it never enters.
        :param rows: of the agent's replay buffer, in which they lie, for stores that read them there.
        """
        finite = finite_rows(observations)
        if finite is not None:
            self.rejected += int((~finite).sum())
            observations = {key: array[finite] for key, array in observations.items()}
        kept, slots = self.place(len(next(iter(observations.values()))))
        if len(slots) == 0:
            return slots
        if not self._arrays:
            self._allocate(observations)
        self._write(observations, kept, slots)
        return slots

    @contextmanager
    def watching(self, agent: BaseAlgorithm) -> Iterator[None]:
        """Watch an update of the agent, run inside. Most stores need not."""
        yield

    def draw(self, batches: int) -> np.ndarray:
        """Draw slots for some minibatches, ``(batches, batch_size)``, uniformly and with replacement."""
        return self._generator.integers(self.count, size=(batches, self.batch_size))

    def slots(self) -> np.ndarray:
        """Return all slots that hold a state, in rising order."""
        return np.arange(self.count)

    def after_draw(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the slots whose states changed as a minibatch was drawn, and those that will be drawn in this update.

        Asked only where :attr:`ahead` is not set.

        :param slots: of the minibatch.
        """
        raise NotImplementedError

    def gather(self, slots: np.ndarray, index: Tensor) -> Observations:
        """Return the raw states in some slots.

        :param slots: on the host.
        :param index: the same on the store's device, so that neither kind of store has to move them.
        """
        return from_items({key: array[index] for key, array in self._arrays.items()})

    def pick(self, slots: np.ndarray) -> Observations:
        """Return the raw states in some slots, wherever their numbers lie."""
        return self.gather(slots, torch.from_numpy(slots).to(self.device))

    @property
    def at_hand(self) -> int:
        """How many states can be read now: none of a buffer of the agent's that was not looked at since loading."""
        return self.count if self._arrays else 0

    @property
    def nbytes(self) -> int:
        """The memory that the states take, in bytes."""
        return sum(array.nbytes for array in self._arrays.values())

    def _write(self, observations: Mapping[str, np.ndarray], kept: np.ndarray, slots: np.ndarray) -> None:
        """Put some of the observations into as many slots, a few at a time."""
        index = torch.from_numpy(slots).to(self.device)
        for key, array in observations.items():
            target = self._arrays[key]
            for some in blocks(len(kept), array[:1].nbytes):
                rows = torch.as_tensor(np.ascontiguousarray(array[kept[some]]), device=self.device)
                target[index[some]] = rows.to(target.dtype)

    def _allocate(self, like: Mapping[str, np.ndarray]) -> None:
        for key, array in like.items():
            shape = (self.capacity, *array.shape[1:])
            self._arrays[key] = zeros(shape, storage_dtype(array), self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored states by name, without the empty slots."""
        return to_names({key: array[: self.count] for key, array in self._arrays.items()})

    def examples(self) -> dict[str, Tensor]:
        """Return stored states by key, as many as are at hand: they show what a state looks like."""
        return from_names(self.tensors()) if self.at_hand else {}

    def state(self) -> State:
        """Return counters and generator as plain data."""
        return {"count": self.count, "rejected": self.rejected, "generator": self._generator.bit_generator.state}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> bool:
        """Load what :meth:`tensors` and :meth:`state` returned.

        :return: whether some begin anew instead, as where an agent was loaded with fewer environments and its buffer is
            smaller; else all lie in the slots that they were saved from.
        :raises ValueError: when they fit in no such store.
        """
        count = int(state["count"])
        lengths = sorted({len(tensor) for tensor in tensors.values()})
        if count > self.capacity or lengths != ([count] if count else []):
            raise ValueError(f"the saved states do not fit: {count} said, {lengths} found, capacity {self.capacity}")
        self.count, self.rejected = count, int(state["rejected"])
        self._generator.bit_generator.state = state["generator"]
        self._arrays = {}
        for key, tensor in from_names(tensors).items():
            shape = (self.capacity, *tensor.shape[1:])
            self._arrays[key] = zeros(shape, tensor.dtype, self.device)
            self._arrays[key][:count] = tensor.to(self.device)
        return False


def check_batch(batch_size: int, agent: BaseAlgorithm) -> None:
    """Raise when a minibatch, with the slots of those drawn ahead, would take more memory than it may.

    For stores whose minibatch may be larger than they are.

    :raises ValueError: then.
    """
    slots = MOST_AHEAD * np.dtype(np.int64).itemsize
    check_states(batch_size, agent.observation_space, agent.device, "states.batch_size", beside=slots)


def checked_capacity(capacity: int, batch_size: int) -> None:
    """Raise when a store is smaller than its minibatch.

    :raises ValueError: then.
    """
    if capacity < batch_size:
        raise ValueError(f"states.capacity must be at least states.batch_size = {batch_size}, got {capacity}")


@dataclass(frozen=True)
class States(Answer, question="states"):
    """A choice of the states on which teacher and student are compared.

    :param saved: whether states are written into zips and checkpoints. Without them a loaded agent begins with none
        and meets its own, so that it does not go on exactly.
    """

    saved: bool = switch(True, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain data; what is saved is left out where it is all, as in files of before."""
        data = super().to_dict()
        return data if not self.saved else {key: value for key, value in data.items() if key != "saved"}

    @abstractmethod
    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> StateStore:
        """Make an empty store for one agent.

        :raises TypeError: when the agent has no such states.
        :raises ValueError: when they would not fit in memory.
        """
