"""The penalty as a gradient, which an optimizer picks up: all algorithms but TRPO and ARS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.actors import algorithm_name
from rlsd.injection import Injection
from rlsd.penalty import Penalty
from rlsd.strength import Strength


class Algorithm:
    """How a penalty enters the updates of one agent.

    :param penalty: the agent's.
    """

    #: Whether the penalty's gradient meets the agent's own on the same parameters, so that the two can be compared.
    compares_gradients: ClassVar[bool] = True

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    @classmethod
    def is_of(cls, algorithm: type[BaseAlgorithm]) -> bool:
        """Tell whether a penalty enters an algorithm in this way."""
        return True

    def check(self, agent: BaseAlgorithm, strength: Strength) -> None:
        """Raise a ``TypeError`` where the strength goes by what cannot be measured here."""
        if strength.compares_gradients and not self.compares_gradients:
            raise TypeError(
                f"strength {strength.name!r} of='gradient' needs gradients that an optimizer takes, and a "
                f"{algorithm_name(agent)} steps by itself: use of='loss'"
            )

    def armed(self, agent: BaseAlgorithm) -> AbstractContextManager[None]:
        """Let the penalty into an update of the agent that runs inside, and leave nothing behind.

        :raises RuntimeError: when the update throws the penalty away, since it would then silently do nothing.
        """
        optimizer = self.penalty.actor.optimizer(agent.policy)
        assert optimizer is not None
        return Injection(optimizer, self.penalty).armed()

    @staticmethod
    def methods(base: type[BaseAlgorithm], cls: type[Any]) -> dict[str, Callable[..., Any]]:
        """Return the methods that an algorithm's self-distilled class needs besides those of every algorithm's.

        :param base: the algorithm.
        :param cls: the subclass that gets them.
        """
        return {}
