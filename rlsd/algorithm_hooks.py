"""The methods of some algorithms alone: of those that step without an optimizer, and of those that explore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from rlsd.collecting import collector_in
from rlsd.hooks import at_boundary


def algorithm_hooks(
    base: type[BaseAlgorithm], cls: type[Any], keep_up: Callable[[Any], None]
) -> dict[str, Callable[..., Any]]:
    """Return the methods that the wrapped class has of some algorithms alone.

    :param base: the algorithm.
    :param cls: the class that wraps it, which the methods are for.
    :param keep_up: sees to it that the distillation is of the agent's present policy.
    """

    def _compute_actor_grad(self: Any, kl_div: Any, policy_objective: Any) -> Any:
        """TRPO: the natural gradient of the surrogate objective less the penalty."""
        if self.distiller is not None:
            policy_objective = self.distiller.penalized(policy_objective)
        return super(cls, self)._compute_actor_grad(kl_div, policy_objective)

    def _do_one_update(self: Any, callback: BaseCallback, *args: Any, **kwargs: Any) -> Any:
        """ARS: a boundary, before the candidates are drawn."""
        at_boundary(self, callback)
        keep_up(self)
        super(cls, self)._do_one_update(callback, *args, **kwargs)
        distiller = getattr(self, "distiller", None)  # a callback may have undistilled the agent
        if distiller is not None:
            distiller.after(self, _no_update)
        if getattr(self, "weight_average", None) is not None:
            self.weight_average.enter()

    def _trigger_callback(self: Any, locals_: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """ARS: called at each step of a candidate's episodes, for one environment after the other."""
        distiller = getattr(self, "distiller", None)
        if distiller is not None:
            distiller.note(self, locals_["observations"], locals_["i"])
        # An agent that was undistilled at an earlier step of the episode is no instance of ours any more.
        return base._trigger_callback(self, locals_, *args, **kwargs)  # type: ignore[attr-defined]

    def evaluate_candidates(self: Any, candidate_weights: Any, callback: BaseCallback, async_eval: Any) -> Any:
        """ARS: the candidates' returns less each one's penalty."""
        if self.distiller is not None and async_eval is not None:
            raise TypeError(
                "ARS with async_eval keeps its observations in worker processes, where they cannot be "
                "distilled on: leave async_eval out, or use distill=None"
            )
        returns = super(cls, self).evaluate_candidates(candidate_weights, callback, async_eval)
        distiller = getattr(self, "distiller", None)
        return returns if distiller is None else distiller.judged(self, candidate_weights, returns)

    def _update_current_progress_remaining(self: Any, num_timesteps: int, total_timesteps: int) -> None:
        """ARS: sb3-contrib reckons with the steps of this ``learn`` alone, which a resumed run must not."""
        total = self._total_timesteps if "_resumed" in self.__dict__ else total_timesteps
        super(cls, self)._update_current_progress_remaining(num_timesteps, total)

    def _sample_action(self: Any, *args: Any, **kwargs: Any) -> Any:
        """SAC and its like: where others collect, what they have done."""
        collector = collector_in(self.env)
        return super(cls, self)._sample_action(*args, **kwargs) if collector is None else collector.drawn(self)

    ways: tuple[Any, ...] = (
        _compute_actor_grad,
        _do_one_update,
        _trigger_callback,
        evaluate_candidates,
        _sample_action,
    )
    if hasattr(base, "evaluate_candidates"):
        ways += (_update_current_progress_remaining,)
    return {way.__name__: way for way in ways if hasattr(base, way.__name__)}


def _no_update() -> None:
    """ARS has no update of its own that could run on another student."""
