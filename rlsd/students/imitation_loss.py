"""What a student is to learn of an agent: what it does in stored states, and what it expects of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import Actor, QLearner
from rlsd.chunks import Pace
from rlsd.distributions import Gaussian
from rlsd.divergences import Divergence
from rlsd.injection import eval_mode
from rlsd.observations import Normalization, Observations
from rlsd.states import StateStore
from rlsd.teachers import SnapshotTeacher, Teacher

#: Of this many stored states one is held out of training, to measure on.
HELD_OUT = 10
#: As many of these are looked at; and of the first, by which scales are told.
MOST, SCALED_BY = 4096, 1024
#: How far the actions at which critics are compared lie from the teacher's, on SB3's scale of -1 to 1.
NOISE = 0.3


class Demonstrator:
    """Shows a student what an agent does and expects, now.

    :param agent: the agent; its critic is always the one that is imitated.
    :param actor: the adapter to its way of acting.
    :param teacher: whose actions are imitated instead of the agent's own; a snapshot is of the agent anyway.
    """

    def __init__(self, agent: BaseAlgorithm, actor: Actor, teacher: Teacher | None = None) -> None:
        self.actor, self.policy = actor, agent.policy
        other = teacher is not None and teacher.ready and type(teacher) is not SnapshotTeacher
        self._teacher = teacher if other else None
        self._module = actor.module(agent.policy)
        self._modules = list(agent.policy.modules())
        self._normalization = Normalization.of(agent)

    def look_at(self, store: StateStore) -> None:
        """Look at the stored states, before it is asked about them."""

    def seen(self, states: Observations) -> Observations:
        """Return raw states as the student is to see them."""
        return self._shown(states)

    def _shown(self, states: Observations) -> Observations:
        """Return raw states as the agent sees them."""
        return states if self._normalization is None else self._normalization(states)

    def targets(self, states: Observations) -> Tensor:
        """Return the targets in raw states: normalised parameters ``(batch, family.size)``."""
        if self._teacher is not None:
            return self._teacher.ask(states)[:, : self.actor.family.size]
        with torch.no_grad(), eval_mode(self._modules):
            return self.actor.family.normalized(self.actor.parameters(self._module, self._shown(states)))

    def expectations(self, states: Observations, actions: Tensor | None) -> Tensor | None:
        """Return the expectations of the agent's critic of raw states, ``(batch, n)``; see :func:`expectations`."""
        with torch.no_grad(), eval_mode(self._modules):
            return expectations(self.actor, self.policy, self._shown(states), actions)


def expectations(actor: Actor, policy: Any, seen: Observations, actions: Tensor | None) -> Tensor | None:
    """Return all that a policy's critic says of states, ``(batch, n)``: V, Q of each action, or of those given.

    :param actions: for a critic that takes actions, on SB3's scale of -1 to 1.
    :return: None when there is no critic.
    """
    if actor.has_values:
        return actor.values(actor.module(policy), seen).unsqueeze(-1)
    if isinstance(actor, QLearner):
        answers = actor.module(policy)(seen)
    elif getattr(policy, "critic", None) is not None:
        answers = policy.critic(seen, actions)
    else:
        return None
    parts = answers if isinstance(answers, (tuple, list)) else (answers,)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


