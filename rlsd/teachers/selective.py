"""Free where the agent learns, held where it no longer goes: the decision is made state by state.

A teacher that is refreshed often does no harm and forgets; one that is refreshed seldom remembers and brakes. The two
are needed on *different states*. Where the agent has data it should move, where it has none any more it should stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.chunks import Pace
from rlsd.config import integer, number
from rlsd.observations import Observations, from_items, from_names, storage_dtype, to_names
from rlsd.plain import SavedState, State
from rlsd.states import StateStore
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.discriminator import Discriminator
from rlsd.teachers.ema import EmaTeacher
from rlsd.teachers.frozen_policy import FrozenPolicy

#: States met lately that are kept for the discriminator, at most, and stored states it is shown at a training.
WINDOW = 2048
#: Of each kind in one of its gradient steps.
BATCH = 256
#: Mean weight of the stored states below which nothing is pulled at.
LEAST = 0.02


class SelectiveTeacher(EmaTeacher):
    """An average or a snapshot of the policy that holds the student firmly only on states unlike those met now.

    See :class:`Selective`.
    """

    eager = True
    per_state = True
    observes = True

    def __init__(self, actor: Actor, answer: Selective) -> None:
        super().__init__(actor, 0.0, answer.every)
        self.threshold, self.steps, self.min_weight = answer.threshold, answer.steps, answer.visited
        self.average = answer.average
        #: How many states met lately are kept. Without an average they are no older than the teacher.
        self.window = WINDOW if self.average else min(WINDOW, max(self.every, BATCH))
        #: The snapshot that is to teach after the next one was taken; unused with an average.
        self.coming = FrozenPolicy(actor)
        self.discriminator: Discriminator | None = None
        # Its stream needs no seed of the agent's: it decides which states a small classifier is shown.
        self._generator = np.random.default_rng(0x5E1EC7)
        self._recent: dict[str, Tensor] = {}
        self._next = 0
        self._studied = 0  # the version at the latest training
        self._frozen = self._firmness = torch.zeros(())  # of the states looked at last: share held, and how firmly

    def take(self, agent: BaseAlgorithm) -> None:
        """Let the agent as it is now enter the average; without one, let the snapshot before it teach.

        A state that counts as met now may have been left since the window began, and the policy have changed there.
        """
        if self.average:
            super().take(agent)
            return
        self.frozen, self.coming = self.coming, self.frozen
        self.coming.take(agent)
        if self.policy is None:
            self.frozen.take(agent)
        self.refreshed_at = self.clock.steps(agent)
        self.version += 1

    def kept(self, agent: BaseAlgorithm) -> float:  # noqa: D102
        return math.exp(-self.age(agent) / self.average)

    def observe_states(self, agent: BaseAlgorithm, states: Mapping[str, np.ndarray]) -> None:
        """Keep the latest states, or a sample of them where more came at once than are kept."""
        n = len(next(iter(states.values())))
        rows = np.arange(n) if n <= self.window else self._generator.choice(n, self.window, replace=False)
        slots = (self._next + np.arange(len(rows))) % self.window
        for key, array in states.items():
            new = torch.as_tensor(np.ascontiguousarray(array[rows]), device=agent.device)
            if key not in self._recent:
                self._recent[key] = torch.zeros((0, *new.shape[1:]), dtype=storage_dtype(array), device=agent.device)
            kept = self._recent[key]
            longer = max(len(kept), int(slots.max()) + 1)
            if longer > len(kept):
                kept = torch.cat([kept, kept.new_zeros((longer - len(kept), *kept.shape[1:]))])
            kept[torch.from_numpy(slots).to(kept.device)] = new.to(kept.dtype)
            self._recent[key] = kept
        self._next = int((self._next + len(rows)) % self.window)

    @property
    def inactive(self) -> bool:
        """Whether of the stored states looked at last so few are held that a minibatch would say next to nothing."""
        return self.min_weight == 0.0 and float(self._firmness) < LEAST

    def prepare(self, store: StateStore) -> np.ndarray | None:
        """Train the discriminator on the states met lately against stored ones, once for each snapshot.

        :return: the slots of these stored ones: in a few snapshots all of the store is looked at, also while idle.
        """
        if self._studied == self.version or not self._recent:
            return None
        self._studied = self.version
        met = np.arange(len(next(iter(self._recent.values()))))
        now = Pace().joined(lambda some: self._inputs(self._latest(some)), met)
        held = store.slots()
        slots = held[self._generator.integers(len(held), size=min(WINDOW, len(held)))]
        stored = Pace().joined(lambda some: self._inputs(store.pick(some)), slots)
        if self.discriminator is None:
            self.discriminator = Discriminator(now.shape[1], self._generator, now.device)
        self.discriminator.train(now, stored, self.steps, BATCH)
        return np.unique(slots)

    def hold_weight(self, observations: Observations) -> Tensor:
        """Return 0 for states like those met now, and nearly 1 for states unlike any of them."""
        assert self.discriminator is not None
        return (1.0 - self.discriminator.probability(self._inputs(observations)) / self.threshold).clamp_(min=0.0)

    def held(self, holds: Tensor) -> None:  # noqa: D102
        self._frozen, self._firmness = (holds > 0).float().mean(), holds.mean()

    def _latest(self, rows: np.ndarray) -> Observations:
        index = torch.from_numpy(rows)
        return from_items({key: tensor[index.to(tensor.device)] for key, tensor in self._recent.items()})

    def loss_weight(self, holds: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        # Who chose blindly there left nothing to be kept.
        return (self.min_weight + (1.0 - self.min_weight) * holds) * self.actor.family.confidence(targets)

    def _inputs(self, observations: Observations) -> Tensor:
        """Return the discriminator's inputs: the observations, of images and Dicts the snapshot's features."""
        plain = isinstance(observations, Tensor) and observations.ndim == 2 and observations.dtype == torch.float32
        return observations if plain else self.frozen.features(observations)  # type: ignore[return-value]

    def metrics(self) -> dict[str, float]:  # noqa: D102
        accuracy = 0.5 if self.discriminator is None else self.discriminator.accuracy
        return {"frozen_share": float(self._frozen), "discriminator_accuracy": accuracy}

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        out = super().tensors() | {f"recent/{name}": tensor for name, tensor in to_names(self._recent).items()}
        out |= {f"coming/{name}": tensor for name, tensor in self.coming.tensors().items()}
        if self.discriminator is not None:
            out |= {f"discriminator/{name}": tensor for name, tensor in self.discriminator.tensors().items()}
        return out

    def state(self) -> State:  # noqa: D102
        return super().state() | {
            "generator": self._generator.bit_generator.state,
            "next": self._next,
            "studied": self._studied,
            "frozen": float(self._frozen),
            "firmness": float(self._firmness),
            "accuracy": None if self.discriminator is None else self.discriminator.accuracy,
        }

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        parts: dict[str, dict[str, Tensor]] = {"recent": {}, "coming": {}, "discriminator": {}}
        for part, named in parts.items():
            named.update((n.removeprefix(f"{part}/"), t) for n, t in tensors.items() if n.startswith(f"{part}/"))
        super().load(agent, {n: t for n, t in tensors.items() if n.partition("/")[0] not in parts}, state)
        recent = from_names(parts["recent"])
        self._recent = {key: tensor[: self.window].to(agent.device).clone() for key, tensor in recent.items()}
        self.coming.load(agent, parts["coming"])
        # Of an agent that was saved without states, none were met lately.
        self._next, self._studied = int(state["next"]) if recent else 0, int(state["studied"])
        self._frozen, self._firmness = torch.tensor(float(state["frozen"])), torch.tensor(float(state["firmness"]))
        if parts["discriminator"]:
            size = len(parts["discriminator"]["mean"])
            self.discriminator = Discriminator(size, self._generator, agent.device)
            self.discriminator.load(parts["discriminator"])
            self.discriminator.accuracy = float(state["accuracy"])
        self._generator.bit_generator.state = state["generator"]


@dataclass(frozen=True)
class Selective(TeacherConfig, name="selective"):
    """A recent policy, frozen state by state: the policy is held on states that the agent no longer comes by.

    While states like a stored one are being met, its target follows the teacher. Once they no longer are, the target
    stays as it is, and holds the policy there, the more firmly the less the state is like any met now: by
    ``1 - P(met now | state) / threshold``, at least 0. The probability is told by a small classifier between the latest
    states and the stored ones, 1/2 where both are equally dense. A new state enters with a target of its time.

    A target counts by how certain it is (:meth:`Family.confidence`), too: where the agent chose all but blindly when it
    left, there is nothing to be kept, and to be held there would be a brake on what it learns elsewhere.

    Whoever teaches must be older than the states that tell what is met now: those of a task that has just ended are
    among them, and the policy may have forgotten it meanwhile. It is the snapshot before the latest, or an average of
    the policy (``average``). States still met can be pulled at as well (``visited``), and an average then steadies what
    is learned and what is kept of it.

    :param every: environment steps from one snapshot and training of the classifier to the next, rounded up to whole
        rollouts. Raising it costs less; states are told apart, and targets follow, more slowly. Usual range 256 to a
        few rollouts.
    :param threshold: below this probability a state is held. Raising it holds more, which remembers more and brakes
        more. Usual range 0.05 to 0.3.
    :param steps: gradient steps of the classifier for each snapshot. Usual range 2 to 20.
    :param visited: weight in the loss of states still met, beside 1 for those far from them. Raising it steadies some
        tasks and slows others. Usual range 0 to 1.
    :param average: environment steps that the teacher reaches back: a policy's weight in it falls by ``exp(-1)`` over
        so many. 0 is the snapshot before the latest. Raising it makes targets steadier, and slower. Usual range 0 to
        10,000.
    """

    every: int = integer(1024, low=1)
    threshold: float = number(0.2, low=0.0, high=1.0, low_open=True)
    steps: int = integer(10, low=1)
    visited: float = number(0.0, low=0.0, high=1.0)
    average: float = number(0.0, low=0.0)

    def build(self, actor: Actor) -> SelectiveTeacher:  # noqa: D102
        return SelectiveTeacher(actor, self)
