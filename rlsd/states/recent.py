"""The newest states, in a ring."""

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


class RecentStore(StateStore):
    """A ring: the newest states overwrite the oldest."""

    def __init__(self, capacity: int, batch_size: int, seed: np.random.SeedSequence, device: torch.device) -> None:
        super().__init__(capacity, batch_size, seed, device)
        self._next = 0

    def place(self, n: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: D102
        kept = np.arange(max(n - self.capacity, 0), n)
        slots = (self._next + kept) % self.capacity
        self._next = (self._next + n) % self.capacity
        self.count = min(self.count + n, self.capacity)
        return kept, slots

    def state(self) -> State:  # noqa: D102
        return super().state() | {"next": self._next}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> bool:  # noqa: D102
        self._next = int(state["next"])
        return super().load(tensors, state)


@dataclass(frozen=True)
class Recent(States, name="recent"):
    """The newest states of the agent's life: what lies further back is not held.

    :param capacity: states kept. Raising it reaches further back. Usual range: from one rollout (then it is the states
        of the coming update) to 50,000.
    :param batch_size: states compared at one gradient step. Raising it makes the pull smoother and costs time.
        Usual range 64 to 512.
    :raises ValueError: when the capacity is smaller than the batch.
    """

    capacity: int = integer(10_000, low=1)
    batch_size: int = integer(128, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_capacity(self.capacity, self.batch_size)

    def build(self, seed: np.random.SeedSequence, agent: BaseAlgorithm) -> RecentStore:  # noqa: D102
        check_states(self.capacity, agent.observation_space, agent.device)
        return RecentStore(self.capacity, self.batch_size, seed, agent.device)
