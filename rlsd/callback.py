"""Callbacks: the third door, for scripts and files that take nothing else, and one that is told of distillation."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from rlsd.change import ChangeEvent
from rlsd.config import DistillConfig
from rlsd.presets import Distill, resolve
from rlsd.several import DistillConfigs, is_several
from rlsd.wrapping import distill


class DistillCallback(BaseCallback):
    """A callback that is told what SB3 knows nothing of: override what you need, besides SB3's own hooks.

    An agent that :func:`rlsd.SelfDistilled` or :func:`rlsd.distill` made calls these of every callback of ``learn``
    that has them, whether it is one of this class or not; of those in a ``CallbackList`` too.
    """

    def on_change(self, agent: BaseAlgorithm, event: ChangeEvent) -> None:
        """Called between two rollouts, before :meth:`on_boundary`, when teacher ``remember`` noticed a change of task.

        What the last update of ``learn`` notices is told by the next ``learn``; ``agent.distiller.teacher.changes`` has
        all of them.

        :param agent: the agent in training.
        :param event: when the task changed, and how sure that is.
        """

    def on_boundary(self) -> None:
        """Called between two rollouts: nothing of the coming one has happened yet, not even gSDE's noise."""

    def _on_step(self) -> bool:
        return True


class SelfDistillation(BaseCallback):
    """Switch self-distillation on for the agent whose ``learn`` gets this callback; it stays on afterwards.

    In rl_zoo3's YAML::

        callback:
          - rlsd.SelfDistillation:
              recipe: snapshot

    :param recipe: a recipe's name, a :class:`DistillConfig`, or ``True`` for the default recipe; a list of such for
        several at once.
    :param changes: to it, as for :func:`rlsd.recipe`: ``strength=0.3``.
    :raises ValueError: when these are wrong; at the start of ``learn``, when the agent is distilled otherwise already.
    """

    def __init__(self, recipe: Distill = True, verbose: int = 0, **changes: Any) -> None:
        super().__init__(verbose)
        self._wanted, self._changes = recipe, changes
        self.config = _config(recipe, changes)  # what is wrong is said now, not when training begins

    def _init_callback(self) -> None:
        self.config = _config(self._wanted, self._changes, type(self.model))
        present = getattr(self.model, "distiller", None)
        if present is None:
            agent: Any = distill(self.model, self.config)
            if agent.num_timesteps == 0:  # learn() has just reset the environment
                agent.distiller.ended.begin(agent)
        elif differing := _differing(present.config.to_dict(), self.config.to_dict()):
            raise ValueError(
                f"the agent is distilled already, with {'; '.join(differing)}: "
                "call rlsd.undistill(agent) first, or leave the callback out"
            )

    def _on_step(self) -> bool:
        return True


def _config(
    wanted: Distill, changes: dict[str, Any], algorithm: type[BaseAlgorithm] | None = None
) -> DistillConfig | DistillConfigs:
    config = resolve(wanted, algorithm, changes)
    if config is None:
        raise ValueError("recipe must be a recipe's name, a DistillConfig or True, got None")
    return config


def _differing(present: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return in words where the agent's answers are not those wanted: functions and live teachers by name, as saved."""
    if present.keys() != wanted.keys() or is_several(present):
        return [] if present == wanted else ["other distillations at once"]
    found: list[str] = []
    for question, asked in wanted.items():
        answer = present[question]
        if answer["type"] != asked["type"]:
            found.append(f"{question} {answer['type']!r}, not {asked['type']!r}")
        else:
            found += [
                f"{question}.{k} {answer[k]!r}, not {value!r}" for k, value in asked.items() if answer[k] != value
            ]
    return found
