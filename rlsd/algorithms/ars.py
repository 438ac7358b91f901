"""ARS has no gradient: the penalty is taken off each candidate's return."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from rlsd.actors import RandomSearchActor
from rlsd.algorithms.base import Algorithm
from rlsd.injection import eval_mode
from rlsd.penalty import Student
from rlsd.sources import EvaluationSource


class RandomSearch(Algorithm):
    """Judges each candidate by its return less ``beta * D``, which is in the unit of the return."""

    compares_gradients: ClassVar[bool] = False

    @classmethod
    def is_of(cls, algorithm: type[BaseAlgorithm]) -> bool:  # noqa: D102
        return hasattr(algorithm, "evaluate_candidates")

    def armed(self, agent: BaseAlgorithm) -> AbstractContextManager[None]:
        """Leave it to :meth:`judged`: nothing is put into the agent."""
        return nullcontext()

    def judged(self, candidates: Tensor, returns: Tensor) -> Tensor:
        """Return the candidates' returns less each one's penalty, outside an update as they are."""
        if self.penalty.update is None:
            return returns
        with self.penalty.metrics.timed():
            return returns - self.scores(candidates)

    def scores(self, candidates: Tensor) -> Tensor:
        """Return the penalty of each candidate, ``(candidates,)``, from weights ``(candidates, weights)``."""
        penalty, update, actor = self.penalty, self.penalty.running, self.penalty.actor
        assert isinstance(actor, RandomSearchActor)
        penalty.steps += 1
        penalty.drawn += 1
        batch = penalty.cache.next()
        if batch is None:
            return torch.zeros(len(candidates), device=candidates.device)
        seen = batch.states if update.normalization is None else update.normalization(batch.states)
        with torch.no_grad(), eval_mode(update.modules):
            student = Student(actor.parameters(update.module, seen))
            each = actor.candidates(update.module, seen)(candidates)
            loss = penalty.loss(update, batch, student, candidates=list(each))
            finite = torch.isfinite(loss.at_1)
            total, at_1, divergence = (torch.where(finite, part, 0.0) for part in loss[:3])
            penalty.dropped += (~finite).sum()
            penalty.record(update, batch, student, loss._replace(at_1=at_1.mean(), divergence=divergence.mean()))
        penalty.tell(batch, loss._replace(total=total), ())
        return total

    @staticmethod
    def methods(base: type[BaseAlgorithm], cls: type[Any]) -> dict[str, Callable[..., Any]]:  # noqa: D102
        def _do_one_update(self: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> None:
            """A boundary, before the candidates are drawn."""
            self._boundary(callback)
            super(cls, self)._do_one_update(callback, *args, **kwargs)  # type: ignore[misc]
            distiller = getattr(self, "distiller", None)  # a callback may have undistilled the agent
            if distiller is not None:
                distiller.after(self, _no_update)
            if getattr(self, "weight_average", None) is not None:
                self.weight_average.enter()

        def _trigger_callback(self: Any, locals_: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            """Called at each step of a candidate's episodes, for one environment after the other."""
            distiller = getattr(self, "distiller", None)
            if distiller is not None:
                for member in distiller.members.values():
                    assert isinstance(member.source, EvaluationSource)
                    member.source.note(self, locals_["observations"], locals_["i"])
            # An agent that was undistilled at an earlier step of the episode is no instance of ours any more.
            return base._trigger_callback(self, locals_, *args, **kwargs)  # type: ignore[attr-defined]

        def evaluate_candidates(self: Any, candidate_weights: Tensor, callback: BaseCallback, async_eval: Any) -> Any:
            if self.distiller is not None and async_eval is not None:
                raise TypeError(
                    "ARS with async_eval keeps its observations in worker processes, where they cannot be "
                    "distilled on: leave async_eval out, or use distill=None"
                )
            returns = super(cls, self).evaluate_candidates(candidate_weights, callback, async_eval)  # type: ignore[misc]
            distiller = getattr(self, "distiller", None)
            if distiller is None:
                return returns
            with distiller.armed(self):
                for member in distiller.members.values():
                    returns = member.algorithm.judged(candidate_weights, returns)
                return returns

        def _update_current_progress_remaining(self: Any, num_timesteps: int, total_timesteps: int) -> None:
            """Sb3-contrib reckons with the steps of this ``learn`` alone, which a resumed run must not."""
            total = self._total_timesteps if "_resumed" in self.__dict__ else total_timesteps
            super(cls, self)._update_current_progress_remaining(num_timesteps, total)  # type: ignore[misc]

        ours = (_do_one_update, _trigger_callback, evaluate_candidates, _update_current_progress_remaining)
        return {method.__name__: method for method in ours}


def _no_update() -> None:
    """ARS has no update of its own that could run on another student."""
