"""``beta * D`` on the next minibatch, in each form an SB3 algorithm can take up: a gradient, a term, a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import Actor, RandomSearchActor
from rlsd.deposit import acting_as_evaluated
from rlsd.divergences import Divergence
from rlsd.monitoring import Figures
from rlsd.observations import Normalization, Observations
from rlsd.replay import Batch, Replay
from rlsd.teachers import Teacher
from rlsd.timing import Timing


class Penalty:
    """The penalty of one agent, update by update.

    :param actor: the adapter to the agent's way of acting.
    :param divergence: by what measure of difference.
    :param timing: at which gradient steps.
    :param bound: the largest norm of the gradient, where SB3 does not clip the sum.
    :param replay: minibatches with the teacher's answers.
    :param teacher: who gives them.
    :param monitor: takes the figures.
    """

    def __init__(
        self,
        actor: Actor,
        divergence: Divergence,
        timing: Timing,
        bound: float,
        replay: Replay,
        teacher: Teacher,
        monitor: Figures,
    ) -> None:
        self.actor, self.divergence, self.timing, self.bound = actor, divergence, timing, bound
        self.replay, self.teacher, self.monitor = replay, teacher, monitor
        #: Gradient steps of the actor while there was something to learn, and how many of them carried a penalty.
        self.steps = 0
        self.deposits = 0
        #: Gradients that were not finite and were dropped.
        self.dropped = torch.zeros((), device=replay.store.device)
        self._expected = 1  # deposits in the coming update: as many as in the last
        self._begun_at = 0
        self._look_at = 0
        self._weight = 1

    def begin(self, agent: BaseAlgorithm, beta: float) -> None:
        """Prepare for an update of the agent at strength ``beta``."""
        self._expected = max(self.deposits - self._begun_at, 1)
        self._begun_at = self.deposits
        # Looked at closely once an update, in its middle: at its start a fresh teacher still equals its student.
        self._look_at = self.deposits + self._expected // 2
        self._beta = beta
        self._clipped = getattr(agent, "max_grad_norm", None) is not None
        self._module = self.actor.module(agent.policy)
        self._parameters = [p for p in self._module.parameters() if p.requires_grad]
        self._modules = list(self._module.modules())
        self._normalization = Normalization.of(agent)
        self.replay.begin(self.teacher, self._expected)

    def end(self) -> None:
        """Let go of the agent."""
        del self._module, self._parameters, self._modules, self._normalization

    def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return the gradient to deposit at this gradient step, by parameter; nothing when this step gets none."""
        with self.monitor.timed():
            loss = self.loss()
            if loss is None:
                return ()
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            return self._bounded([(p, g) for p, g in zip(self._parameters, gradients, strict=True) if g is not None])

    def loss(self) -> Tensor | None:
        """Return ``beta * D``, with its graph, for this gradient step; None when this step gets none."""
        self._weight = self.timing.weight(self.steps)
        self.steps += 1
        if self._weight == 0:
            return None
        batch = self.replay.next(self.teacher)
        with acting_as_evaluated(self._modules), torch.enable_grad():
            student = self.actor.parameters(self._module, self._seen(batch))
            divergence = self.divergence(self.actor.family, batch.targets, student).mean()
        self._note(divergence)
        if self.deposits == self._look_at:
            self._look(batch.targets, student.detach())
        self.deposits += 1
        return divergence * (self._beta * self._weight)

    def term(self) -> Tensor | None:
        """Return :meth:`loss` for an objective that is differentiated elsewhere; None also when it is not finite."""
        loss = self.loss()
        if loss is None:
            return None
        gradients = torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)
        finite = torch.isfinite(torch.stack(torch._foreach_norm([g for g in gradients if g is not None]))).all()
        self.dropped += ~finite
        return loss if bool(finite) else None

    def scores(self, candidates: Tensor) -> Tensor:
        """Return ``beta * D`` of each ARS candidate, ``(candidates,)``, from weights ``(candidates, weights)``."""
        assert isinstance(self.actor, RandomSearchActor)
        batch = self.replay.next(self.teacher)
        seen = self._seen(batch)
        with torch.no_grad(), acting_as_evaluated(self._modules):
            answers = self.actor.candidates(self._module, seen)(candidates)
            divergences = torch.stack([self.divergence(self.actor.family, batch.targets, a).mean() for a in answers])
            self._look(batch.targets, self.actor.parameters(self._module, seen))
        finite = torch.isfinite(divergences)
        self.dropped += (~finite).sum()
        divergences = torch.where(finite, divergences, 0.0)
        self._note(divergences.mean())
        self.steps += 1
        self.deposits += 1
        return self._beta * divergences

    @property
    def wants_ratio(self) -> bool:
        """Whether the deposit just made is the one to be compared with the agent's own gradient."""
        return self.deposits - 1 == self._look_at

    def ratio(self, deposited: Tensor, own: Tensor) -> None:
        """Take note of the norms of the deposited gradient and of the agent's own, on the same parameters."""
        # A stride deposits several steps' worth at once; the figure is for one.
        self.monitor.add("grad_ratio", deposited / self._weight / (own + 1e-12))

    def state(self) -> dict[str, Any]:
        """Return the counters as plain data."""
        return {
            "steps": self.steps,
            "deposits": self.deposits,
            "begun_at": self._begun_at,
            "dropped": float(self.dropped),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        self.steps, self.deposits, self._begun_at = (int(state[key]) for key in ("steps", "deposits", "begun_at"))
        self.dropped.fill_(float(state["dropped"]))

    def _seen(self, batch: Batch) -> Observations:
        return batch.states if self._normalization is None else self._normalization(batch.states)

    def _bounded(self, gradients: list[tuple[nn.Parameter, Tensor]]) -> list[tuple[nn.Parameter, Tensor]]:
        """Drop a gradient that is not all finite, and count it; shrink one too large, where nothing else would.

        Neither waits for the device.
        """
        if not gradients:
            return gradients
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([g for _, g in gradients])))
        finite = torch.isfinite(norm)
        self.dropped += ~finite
        if self._clipped:
            return [(p, torch.where(finite, g, 0.0)) for p, g in gradients]
        scale = (self.bound * self._weight / (norm + 1e-12)).clamp(max=1.0)
        return [(p, torch.where(finite, g * scale, 0.0)) for p, g in gradients]

    def _note(self, divergence: Tensor) -> None:
        self.monitor.add("kl", divergence)
        self.monitor.add("loss", divergence * self._beta)

    def _look(self, teacher: Tensor, student: Tensor) -> None:
        family = self.actor.family
        self.monitor.add("agreement", family.agreement(teacher, student).mean())
        self.monitor.add("teacher_entropy", family.entropy(teacher).mean())
        self.monitor.add("student_entropy", family.entropy(student).mean())
