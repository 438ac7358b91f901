"""``beta * D`` on the next minibatch, in each form an SB3 algorithm can take up: a gradient, a term, a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import Actor, RandomSearchActor
from rlsd.chunks import FIRST, Pace
from rlsd.divergences import Divergence
from rlsd.gates import GateInput
from rlsd.injection import clip_and_sanitize, eval_mode
from rlsd.metrics import Metrics
from rlsd.observations import Normalization, Observations, as_items, from_items
from rlsd.strength import Coefficient, Feedback
from rlsd.targets import Batch, TargetCache
from rlsd.teachers import Teacher
from rlsd.timing import Timing

#: How many times as many states as of a teacher's go through the student at a time, whose graph is kept meanwhile.
_GRAPH = 2


class Penalty:
    """The penalty of one agent, update by update.

    :param actor: the adapter to the agent's way of acting.
    :param divergence: by what measure of difference.
    :param timing: at which gradient steps.
    :param coefficient: beta; of it, the gates that decide state by state and the largest norm of the gradient, where
        SB3 does not clip the sum.
    :param cache: minibatches with the teacher's answers.
    :param teacher: who gives them.
    :param metrics: takes the figures.
    """

    def __init__(
        self,
        actor: Actor,
        divergence: Divergence,
        timing: Timing,
        coefficient: Coefficient,
        cache: TargetCache,
        teacher: Teacher,
        metrics: Metrics,
    ) -> None:
        self.actor, self.divergence, self.timing, self.coefficient = actor, divergence, timing, coefficient
        self.cache, self.teacher, self.metrics = cache, teacher, metrics
        #: Gradient steps of the actor while there was something to learn, and how many of them carried a penalty.
        self.steps = 0
        self.deposits = 0
        #: Gradient steps of a critic that learns apart from the actor, meanwhile.
        self.critic_steps = 0
        #: Minibatches drawn; more than deposits where some held no state on which the student is held.
        self.drawn = 0
        #: Gradients that were not finite and were dropped.
        self.dropped = torch.zeros((), device=cache.store.device)
        self._pace = Pace()
        self._expected = 1  # deposits in the coming update: as many as in the last
        self._begun_at = 0
        self._look_at = 0
        self._weight = 1
        self._shrunk = torch.ones((), device=cache.store.device)  # what the bound left of the latest gradient

    def begin(self, agent: BaseAlgorithm, beta: float) -> None:
        """Prepare for an update of the agent at strength ``beta``."""
        self._expected = max(self.drawn - self._begun_at, 1)
        self._begun_at = self.drawn
        # Looked at closely once an update, in its middle: at its start a fresh teacher still equals its student.
        self._look_at = self.deposits + self._expected // 2
        self._beta = beta
        self._divergences: list[Tensor] = []
        self._ratio: Tensor | None = None
        self._clipped = getattr(agent, "max_grad_norm", None) is not None
        self._critic_apart = hasattr(agent, "_compute_actor_grad")
        self._module = self.actor.module(agent.policy)
        self._parameters = [p for p in self._module.parameters() if p.requires_grad]
        self._modules = list(self._module.modules())
        self._normalization = Normalization.of(agent)
        self.cache.begin(self.teacher, self._expected)

    def feedback(self, agent: BaseAlgorithm) -> Feedback:
        """Return how the update went that has just ended. Waits for the device."""
        mean = float(torch.stack(self._divergences).mean()) if self._divergences else None
        ratio = None if self._ratio is None else float(self._ratio)
        return Feedback(mean, _policy_loss(agent), ratio)

    def end(self) -> None:
        """Let go of the agent."""
        del self._module, self._parameters, self._modules, self._normalization

    def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return the gradient to deposit at this gradient step, by parameter; nothing when this step gets none."""
        with self.metrics.timed():
            batch = self._next()
            if batch is None:
                return ()
            with eval_mode(self._modules), torch.enable_grad():
                gradients = self._gradients(batch)
            return self._bounded([(p, g) for p, g in zip(self._parameters, gradients, strict=False) if g is not None])

    def _gradients(self, batch: Batch) -> Sequence[Tensor | None]:
        """Return the gradient by each parameter, nothing when none is learned.

        Where the network makes much of each state, few go through it at a time, and twice: what they are told apart by
        is differentiated in between. So no more than the graph of a few is in memory.
        """
        count = len(batch.targets)
        if self._pace.at_once is None and count > FIRST:
            with torch.no_grad():
                self._pace.measure(lambda: self._answers(batch, slice(FIRST)), FIRST)
        at_once = _GRAPH * (self._pace.at_once or count)
        pieces = [slice(start, start + at_once) for start in range(0, count, at_once)]
        if len(pieces) == 1:
            answers = self._answers(batch, pieces[0])
            if not any(answer.requires_grad for answer in answers):
                return ()  # the user has frozen all of it: there is nothing to pull
            return torch.autograd.grad(self._difference(batch, *answers), self._parameters, allow_unused=True)
        parts, learned = [], False
        for piece in pieces:
            answers = self._answers(batch, piece)
            learned = learned or any(answer.requires_grad for answer in answers)
            parts.append([answer.detach() for answer in answers])
        if not learned:
            return ()
        whole = [torch.cat(some).requires_grad_() for some in zip(*parts, strict=True)]
        slopes = torch.autograd.grad(self._difference(batch, *whole), whole, allow_unused=True)
        sums: list[Tensor | None] = [None] * len(self._parameters)
        for piece in pieces:
            both = zip(self._answers(batch, piece), slopes, strict=True)
            used = [(answer, slope[piece]) for answer, slope in both if slope is not None and answer.requires_grad]
            outputs, weights = zip(*used, strict=True)
            found = torch.autograd.grad(outputs, self._parameters, weights, allow_unused=True)
            sums = [g if total is None or g is None else total + g for total, g in zip(sums, found, strict=True)]
        return sums

    def _answers(self, batch: Batch, piece: slice) -> list[Tensor]:
        """Return the student's parameters on some of the states, and its values of them where they count."""
        some = from_items({key: tensor[piece] for key, tensor in as_items(batch.states).items()})
        seen = self._seen(some)
        answers = [self.actor.parameters(self._module, seen)]
        return answers if batch.values is None else [*answers, self.actor.values(self._module, seen)]

    def loss(self) -> Tensor | None:
        """Return ``beta * D``, with its graph, for this gradient step; None when this step gets none."""
        batch = self._next()
        if batch is None:
            return None
        with eval_mode(self._modules), torch.enable_grad():
            answers = self._answers(batch, slice(None))
            return self._difference(batch, *answers) if any(answer.requires_grad for answer in answers) else None

    def _next(self) -> Batch | None:
        """Return the minibatch of this gradient step, None when there is none."""
        self._weight = self.timing.weight(self.steps)
        self.steps += 1
        if self._weight == 0:
            return None
        self.drawn += 1
        return self.cache.next(self.teacher)

    def _difference(self, batch: Batch, student: Tensor, values: Tensor | None = None) -> Tensor:
        """Return the loss of this gradient step, and record it.

        :param student: the student's parameters on the states.
        :param values: its values of them, where they count.
        """
        loss, divergence = self._loss_at_1(batch, student, values)
        self._note(divergence, loss)
        if self.deposits == self._look_at:
            self._look(batch.targets, student.detach())
        self.deposits += 1
        return loss * (self._beta * self._weight)

    def _loss_at_1(self, batch: Batch, student: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the loss at strength 1, and the mean divergence."""
        per_state = self.divergence(self.actor.family, batch.targets, student)
        loss = per_state
        if self.divergence.value_weight and batch.values is not None and values is not None and not self._critic_apart:
            loss = loss + self.divergence.value_weight * (batch.values - values).square()
        weights = self._weights(batch, student, values)
        divergence = per_state.mean()
        if weights is not None:
            return (weights * loss).mean(), divergence
        return (divergence if loss is per_state else loss.mean()), divergence

    def _weights(self, batch: Batch, student: Tensor, values: Tensor | None) -> Tensor | None:
        """Return the weight of each state, ``(batch,)``, None for 1 everywhere."""
        if not self.coefficient.per_state:
            return batch.hold
        seen_values = None if values is None else values.detach()
        situation = GateInput(
            self.actor.family, batch.targets, student.detach(), batch.values, seen_values, batch.spread
        )
        with torch.no_grad():
            weights = self.coefficient.weights(situation)
        if weights is None:
            return batch.hold
        self.metrics.add("open", weights.mean())
        return weights if batch.hold is None else weights * batch.hold

    def term(self) -> Tensor | None:
        """Return :meth:`loss` for an objective that is differentiated elsewhere; None also when it is not finite."""
        loss = self.loss()
        if loss is None:
            return None
        gradients = torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)
        finite = torch.isfinite(torch.stack(torch._foreach_norm([g for g in gradients if g is not None]))).all()
        self.dropped += ~finite
        return loss if bool(finite) else None

    def critic_gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return the gradient of ``beta * value_weight * (V_T - V_S)**2`` for a step of a critic that learns apart.

        Parameters that the actions come from too have none: such an agent moves them by the actor's step alone.
        """
        weight = self.timing.weight(self.critic_steps)
        self.critic_steps += 1
        if weight == 0:
            return ()
        self.drawn += 1
        batch = self.cache.next(self.teacher)
        if batch is None:
            return ()
        assert batch.values is not None
        with eval_mode(self._modules), torch.enable_grad():
            seen = self._seen(batch.states)
            student, values = self.actor.parameters(self._module, seen), self.actor.values(self._module, seen)
        acting = torch.autograd.grad(student.sum(), self._parameters, allow_unused=True)
        apart = [p for p, used in zip(self._parameters, acting, strict=True) if used is None]
        loss = (batch.values - values).square()
        weights = self._weights(batch, student.detach(), values)
        loss = self._beta * weight * self.divergence.value_weight * (loss if weights is None else weights * loss).mean()
        gradients = zip(apart, torch.autograd.grad(loss, apart, allow_unused=True), strict=True)
        found, finite, _ = clip_and_sanitize(
            [(p, g) for p, g in gradients if g is not None], self.coefficient.strength.bound * weight
        )
        self.dropped += ~finite
        return found

    def scores(self, candidates: Tensor) -> Tensor:
        """Return ``beta * D`` of each ARS candidate, ``(candidates,)``, from weights ``(candidates, weights)``."""
        assert isinstance(self.actor, RandomSearchActor)
        self.steps += 1
        self.drawn += 1
        batch = self.cache.next(self.teacher)
        if batch is None:
            return torch.zeros(len(candidates), device=candidates.device)
        seen = self._seen(batch.states)
        with torch.no_grad(), eval_mode(self._modules):
            answers = self.actor.candidates(self._module, seen)(candidates)
            student = self.actor.parameters(self._module, seen)
            weights = self._weights(batch, student, None)
            parts = torch.stack([self.divergence(self.actor.family, batch.targets, a) for a in answers])
            losses = (parts if weights is None else parts * weights).mean(-1)
            self._look(batch.targets, student)
        finite = torch.isfinite(losses)
        self.dropped += (~finite).sum()
        losses = torch.where(finite, losses, 0.0)
        self._note(torch.where(finite, parts.mean(-1), 0.0).mean(), losses.mean())
        self.deposits += 1
        return self._beta * losses

    @property
    def wants_ratio(self) -> bool:
        """Whether the deposit just made is the one to be compared with the agent's own gradient."""
        return self.deposits - 1 == self._look_at

    def ratio(self, deposited: Tensor, own: Tensor) -> None:
        """Record the norms of the deposited gradient and of the agent's own, on the same parameters."""
        # A stride deposits several steps' worth at once; the figure is for one.
        ratio = deposited / self._weight / (own + 1e-12)
        self.metrics.add("grad_ratio", ratio)
        self._ratio = ratio / (self._beta * self._shrunk)

    def state(self) -> dict[str, Any]:
        """Return the counters as plain data."""
        return {
            "steps": self.steps,
            "deposits": self.deposits,
            "drawn": self.drawn,
            "critic_steps": self.critic_steps,
            "begun_at": self._begun_at,
            "dropped": float(self.dropped),
            "at_once": self._pace.at_once,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state` returned."""
        self.steps, self.deposits = int(state["steps"]), int(state["deposits"])
        self.drawn, self._begun_at = int(state["drawn"]), int(state["begun_at"])
        self.critic_steps = int(state["critic_steps"])
        self.dropped.fill_(float(state["dropped"]))
        self._pace.load(state.get("at_once"))

    def _seen(self, states: Observations) -> Observations:
        return states if self._normalization is None else self._normalization(states)

    def _bounded(self, gradients: list[tuple[nn.Parameter, Tensor]]) -> list[tuple[nn.Parameter, Tensor]]:
        """Drop a gradient that is not all finite, and count it; shrink one too large, where nothing else would."""
        if not gradients:
            return gradients
        bound = None if self._clipped else self.coefficient.strength.bound * self._weight
        gradients, finite, self._shrunk = clip_and_sanitize(gradients, bound)
        self.dropped += ~finite
        return gradients

    def _note(self, divergence: Tensor, loss: Tensor) -> None:
        self.metrics.add("kl", divergence)
        self.metrics.add("loss", loss * self._beta)
        if self.coefficient.control is not None:
            self._divergences.append(divergence.detach())

    def _look(self, teacher: Tensor, student: Tensor) -> None:
        family = self.actor.family
        self.metrics.add("agreement", family.agreement(teacher, student).mean())
        self.metrics.add("teacher_entropy", family.entropy(teacher).mean())
        self.metrics.add("student_entropy", family.entropy(student).mean())


class CriticPenalty:
    """The part of a penalty that a critic's own steps carry, where they are not the actor's: TRPO's."""

    wants_ratio = False

    def __init__(self, penalty: Penalty) -> None:
        self._penalty = penalty

    def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return the gradient to deposit at this gradient step, by parameter; nothing when this step gets none."""
        return self._penalty.critic_gradients()

    def ratio(self, deposited: Tensor, own: Tensor) -> None:
        """Record no ratio: that of the figures is the actor's."""


#: Under which key an algorithm logs the loss that trains the acting module.
_LOSSES = ("policy_gradient_loss", "policy_loss", "policy_objective", "actor_loss", "loss")


def _policy_loss(agent: BaseAlgorithm) -> float | None:
    logged = agent.logger.name_to_value
    key = next((key for key in (f"train/{name}" for name in _LOSSES) if key in logged), None)
    return None if key is None else float(logged[key])
