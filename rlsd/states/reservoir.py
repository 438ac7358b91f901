"""A uniform sample over all states of the agent's life."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.config import integer
from rlsd.memory import check_states
from rlsd.plain import SavedState, State
from rlsd.states.base import States, StateStore, checked_capacity


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

    def state(self) -> State:  # noqa: D102
        return super().state() | {"seen": self.seen}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> bool:  # noqa: D102
        self.seen = int(state["seen"])
        return super().load(tensors, state)


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
        checked_capacity(self.capacity, self.batch_size)

    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> ReservoirStore:  # noqa: D102
        check_states(self.capacity, agent.observation_space, agent.device)
        return ReservoirStore(self.capacity, self.batch_size, seed, agent.device)