class ImitationLoss:
    """The loss by which a student learns from a tutor: ``D + value_weight * (V_T - V_S)**2``.

    The values are counted in the spread of the teacher's own where that is above 1, so that large returns do not drown
    the policy. A Q-learner's values are compared for all actions; a critic that takes actions is asked about the
    teacher's, disturbed, and as often about any: it will soon be asked about actions that neither of them takes.

    :param tutor: shows what is to be learned.
    :param divergence: D.
    :param value_weight: as above; 0 leaves the critic out.
    :param generator: draws minibatches and the actions that critics are asked about.
    """

    def __init__(
        self, tutor: Demonstrator, divergence: Divergence, value_weight: float, generator: np.random.Generator
    ) -> None:
        self.tutor, self.divergence, self.value_weight, self._generator = tutor, divergence, value_weight, generator
        #: The agent's family on a scale of its own: the agent's is that of its distiller's targets.
        self.family = copy.copy(tutor.actor.family)
        #: The variance of the teacher's values where that is above 1, see :meth:`calibrate`.
        self.scale = 1.0
        self._held = np.arange(0)  # slots with a state in them; a store that is full may have a million

    def calibrate(self, store: StateStore) -> None:
        """Take the scale of the values, and of a Q-learner's preferences, from held-out states."""
        slots, tutor = held_out(self._slots(store), SCALED_BY), self.tutor
        tutor.look_at(store)
        targets = Pace().joined(lambda some: tutor.targets(store.pick(some)), slots)
        if self.family.needs_scale:
            self.family.calibrate(targets)
        actions = self._actions(targets)

        def expect(some: np.ndarray) -> Tensor | None:
            raw = store.pick(slots[some])
            return tutor.expectations(raw, None if actions is None else actions[torch.from_numpy(some)])

        found = [part for part in Pace().in_chunks(expect, np.arange(len(slots))) if part is not None]
        if found and len(slots) > 1:
            self.scale = max(float(torch.cat(found).var(dim=0).mean()), 1.0)

    def batch(self, store: StateStore, size: int) -> Observations:
        """Draw raw states to learn on."""
        return store.pick(training_slots(self._slots(store), size, self._generator))

    def parts(
        self, policy: nn.Module, raw: Observations, policy_part: bool = True, value_part: bool = True
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return both terms of the loss on raw states, None for a term that is left out or that there is not."""
        tutor = self.tutor
        seen, targets = tutor.seen(raw), tutor.targets(raw)
        first = second = None
        if policy_part:
            student = tutor.actor.parameters(tutor.actor.module(policy), seen)
            first = self.divergence(self.family, targets, student).mean()
        if value_part and self.value_weight > 0.0:
            actions = self._actions(targets)
            expected = tutor.expectations(raw, actions)
            if expected is not None:
                own = expectations(tutor.actor, policy, seen, actions)
                assert own is not None
                second = self.value_weight / self.scale * (expected - own).square().mean()
        return first, second

    def gap(self, policy: nn.Module, store: StateStore) -> float:
        """Return the mean ``KL(teacher || student)`` on held-out states, in nats."""
        scale = getattr(self.family, "tau", 1.0)  # in which a Q-learner's divergence is measured
        return self._on_held_out(self.family.kl, policy, store) / scale

    def agreement(self, policy: nn.Module, store: StateStore) -> float:
        """Return the share of held-out states on which both would act alike."""
        return self._on_held_out(self.family.agreement, policy, store)

    def _on_held_out(self, measure: Callable[[Tensor, Tensor], Tensor], policy: nn.Module, store: StateStore) -> float:
        tutor, module = self.tutor, self.tutor.actor.module(policy)
        slots = held_out(self._slots(store), MOST)

        def summed(some: np.ndarray) -> Tensor:
            raw = store.pick(some)
            student = tutor.actor.parameters(module, tutor.seen(raw))
            return measure(tutor.targets(raw), student).sum()

        with torch.no_grad(), eval_mode(list(policy.modules())):
            sums = Pace().in_chunks(summed, slots)
        return float(torch.stack(sums).sum()) / len(slots)

    def _slots(self, store: StateStore) -> np.ndarray:
        if len(self._held) != store.count:
            self._held = store.slots()
        return self._held

    def _actions(self, targets: Tensor) -> Tensor | None:
        if getattr(self.tutor.policy, "critic", None) is None or self.tutor.actor.has_values:
            return None
        family = self.family
        centre = targets[:, : family.dim].tanh() if isinstance(family, Gaussian) else targets
        noise = torch.as_tensor(self._generator.normal(0.0, NOISE, centre.shape)).to(centre)
        anywhere = torch.as_tensor(self._generator.uniform(-1.0, 1.0, centre.shape)).to(centre)
        half = len(centre) // 2
        return torch.cat([(centre + noise).clamp(-1.0, 1.0)[:half], anywhere[half:]])


def held_out(slots: np.ndarray, most: int) -> np.ndarray:
    """Return up to ``most`` of some slots, on which no student learns, spread evenly; of few slots, all."""
    apart = slots if len(slots) < HELD_OUT else slots[::HELD_OUT]
    return apart[np.unique(np.linspace(0, len(apart) - 1, min(len(apart), most)).astype(np.int64))]


def training_slots(slots: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Draw from those of some slots that are not held out, uniformly and with replacement."""
    count = len(slots)
    if count < HELD_OUT:
        return slots[generator.integers(count, size=size)]
    drawn = generator.integers(count - -(-count // HELD_OUT), size=size)
    found: np.ndarray = slots[drawn + drawn // (HELD_OUT - 1) + 1]
    return found
