"""The states in the agent's own replay buffer, read where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from rlsd.actors import algorithm_name
from rlsd.config import integer
from rlsd.observations import Observations, as_array, as_items, from_items, storage_dtype
from rlsd.plain import SavedState
from rlsd.states.base import States, StateStore, check_batch


class ReplayBufferStore(StateStore):
    """An agent's own replay buffer, seen as a store; slot ``row * n_envs + env`` is a state of the buffer's.

    Its capacity is the buffer's, and follows it when one of another size is loaded.
    """

    offers = False

    def __init__(self, capacity: int, batch_size: int, seed: np.random.SeedSequence, device: torch.device) -> None:
        super().__init__(capacity, batch_size, seed, device)
        self._views: dict[str, Any] = {}
        self._n_envs = 1
        self._overwritten = np.arange(0)  # the row in which the observation after the latest lies, over an old state

    def sync(self, agent: Any) -> np.ndarray:
        """Read the buffer that the agent has now."""
        buffer = agent.replay_buffer
        self.count, self.capacity = self._view(agent), buffer.buffer_size * buffer.n_envs
        self._n_envs = buffer.n_envs
        self._overwritten = np.arange(0)
        if getattr(buffer, "optimize_memory_usage", False):
            self._overwritten = np.array([buffer.pos])
        return np.arange(0)

    def add(self, observations: Mapping[str, np.ndarray], rows: np.ndarray | None = None) -> np.ndarray:
        """Return the slots of rows of the buffer: no second copy is kept."""
        assert rows is not None, "these states lie in no replay buffer"
        slots: np.ndarray = np.append(rows, self._overwritten)[:, None] * self._n_envs + np.arange(self._n_envs)
        return slots.ravel()

    def _view(self, agent: Any) -> int:
        """Take views of the buffer, anew each time since another may have been loaded; return how many it holds."""
        buffer = agent.replay_buffer
        states, shapes = buffer.buffer_size * buffer.n_envs, as_items(get_obs_shape(agent.observation_space))
        items = as_items(buffer.observations).items()
        self._views = {
            key: array.reshape(states, *shapes[key]) if hasattr(array, "reshape") else _States(array, buffer.n_envs)
            for key, array in items
        }
        return int(buffer.size() * buffer.n_envs)

    def gather(self, slots: np.ndarray, index: Tensor) -> Observations:  # noqa: D102
        picked = {}
        for key, view in self._views.items():
            rows = as_array(view[slots])
            picked[key] = torch.from_numpy(rows).to(storage_dtype(rows)).to(self.device)
        return from_items(picked)

    @property
    def at_hand(self) -> int:  # noqa: D102
        return self.count if self._views else 0

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> bool:
        """Take up the counters; the states come with the agent's own buffer."""
        count, self.rejected = int(state["count"]), int(state["rejected"])
        self._generator.bit_generator.state = state["generator"]
        anew = count > self.capacity
        self.count = 0 if anew else count
        return anew

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_views": {}}  # the agent pickles its own buffer


class _States:
    """The states in somebody's own container, which gives whole rows and nothing else."""

    def __init__(self, rows: Any, n_envs: int) -> None:
        self._rows, self._n_envs = rows, n_envs

    def __getitem__(self, slots: np.ndarray) -> np.ndarray:
        rows, envs = np.divmod(slots, self._n_envs)
        return as_array(self._rows[rows])[np.arange(len(rows)), envs]


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
                f"states 'replay_buffer' needs an agent with a replay buffer, and a {algorithm_name(agent)} has none: "
                "use 'reservoir'"
            )
        check_batch(self.batch_size, agent)
        return ReplayBufferStore(buffer.buffer_size * buffer.n_envs, self.batch_size, seed, agent.device)
