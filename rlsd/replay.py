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
from rlsd.states.base import MOST_AHEAD
from rlsd.teachers import Teacher, Wants

#: States the teacher is asked about at a time: enough to fill a large forward.
CHUNK = 4096
_PLAIN = Wants()


class Batch(NamedTuple):
    """One minibatch: raw states, and what the teacher would do there.

    :param states: raw.
    :param targets: the teacher's parameters, ``(batch, family.size)``.
    :param values: the teacher's values of the states, ``(batch,)``, where they are wanted.
    :param spread: how far the teacher's members differ, ``(batch,)``, where it is wanted.
    :param hold: how firmly the student is held on each state, ``(batch,)``; None for fully on all.
    """

    states: Observations
    targets: Tensor
    values: Tensor | None = None
    spread: Tensor | None = None
    hold: Tensor | None = None


class Replay:
    """Draws minibatches of stored states and keeps their targets up to date.

    :param store: the stored states.
    :param size: how many numbers describe one action distribution.
    :param wants: what else is kept of a target.
    """

    def __init__(self, store: StateStore, size: int, wants: Wants = _PLAIN) -> None:
        self.store = store
        self.size, self.wants = size, wants
        self._allocate()
        self._ahead: list[tuple[np.ndarray, Tensor]] = []
        self._expected = 1

    def _allocate(self) -> None:
        store = self.store
        self.targets = torch.zeros(store.capacity, self.size + self.wants.extra, device=store.device)
        # On the host, where slots are drawn, so that finding what is out of date asks nothing of the device.
        self.versions = np.zeros(store.capacity, dtype=np.int64)
        #: How firmly the student is held on each stored state; stays 1 for teachers that do not decide state by state.
        self.holds = torch.ones(store.capacity, device=store.device)
        self._firm = np.ones(store.capacity, dtype=bool)  # where they are above 0, on the host

    def collect(self, agent: BaseAlgorithm, source: Source) -> np.ndarray:
        """Take up the states that the agent met since the last time, and return the slots that hold a new one."""
        new = self.store.collect(agent, source)
        if len(self.versions) != self.store.capacity:
            self._allocate()  # a replay buffer of another size was loaded: all targets are asked for anew
        self.versions[new] = 0
        return new

    def teach(self, teacher: Teacher, slots: np.ndarray) -> None:
        """Ask the teacher about the states in some slots, each named once.

        :raises ValueError: when its answer has another shape than a row for each state.
        """
        for chunk in np.split(slots, range(CHUNK, len(slots), CHUNK)):
            if len(chunk):
                index = torch.from_numpy(chunk).to(self.store.device)
                self.targets[index] = teacher.ask(self.store.gather(chunk, index))
        self.versions[slots] = teacher.version

    def renew(self, teacher: Teacher, slots: np.ndarray) -> None:
        """Bring the targets of the states in some slots up to date now, where the teacher would when they are drawn."""
        self.teach(teacher, self._stale(teacher, slots))

    def sample_targets(self, teacher: Teacher, most: int = 256) -> Tensor:
        """Return what the teacher would do on some stored states, spread evenly: no random number is drawn."""
        held = self.store.slots()
        slots = held[np.unique(np.linspace(0, len(held) - 1, min(len(held), most)).astype(np.int64))]
        return teacher.targets(self.store.gather(slots, torch.from_numpy(slots).to(self.store.device)))

    def begin(self, teacher: Teacher, batches: int) -> None:
        """Prepare for an update that is expected to take ``batches`` minibatches; the first that it takes draws them.

        An update may take none: with a stride, an off-policy agent that makes one step an update often does.
        """
        self._ahead = []
        self._expected = min(max(batches, 1), MOST_AHEAD)

    def next(self, teacher: Teacher) -> Batch | None:
        """Return the next minibatch, None when the student is held on none of its states."""
        if not self._ahead:
            self._draw(teacher)
        slots, index = self._ahead.pop()
        if teacher.selects and not self._firm[slots].any():
            return None
        states, rows = self.store.gather(slots, index), self.targets[index]
        hold = teacher.weigh(self.holds[index], rows[:, : self.size]) if teacher.selects else None
        if not self.wants.extra:
            return Batch(states, rows, hold=hold)
        return Batch(
            states,
            rows[:, : self.size],
            rows[:, self.size] if self.wants.value else None,
            rows[:, -1] if self.wants.spread else None,
            hold,
        )

    def _draw(self, teacher: Teacher) -> None:
        slots = coming = self.store.draw(self._expected if self.store.ahead else 1)
        self._expected = MOST_AHEAD
        if not self.store.ahead:
            changed, coming = self.store.renewed(slots)
            self.versions[changed] = 0
        self.teach(teacher, self._stale(teacher, coming))
        self._ahead = list(zip(slots, torch.from_numpy(slots).to(self.store.device), strict=True))[::-1]

    def _stale(self, teacher: Teacher, slots: np.ndarray) -> np.ndarray:
        """Return which of some slots hold a target that must be made anew, each named once."""
        drawn: np.ndarray = np.unique(slots)
        outdated = self.versions[drawn] != teacher.version
        if teacher.selects:
            index = torch.from_numpy(drawn).to(self.store.device)
            self.holds[index] = held = teacher.hold(self.store.gather(drawn, index))
            kept = (held > 0).cpu().numpy()
            self._firm[drawn] = kept | (teacher.floor > 0)
            outdated &= (self.versions[drawn] == 0) | ~kept
        stale: np.ndarray = drawn[outdated]
        return stale

    def tensors(self) -> dict[str, Tensor]:
        """Return states, targets and their versions by name."""
        held = self._held()
        out = {f"states/{key}": tensor for key, tensor in self.store.tensors().items()}
        return out | {"targets": self.targets[held], "versions": torch.from_numpy(self.versions[held])}

    def _held(self) -> Any:
        """Return an index of the slots that hold a state; a slice where they have no gaps, which copies nothing."""
        slots = self.store.slots()
        return slots if len(slots) and slots[-1] != len(slots) - 1 else slice(len(slots))

    def state(self) -> dict[str, Any]:
        """Return the store's counters and generator as plain data."""
        return self.store.state()

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up what :meth:`tensors` and :meth:`state` returned."""
        stored = {name.removeprefix("states/"): t for name, t in tensors.items() if name.startswith("states/")}
        if self.store.load(stored, state):
            return  # all targets are asked for anew when their states are drawn
        count = self.store.count
        if tensors["targets"].shape != (count, self.targets.shape[1]) or tensors["versions"].shape != (count,):
            raise ValueError(
                f"the saved targets do not fit: {tuple(tensors['targets'].shape)} found, "
                f"{(count, self.targets.shape[1])} expected"
            )
        held = self._held()
        self.targets[held] = tensors["targets"].to(self.targets.device)
        self.versions[held] = tensors["versions"].numpy()
