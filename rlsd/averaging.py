"""The door to acting with an average of the weights, and the callback that lets SB3's ``EvalCallback`` judge it."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.logger import Logger

from rlsd.plain import shown
from rlsd.weight_average import WeightAverage
from rlsd.wrapping import SelfDistilled, is_wrapped, plain


def average(agent: BaseAlgorithm, horizon: int | None = None) -> WeightAverage:
    """Keep an average of the agent's weights from now on, and return it; of an agent that has one, return that.

    The agent trains as it does without, bit for bit. What its latest updates swing it about cancels out in the average,
    which is often the steadier agent to act with, and stays good for a while when training collapses::

        average = rlsd.average(agent)
        agent.learn(100_000)
        average.save("average")  # a plain SB3 zip: PPO.load("average") works where rlsd is missing
        average.agent().predict(observation)

    It is collected by the agent itself, after its updates, because that is where the weights change: no callback can be
    forgotten, and whatever saves the agent, a checkpoint to resume from too, saves the average with it. To that end an
    agent of plain SB3 becomes one of :func:`rlsd.SelfDistilled` without distillation; :func:`rlsd.undistill` is the way
    back, and ends the average. Where ``set_parameters``, a rebirth or another policy exchanges the weights, it begins
    anew. Works between and inside ``learn`` calls.

    :param agent: an SB3 agent of any algorithm, distilled or not.
    :param horizon: environment steps that the average goes back. Raising it makes the average steadier, and later: it
        has to span several updates. Usual range 5 to 50 rollouts. None, the default, stands for a tenth of all steps so
        far; where there is an average already, for what it is.
    :raises TypeError: when it is no agent.
    :raises ValueError: when ``horizon`` is below 1.
    """
    if not isinstance(agent, BaseAlgorithm):
        raise TypeError(f"average takes an SB3 agent, got {agent!r}")
    _check(horizon)
    if not is_wrapped(type(agent)):
        agent.__class__ = SelfDistilled(type(agent))
        agent.distiller = agent._distill_config = None  # type: ignore[attr-defined]
    present: WeightAverage | None = agent.weight_average  # type: ignore[attr-defined]
    if present is None:
        present = agent.weight_average = WeightAverage(agent, plain(type(agent)))  # type: ignore[attr-defined]
    present.horizon = present.horizon if horizon is None else horizon
    return present


class EvaluateAverage(BaseCallback):
    """Let SB3's ``EvalCallback`` judge the average of the agent's weights, beside one that judges the agent.

    As ``learn(..., callback=[EvalCallback(env), rlsd.EvaluateAverage(EvalCallback(other_env))])``. The logger has what
    it finds under ``average/`` in place of ``eval/``; a ``best_model.zip`` that it saves is the best average, a plain
    SB3 zip. Before the first update there is no average, and the agent itself is judged.

    :param callback: an ``EvalCallback``, or sb3-contrib's ``MaskableEvalCallback``, with an environment of its own.
    :param horizon: as for :func:`rlsd.average`, which is called at the start of ``learn``.
    :raises TypeError: when ``callback`` is no ``EvalCallback``.
    :raises ValueError: when ``horizon`` is below 1.
    """

    def __init__(self, callback: EvalCallback, horizon: int | None = None) -> None:
        super().__init__()
        if not isinstance(callback, EvalCallback):
            raise TypeError(f"EvaluateAverage takes SB3's EvalCallback, got {callback!r}")
        _check(horizon)
        self.callback, self.horizon = callback, horizon

    def _init_callback(self) -> None:
        self._average = average(self.model, self.horizon)
        self.callback.init_callback(self.model)

    def _on_training_start(self) -> None:
        self.callback.on_training_start(self.locals, self.globals)

    def _on_step(self) -> bool:
        evaluate = self.callback
        if evaluate.eval_freq <= 0 or (evaluate.n_calls + 1) % evaluate.eval_freq:
            return evaluate.on_step()
        judged = self._average.agent()
        judged.env, judged._vec_normalize_env = self.model.get_env(), self.model.get_vec_normalize_env()
        judged.set_logger(_UnderAverage(self.logger))
        evaluate.model = judged
        try:
            return evaluate.on_step()
        finally:
            evaluate.model = self.model

    def _on_training_end(self) -> None:
        self.callback.on_training_end()

    def update_child_locals(self, locals_: dict[str, Any]) -> None:  # noqa: D102
        self.callback.update_locals(locals_)


class _UnderAverage(Logger):
    """Writes where another logger does, under other keys, and leaves what that one has not written yet."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger.dir, logger.output_formats)
        self.level = logger.level

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        name = key.replace("eval/", "average/", 1) if key.startswith("eval/") else key
        super().record(name, value, exclude)


def _check(horizon: int | None) -> None:
    if horizon is not None and (isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1):
        raise ValueError(
            f"horizon must be a whole number of environment steps, 1 or more, or None, got {shown(horizon)}"
        )
