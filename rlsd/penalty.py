"""The loss that distillation adds to the agent's own, ``L = L_RL + beta * D``, and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import Actor
from rlsd.chunks import FIRST, Pace
from rlsd.divergences import Divergence
from rlsd.injection import Gradient, clip_and_sanitize, eval_mode
from rlsd.metrics import Metrics
from rlsd.observations import Normalization, as_items, from_items
from rlsd.plain import SavedState, State
from rlsd.strength import Coefficient, Feedback
from rlsd.targets import Batch, TargetCache
from rlsd.timing import Timing

#: What :attr:`Distiller.on_penalty` holds: it is called with the minibatch, the loss and the gradient of a penalty.
PenaltyObserver = Callable[[Batch, Tensor, Gradient], None]

#: How many times as many states as of a teacher's go through the student at a time, whose graph is kept meanwhile.
_GRAPH = 2


@dataclass(frozen=True)
class Update:
    """What one update of the agent is penalized by, from its first gradient step to its last.

    :param beta: the strength.
    :param module: the live acting module.
    :param parameters: those of it that are trained.
    :param modules: all its parts.
    :param normalization: today's statistics, through which it sees raw states; None for none.
    :param clipped: whether the agent clips the sum of all gradients.
    :param value_weight: what the squared error of the values weighs beside ``D``; 0 leaves it out.
    :param policy: whether ``D`` counts at all: not in the steps of a critic that learns apart from the actor.
    :param look_at: the number of the penalty that is looked at closely.
    """

    beta: float
    module: nn.Module
    parameters: list[nn.Parameter]
    modules: list[nn.Module]
    normalization: Normalization | None
    clipped: bool
    value_weight: float
    policy: bool = True
    look_at: int = 0


class Student(NamedTuple):
    """The live policy's distributions and values on the states of a minibatch.

    :param parameters: of its action distributions, ``(batch, family.size)``.
    :param values: of the states, ``(batch,)``, where they count.
    """

    parameters: Tensor
    values: Tensor | None = None


class Loss(NamedTuple):
    """The penalty of one minibatch: scalars; of ARS's candidates ``(candidates,)``.

    :param total: what is added to the agent's own loss.
    :param at_1: the same at strength 1.
    :param divergence: the mean of ``D`` by itself.
    :param gates: the mean factor of the gates that decide state by state; None without such gates.
    """

    total: Tensor
    at_1: Tensor
    divergence: Tensor
    gates: Tensor | None


class Penalty:
    """The penalty of one agent, update by update.

    :param actor: the adapter to the agent's way of acting.
    :param divergence: by what measure of difference.
    :param timing: at which gradient steps.
    :param coefficient: beta; of it, the gates that decide state by state and the largest norm of the gradient, where
        SB3 does not clip the sum.
    :param cache: minibatches with the teacher's targets.
    :param metrics: takes the metrics.
    """

    def __init__(
        self,
        actor: Actor,
        divergence: Divergence,
        timing: Timing,
        coefficient: Coefficient,
        cache: TargetCache,
        metrics: Metrics,
    ) -> None:
        self.actor, self.divergence, self.timing, self.coefficient = actor, divergence, timing, coefficient
        self.cache, self.metrics = cache, metrics
        #: Called with every penalty, see :attr:`Distiller.on_penalty`.
        self.observers: list[PenaltyObserver] = []
        #: The update that runs; None between updates.
        self.update: Update | None = None
        #: Gradient steps of the actor while there was something to learn, and how many of them carried a penalty.
        self.steps = 0
        self.deposits = 0
        #: Gradient steps of a critic that learns apart from the actor, meanwhile.
        self.critic_steps = 0
        #: Minibatches drawn; more than deposits where some held no state on which the student is held.
        self.drawn = 0
        #: Gradients that were not finite and were dropped.
        self.dropped = torch.zeros((), device=cache.store.device)
        #: Whether the latest gradient is the one to be compared with the agent's own.
        self.wants_ratio = False
        self._pace = Pace()
        self._begun_at = 0  # minibatches drawn when the update began
        self._stride = 1  # of the latest gradient step
        self._shrunk = torch.ones((), device=cache.store.device)  # what the bound left of the latest gradient
        self._divergences: list[Tensor] = []  # of this update, where the strength follows them
        self._ratio: Tensor | None = None

    def begin(self, agent: BaseAlgorithm, beta: float) -> None:
        """Prepare for an update of the agent at strength ``beta``."""
        expected = max(self.drawn - self._begun_at, 1)  # as many as in the last update
        self._begun_at, self._divergences, self._ratio = self.drawn, [], None
        module = self.actor.module(agent.policy)
        self.update = Update(
            beta,
            module,
            [p for p in module.parameters() if p.requires_grad],
            list(module.modules()),
            Normalization.of(agent),
            clipped=getattr(agent, "max_grad_norm", None) is not None,
            value_weight=self.divergence.value_weight,
            # Once an update, in its middle: at its start a fresh teacher still equals its student.
            look_at=self.deposits + expected // 2,
        )
        self.cache.begin(expected)

    def end(self) -> None:
        """Let go of the agent."""
        self.update = None

    def loss(
        self, update: Update, batch: Batch, student: Student, stride: int = 1, candidates: Sequence[Tensor] = ()
    ) -> Loss:
        """Return ``beta * stride * mean over s of w(s) * (D(teacher, student)(s) + c * (V_T(s) - V_S(s))**2)``.

        :param update: has ``beta``, and the weight ``c`` of the values.
        :param batch: has the teacher's targets and values ``V_T``.
        :param student: the live policy's parameters and values ``V_S``.
        :param stride: how many gradient steps this penalty is for.
        :param candidates: ARS's, each ``(batch, family.size)``, penalized in the live policy's place.
        """
        family = self.actor.family
        # D(s), or only the values where a critic learns apart
        apart = [self.divergence(family, batch.targets, one) for one in candidates or (student.parameters,)]
        divergence = torch.stack(apart) if candidates else apart[0]
        each = divergence if update.policy else torch.zeros_like(divergence)
        if update.value_weight and batch.values is not None and student.values is not None:
            each = each + update.value_weight * (batch.values - student.values).square()

        # w(s): how firmly the teacher holds the state, times how far the gates are open there
        weights, gates = batch.hold, None
        if self.coefficient.per_state:
            gates = self.coefficient.weights(batch.for_gates(family, *student))
        if gates is not None:
            weights = gates if weights is None else gates * weights

        mean = _mean(divergence, batch.hold)
        at_1 = (
            mean if each is divergence and weights is None else (each if weights is None else weights * each).mean(-1)
        )
        return Loss(at_1 * (update.beta * stride), at_1, mean, None if gates is None else gates.mean())

    def draw(self) -> tuple[Batch | None, int]:
        """Return the minibatch of this gradient step and its stride; None and 0 when there is none."""
        self._stride = self.timing.weight(self.steps)
        self.steps += 1
        if self._stride == 0:
            return None, 0
        self.drawn += 1
        return self.cache.next(), self._stride

    def gradients(self) -> Gradient:
        """Return the gradient to inject at this gradient step, by parameter; empty when this step gets none."""
        with self.metrics.timed():
            update, (batch, stride) = self.update, self.draw()
            if batch is None or update is None:
                return ()
            with eval_mode(update.modules), torch.enable_grad():
                loss, found = self._differentiated(update, batch, stride)
            pairs = [(p, g) for p, g in zip(update.parameters, found, strict=False) if g is not None]
            if loss is None or not pairs:
                return ()
            bound = None if update.clipped else self.coefficient.strength.bound * stride
            pairs, finite, self._shrunk = clip_and_sanitize(pairs, bound)
            self.dropped += ~finite
            self.tell(batch, loss, pairs)
            return pairs

    def tell(self, batch: Batch, loss: Loss, gradient: Gradient) -> None:
        """Show a penalty to those who observe."""
        for observer in self.observers:
            observer(batch, loss.total.detach(), gradient)

    @property
    def running(self) -> Update:
        """The update that runs."""
        assert self.update is not None, "no update runs"
        return self.update

    def student(self, update: Update, batch: Batch, piece: slice = slice(None)) -> Student:
        """Return the live policy's distributions and values on some of the states."""
        seen = batch.states
        if piece != slice(None):
            seen = from_items({key: tensor[piece] for key, tensor in as_items(seen).items()})
        if update.normalization is not None:
            seen = update.normalization(seen)
        parameters = self.actor.parameters(update.module, seen)
        return Student(parameters, None if batch.values is None else self.actor.values(update.module, seen))

    def _differentiated(self, update: Update, batch: Batch, stride: int) -> tuple[Loss | None, Sequence[Tensor | None]]:
        """Return the loss and its gradient by each parameter; None and nothing when no parameter is trained."""
        count = len(batch.targets)
        if self._pace.at_once is None and count > FIRST:
            with torch.no_grad():
                self._pace.measure(lambda: self.student(update, batch, slice(FIRST)), FIRST)
        at_once = _GRAPH * (self._pace.at_once or count)
        if count > at_once:
            return self._in_pieces(update, batch, stride, at_once)
        student = self.student(update, batch)
        loss = self.loss(update, batch, student, stride)
        if not loss.total.requires_grad:
            return None, ()  # the user has frozen all of it: there is nothing to pull
        self.record(update, batch, student, loss)
        return loss, torch.autograd.grad(loss.total, update.parameters, allow_unused=True)

    def _in_pieces(
        self, update: Update, batch: Batch, stride: int, at_once: int
    ) -> tuple[Loss | None, Sequence[Tensor | None]]:
        """Return the same for a network that makes much of each state: no more than a few go through it at a time.

        They go through twice. In between, the loss is differentiated by what the network made of all of them. So no
        more than the graph of a few is in memory.
        """
        pieces = [slice(start, start + at_once) for start in range(0, len(batch.targets), at_once)]
        parts, learns = [], False
        for piece in pieces:
            student = self.student(update, batch, piece)
            made = [part for part in student if part is not None]
            learns = learns or any(part.requires_grad for part in made)
            parts.append([part.detach() for part in made])
        if not learns:
            return None, ()
        whole = [torch.cat(some).requires_grad_() for some in zip(*parts, strict=True)]
        loss = self.loss(update, batch, Student(*whole), stride)
        self.record(update, batch, Student(*whole), loss)
        slopes = torch.autograd.grad(loss.total, whole, allow_unused=True)
        sums: list[Tensor | None] = [None] * len(update.parameters)
        for piece in pieces:
            both = zip(self.student(update, batch, piece), slopes, strict=False)
            used = [(part, slope[piece]) for part, slope in both if part is not None and slope is not None]
            outputs, weights = zip(*((part, slope) for part, slope in used if part.requires_grad), strict=True)
            found = torch.autograd.grad(outputs, update.parameters, weights, allow_unused=True)
            sums = [g if total is None or g is None else total + g for total, g in zip(sums, found, strict=True)]
        return loss, sums

    def record(self, update: Update, batch: Batch, student: Student, loss: Loss) -> None:
        """Count a penalty of the actor and add its metrics."""
        self.metrics.add("kl", loss.divergence)
        self.metrics.add("loss", loss.at_1 * update.beta)
        if loss.gates is not None:
            self.metrics.add("open", loss.gates)
        if self.coefficient.control is not None:
            self._divergences.append(loss.divergence.detach())
        self.wants_ratio = self.deposits == update.look_at
        if self.wants_ratio:
            family, parameters = self.actor.family, student.parameters.detach()
            self.metrics.add("agreement", _mean(family.agreement(batch.targets, parameters), batch.hold))
            self.metrics.add("teacher_entropy", _mean(family.entropy(batch.targets), batch.hold))
            self.metrics.add("student_entropy", _mean(family.entropy(parameters), batch.hold))
        self.deposits += 1

    def ratio(self, injected: Tensor, own: Tensor) -> None:
        """Record the norms of the injected gradient and of the agent's own, on the same parameters."""
        # A stride injects several steps' worth at once; the metric is for one.
        ratio = injected / self._stride / (own + 1e-12)
        self.metrics.add("grad_ratio", ratio)
        if self.update is not None:
            self._ratio = ratio / (self.update.beta * self._shrunk)

    def feedback(self, agent: BaseAlgorithm) -> Feedback:
        """Return how the update went that has just ended. Waits for the device."""
        mean = float(torch.stack(self._divergences).mean()) if self._divergences else None
        ratio = None if self._ratio is None else float(self._ratio)
        return Feedback(mean, _policy_loss(agent), ratio)

    def state(self) -> State:
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

    def load(self, state: SavedState) -> None:
        """Load what :meth:`state` returned."""
        self.steps, self.deposits = int(state["steps"]), int(state["deposits"])
        self.drawn, self._begun_at = int(state["drawn"]), int(state["begun_at"])
        self.critic_steps = int(state["critic_steps"])
        self.dropped.fill_(float(state["dropped"]))
        self._pace.load(state.get("at_once"))


#: Under which key an algorithm logs the loss that trains the acting module.
_LOSSES = ("policy_gradient_loss", "policy_loss", "policy_objective", "actor_loss", "loss")


def _policy_loss(agent: BaseAlgorithm) -> float | None:
    logged = agent.logger.name_to_value
    key = next((key for key in (f"train/{name}" for name in _LOSSES) if key in logged), None)
    return None if key is None else float(logged[key])


def _mean(each: Tensor, hold: Tensor | None) -> Tensor:
    """Return the mean over the states on which the student is held: others may have no target."""
    if hold is None:
        return each.mean(-1)
    held = hold > 0
    return torch.where(held, each, 0.0).sum(-1) / held.sum().clamp(min=1)
