"""Minibatches of stored states with what the teacher would do there.

A teacher's target is computed once per stored state and teacher, and only for states that are drawn: before an update
the coming minibatches are drawn ahead, and one large forward pass fills in the targets they lack. So a gradient step
costs the same however many teachers there are and however many states are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.observations import Observations
from rlsd.sources import Source
from rlsd.states import StateStore
from rlsd.teachers import Teacher

#: Minibatches drawn ahead at a time, and states the teacher is asked about at a time: enough to fill a large forward.
MOST_AHEAD = 64
CHUNK = 4096


class Batch(NamedTuple):
    """One minibatch: raw states and the teacher's parameters there, ``(batch, family.size)``."""

    states: Observations
    targets: Tensor


class Replay:
    """Draws minibatches of stored states and keeps their targets up to date.

    :param store: the stored states.
    :param size: how many numbers describe one action distribution.
    """

    def __init__(self, store: StateStore, size: int) -> None:
        self.store = store
        self.targets = torch.zeros(store.capacity, size, device=store.device)
        # On the host, where slots are drawn, so that finding what is out of date asks nothing of the device.
        self.versions = np.zeros(store.capacity, dtype=np.int64)
        self._ahead: list[tuple[np.ndarray, Tensor]] = []

    def collect(self, agent: BaseAlgorithm, source: Source) -> None:
        """Take up the states that the agent met since the last time."""
        self.versions[self.store.collect(agent, source)] = 0

    def sample_targets(self, teacher: Teacher, most: int = 256) -> Tensor:
        """Return what the teacher would do on some stored states, spread evenly: no random number is drawn."""
        count = self.store.count
        slots = np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
        return teacher.targets(self.store.gather(slots, torch.from_numpy(slots).to(self.store.device)))

    def begin(self, teacher: Teacher, batches: int) -> None:
        """Draw minibatches for an update that is expected to take ``batches`` of them."""
        slots = self.store.draw(min(max(batches, 1), MOST_AHEAD))
        stale = np.unique(slots[self.versions[slots] != teacher.version])
        for chunk in np.split(stale, range(CHUNK, len(stale), CHUNK)):
            if len(chunk):
                index = torch.from_numpy(chunk).to(self.store.device)
                self.targets[index] = teacher.targets(self.store.gather(chunk, index))
        self.versions[stale] = teacher.version
        self._ahead = list(zip(slots, torch.from_numpy(slots).to(self.store.device), strict=True))[::-1]

    def next(self, teacher: Teacher) -> Batch:
        """Return the next minibatch."""
        if not self._ahead:
            self.begin(teacher, MOST_AHEAD)
        slots, index = self._ahead.pop()
        return Batch(self.store.gather(slots, index), self.targets[index])

    def tensors(self) -> dict[str, Tensor]:
        """Return states, targets and their versions by name."""
        count = self.store.count
        out = {f"states/{key}": tensor for key, tensor in self.store.tensors().items()}
        return out | {"targets": self.targets[:count], "versions": torch.from_numpy(self.versions[:count])}

    def state(self) -> dict[str, Any]:
        """Return the store's counters and generator as plain data."""
        return self.store.state()

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up what :meth:`tensors` and :meth:`state` returned."""
        stored = {name.removeprefix("states/"): t for name, t in tensors.items() if name.startswith("states/")}
        self.store.load(stored, state)
        count = self.store.count
        if tensors["targets"].shape != (count, self.targets.shape[1]) or tensors["versions"].shape != (count,):
            raise ValueError(
                f"the saved targets do not fit: {tuple(tensors['targets'].shape)} found, "
                f"{(count, self.targets.shape[1])} expected"
            )
        self.targets[:count] = tensors["targets"].to(self.targets.device)
        self.versions[:count] = tensors["versions"].numpy()
