"""TRPO: the penalty is part of the objective whose natural gradient is taken; its critic learns apart."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.algorithms.base import Algorithm
from rlsd.injection import Gradient, Injection, clip_and_sanitize, eval_mode
from rlsd.penalty import Penalty


class NaturalGradient(Algorithm):
    """Subtracts the penalty from the surrogate objective, and injects its value term into the critic's steps.

    Whether a step is accepted is still decided by the plain objective and SB3's KL limit.
    """

    compares_gradients: ClassVar[bool] = False

    @classmethod
    def is_of(cls, algorithm: type[BaseAlgorithm]) -> bool:  # noqa: D102
        return hasattr(algorithm, "_compute_actor_grad")

    def armed(self, agent: BaseAlgorithm) -> AbstractContextManager[None]:
        """Let the value term into the critic's steps; the rest is left to :meth:`penalized`."""
        optimizer = self.penalty.actor.optimizer(agent.policy)
        if optimizer is None or not self.penalty.divergence.value_weight:
            return nullcontext()
        return Injection(optimizer, CriticPenalty(self.penalty)).armed()

    def penalized(self, objective: Tensor) -> Tensor:
        """Return the objective less the penalty, outside an update as it is."""
        if self.penalty.update is None:
            return objective
        with self.penalty.metrics.timed():
            term = self.term()
        return objective if term is None else objective - term

    def term(self) -> Tensor | None:
        """Return the penalty with its graph; None when this step gets none, or it is not finite."""
        penalty = self.penalty
        update = replace(penalty.running, value_weight=0.0)  # values are the critic's
        batch, stride = penalty.draw()
        if batch is None:
            return None
        with eval_mode(update.modules), torch.enable_grad():
            student = penalty.student(update, batch)
            loss = penalty.loss(update, batch, student, stride)
        if not loss.total.requires_grad:
            return None
        penalty.record(update, batch, student, loss)
        found = torch.autograd.grad(loss.total, update.parameters, retain_graph=True, allow_unused=True)
        finite = torch.isfinite(torch.stack(torch._foreach_norm([g for g in found if g is not None]))).all()
        penalty.dropped += ~finite
        penalty.tell(batch, loss, ())
        return loss.total if bool(finite) else None

    @staticmethod
    def methods(base: type[BaseAlgorithm], cls: type[Any]) -> dict[str, Callable[..., Any]]:  # noqa: D102
        def _compute_actor_grad(self: Any, kl_div: Tensor, policy_objective: Tensor) -> Any:
            if self.distiller is not None:
                for member in self.distiller.members.values():
                    policy_objective = member.algorithm.penalized(policy_objective)
            return super(cls, self)._compute_actor_grad(kl_div, policy_objective)  # type: ignore[misc]

        return {"_compute_actor_grad": _compute_actor_grad}


class CriticPenalty:
    """What the critic's own steps carry: the value term alone."""

    wants_ratio = False

    def __init__(self, penalty: Penalty) -> None:
        self._penalty = penalty

    def gradients(self) -> Gradient:
        """Return the gradient to inject at this gradient step, by parameter; empty when this step gets none.

        Parameters that the actions come from too have none: such an agent moves them by the actor's step alone.
        """
        penalty = self._penalty
        stride = penalty.timing.weight(penalty.critic_steps)
        penalty.critic_steps += 1
        if stride == 0:
            return ()
        penalty.drawn += 1
        batch, weight = penalty.cache.next(), penalty.divergence.value_weight
        if batch is None:
            return ()
        update = replace(penalty.running, policy=False, value_weight=1.0, beta=penalty.running.beta * weight)
        with eval_mode(update.modules), torch.enable_grad():
            student = penalty.student(update, batch)
        acting = torch.autograd.grad(student.parameters.sum(), update.parameters, allow_unused=True)
        apart = [p for p, used in zip(update.parameters, acting, strict=True) if used is None]
        loss = penalty.loss(update, batch, student, stride)
        if loss.gates is not None:
            penalty.metrics.add("open", loss.gates)
        found = zip(apart, torch.autograd.grad(loss.total, apart, allow_unused=True), strict=True)
        bound = penalty.coefficient.strength.bound * stride
        pairs, finite, _ = clip_and_sanitize([(p, g) for p, g in found if g is not None], bound)
        penalty.dropped += ~finite
        penalty.tell(batch, loss, pairs)
        return pairs

    def ratio(self, injected: Tensor, own: Tensor) -> None:
        """Record no ratio: that of the metrics is the actor's."""
