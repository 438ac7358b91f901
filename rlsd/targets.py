"""Minibatches of stored states with the teacher's targets.

A teacher's target is computed once per stored state and teacher, and only for states that are drawn: before an update
the coming minibatches are drawn ahead, and a few large forward passes fill in the targets they lack. So a gradient step
costs the same however many teachers there are and however many states are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.chunks import FIRST, Pace
from rlsd.distributions import Family
from rlsd.gates import GateInput
from rlsd.observations import Observations, zeros
from rlsd.plain import SavedState, State
from rlsd.sources import NewStates
from rlsd.states import StateStore
from rlsd.states.base import MOST_AHEAD
from rlsd.teachers import Teacher


class Batch(NamedTuple):
    """One minibatch: raw states and the teacher's targets.

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

    def for_gates(self, family: Family, student: Tensor, values: Tensor | None) -> GateInput:
        """Return the input of gates that decide state by state.

        :param student: the student's parameters, ``(batch, family.size)``.
        :param values: its values of the states, where they count.
        """
        seen = None if values is None else values.detach()
        return GateInput(family, self.targets, student.detach(), self.values, seen, self.spread)


class TargetCache:
    """Draws minibatches of stored states and keeps their targets up to date.

    It has the teacher, and sets the scale of a Q-learner's distributions by its targets.

    :param store: the stored states.
    :param teacher: makes the targets.
    :param shared: whether the store is another's, who adds to it and saves it.
    """

    def __init__(self, store: StateStore, teacher: Teacher, *, shared: bool = False) -> None:
        self.store, self.teacher, self.shared = store, teacher, shared
        self.size, self.wants = teacher.actor.family.size, teacher.wants
        self._allocate()
        self._asking, self._holding = Pace(), Pace()
        self._ahead: list[tuple[np.ndarray, Tensor]] = []
        self._expected = 1

    def _allocate(self) -> None:
        store = self.store
        self._targets: Tensor | None = None
        # On the host, where slots are drawn, so that finding what is out of date asks nothing of the device.
        self.versions = np.zeros(store.capacity, dtype=np.int64)
        #: How firmly the student is held on each stored state; stays 1 for teachers that do not decide state by state.
        self.holds = torch.ones(store.capacity, device=store.device)
        self._firm = np.ones(store.capacity, dtype=bool)  # where they are above 0, on the host

    @property
    def target_bytes(self) -> int:
        """The bytes of one target."""
        return (self.size + self.wants.extra) * torch.float32.itemsize

    @property
    def targets(self) -> Tensor:
        """The teacher's answer for each slot, ``(capacity, size + wants.extra)``; no memory is taken before."""
        if self._targets is None:
            shape = (self.store.capacity, self.size + self.wants.extra)
            self._targets = zeros(shape, torch.float32, self.store.device)
        return self._targets

    def sync(self, agent: BaseAlgorithm) -> np.ndarray:
        """Bring the store up to date with the agent's buffers, and return the slots that hold another state now."""
        changed = self.store.sync(agent)
        if len(self.versions) != self.store.capacity:
            self._allocate()  # a replay buffer of another size was loaded: all targets are asked for anew
        self.versions[changed] = 0
        return changed

    def add(self, new: NewStates) -> np.ndarray:
        """Offer new states to the store, and return the slots that hold one."""
        slots = self.store.add(new.states, new.rows)
        self.versions[slots] = 0
        return slots

    def renew(self, slots: np.ndarray) -> np.ndarray:
        """Forget the targets of some slots, which hold new states now, and return the slots."""
        self.versions[slots] = 0
        return slots

    def refresh(self, agent: BaseAlgorithm, new: np.ndarray) -> bool:
        """Bring the teacher up to date before an update, and tell whether it changed.

        :param new: the slots that hold a new state.
        """
        teacher, family = self.teacher, self.teacher.actor.family
        refreshed = teacher.refresh(agent)
        looked_at = teacher.prepare(self.store) if teacher.ready or teacher.episodic else None
        if not teacher.ready:
            return refreshed
        if looked_at is not None:
            self.teach(self._stale(looked_at))
        if teacher.eager:
            self.teach(new)
        if refreshed and family.needs_scale and self.store.count:
            family.calibrate(self.sample_targets())
        return refreshed

    def teach(self, slots: np.ndarray) -> None:
        """Ask the teacher about the states in some slots, each named once.

        :raises ValueError: when its answer has another shape than a row for each state.
        """
        teacher, targets = self.teacher, self.targets  # allocated by now, which is nothing that the teacher makes

        def ask(some: np.ndarray) -> None:
            index = self._index(some)
            targets[index] = teacher.ask(self.store.gather(some, index))

        if 0 < len(slots) <= (self._asking.at_once or FIRST):
            ask(slots)
        else:
            self._asking.in_chunks(ask, slots)
        self.versions[slots] = teacher.version

    def sample_targets(self, most: int = 256) -> Tensor:
        """Return the teacher's distributions on some stored states, spread evenly: no random number is drawn."""
        held = self.store.slots()
        slots = held[np.unique(np.linspace(0, len(held) - 1, min(len(held), most)).astype(np.int64))]
        return self._asking.joined(lambda some: self.teacher.targets(self.store.pick(some)), slots)

    def begin(self, batches: int) -> None:
        """Prepare for an update that is expected to take ``batches`` minibatches; the first that it takes draws them.

        An update may take none: with a stride, an off-policy agent that makes one step an update often does.
        """
        self._ahead = []
        self._expected = min(max(batches, 1), MOST_AHEAD)

    def next(self) -> Batch | None:
        """Return the next minibatch, None when the student is held on none of its states."""
        teacher = self.teacher
        if not self._ahead:
            self._draw()
        slots, index = self._ahead.pop()
        if teacher.per_state and not self._firm[slots].any():
            return None
        states, rows = self.store.gather(slots, index), self.targets[index]
        hold = teacher.loss_weight(self.holds[index], rows[:, : self.size]) if teacher.per_state else None
        if self.wants.weight:
            hold = rows[:, -1]
        if not self.wants.extra:
            return Batch(states, rows, hold=hold)
        return Batch(
            states,
            rows[:, : self.size],
            rows[:, self.size] if self.wants.value else None,
            rows[:, self.size + self.wants.value] if self.wants.spread else None,
            hold,
        )

    def _draw(self) -> None:
        slots = coming = self.store.draw(self._expected if self.store.ahead else 1)
        self._expected = MOST_AHEAD
        if not self.store.ahead:
            changed, coming = self.store.after_draw(slots)
            self.versions[changed] = 0
        self.teach(self._stale(coming))
        self._ahead = list(zip(slots, self._index(slots), strict=True))[::-1]

    def _stale(self, slots: np.ndarray) -> np.ndarray:
        """Return which of some slots hold a target that must be made anew, each named once."""
        teacher = self.teacher
        drawn: np.ndarray = np.unique(slots)
        outdated = self.versions[drawn] != teacher.version
        if teacher.per_state:
            held = self._holding.joined(lambda some: teacher.hold_stored(self.store, some), drawn)
            teacher.held(held)
            self.holds[self._index(drawn)] = held
            kept = (held > 0).cpu().numpy()
            if teacher.rolls_back:
                # None is left of one of before, which a file would not have either.
                self.versions[drawn[~kept]], self.targets[self._index(drawn[~kept])] = 0, 0.0
                outdated = kept & (self.versions[drawn] == 0)
            else:
                outdated &= (self.versions[drawn] == 0) | ~kept
            self._firm[drawn] = kept | (teacher.min_weight > 0)
        stale: np.ndarray = drawn[outdated]
        return stale

    def _index(self, slots: np.ndarray) -> Tensor:
        return torch.from_numpy(slots).to(self.store.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return states, the targets that there are, and the versions of all by name."""
        held = self._held()
        out = {} if self.shared else {f"states/{key}": tensor for key, tensor in self.store.tensors().items()}
        versions = self.versions[held]
        made = self._index(self.store.slots()[versions > 0])
        targets = self.targets[made] if len(made) else torch.zeros(0, self.size + self.wants.extra)
        return out | {"targets": targets, "versions": torch.from_numpy(versions)}

    def _held(self) -> Any:
        """Return an index of the slots that hold a state; a slice where they have no gaps, which copies nothing."""
        slots = self.store.slots()
        return slots if len(slots) and slots[-1] != len(slots) - 1 else slice(len(slots))

    def state(self) -> State:
        """Return the store's counters and generator, and how many states go through at a time, as plain data."""
        stored = {} if self.shared else self.store.state()
        return stored | {"at_once": [self._asking.at_once, self._holding.at_once]}

    def load(self, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned."""
        stored = {name.removeprefix("states/"): t for name, t in tensors.items() if name.startswith("states/")}
        for pace, at_once in zip((self._asking, self._holding), state.get("at_once", (None, None)), strict=True):
            pace.load(at_once)
        if "versions" not in tensors:  # saved without states: the store begins empty
            return
        if not self.shared and self.store.load(stored, state):
            return  # all targets are asked for anew when their states are drawn
        count, columns, targets = self.store.count, self.size + self.wants.extra, tensors["targets"]
        versions = tensors["versions"].numpy()
        made = np.flatnonzero(versions > 0)
        if targets.shape == (count, columns):  # of all, as they were saved once
            targets = targets[torch.from_numpy(made)] if versions.shape == (count,) else targets
        if targets.shape != (len(made), columns) or versions.shape != (count,):
            raise ValueError(
                f"the saved targets do not fit: {tuple(targets.shape)} found, {(len(made), columns)} expected"
            )
        self.versions[self._held()] = versions
        if len(made):
            self.targets[self._index(self.store.slots()[made])] = targets.to(self.store.device)
