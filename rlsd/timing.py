"""At which gradient steps? The answers to the fifth question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.clock import StepCounter
from rlsd.config import Answer, integer, number
from rlsd.divergences import Divergence
from rlsd.plain import SavedState, State
from rlsd.returns import Episodes
from rlsd.states import StateStore
from rlsd.strength import Coefficient, Strength
from rlsd.teachers import Teacher


class Distillation(Protocol):
    """What a training beside the agent's own updates may use of the agent's distiller."""

    actor: Actor
    teacher: Teacher
    divergence: Divergence
    coefficient: Coefficient
    #: The agent's environment steps and episodes, through all calls of ``learn()``.
    clock: StepCounter
    ended: Episodes
    #: Whether states are stored.
    stores: bool

    @property
    def states(self) -> StateStore:
        """The stored states."""

    def restart(self, agent: BaseAlgorithm) -> None:
        """Say that the agent's weights are others than its updates made."""

    def reject(self, count: int | Tensor) -> None:
        """Count states or gradients that were not finite and were left out."""


class AuxiliaryTraining(ABC):
    """What is learned from the teacher beside the agent's own updates: in a phase of its own, or by another student."""

    #: Whether it is shown the states that the agent meets.
    observes = False

    def observe_states(self, agent: BaseAlgorithm, states: Mapping[str, np.ndarray]) -> None:  # noqa: B027 - most do not care
        """Record raw states that the agent has just met, ``(n, *shape)`` by key, where :attr:`observes` is set.

        Called before each of the agent's own updates, while its buffers are as the rollout left them.
        """

    @abstractmethod
    def after(self, agent: BaseAlgorithm, update: Callable[[], None]) -> None:
        """Do what is due, after each of the agent's own updates.

        :param update: runs the agent's own update once more, on what it has collected, without a penalty.
        """

    def agent(self, agent: BaseAlgorithm) -> BaseAlgorithm | None:
        """Return a second agent that it has taught, of plain SB3's class; None where there is none."""
        return None

    def metrics(self) -> dict[str, float]:
        """Return its metrics by name."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by name."""
        return {}

    def state(self) -> State:
        """Return the rest of its state as plain data."""
        return {}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: B027
        """Load what :meth:`tensors` and :meth:`state` returned."""


@dataclass(frozen=True)
class Timing(Answer, question="timing"):
    """A rule that says at which gradient steps the penalty is deposited, and with what weight."""

    #: Whether any gradient step of the agent's own gets a penalty.
    deposits: ClassVar[bool] = True
    #: Whether it learns when the task changes, and leaves the agent's own policy alone.
    by_episode: ClassVar[bool] = False
    #: Whether what is learned is learned on the stored states; else none are stored, unless the teacher studies them.
    replays: ClassVar[bool] = True

    @abstractmethod
    def weight(self, step: int) -> int:
        """Return the factor on the strength at the actor's gradient step number ``step``, 0 for no deposit."""

    def check(self, strength: Strength) -> None:
        """Raise a ``TypeError`` where the strength goes by what this leaves out."""
        if strength.relative and not self.deposits:
            raise TypeError(
                f"strength {strength.name!r} weighs the penalty against the agent's own update, and timing "
                f"{self.name!r} learns beside it: use 'constant', 'schedule' or timing 'every_step'"
            )

    def build(self, distiller: Distillation, agent: BaseAlgorithm) -> AuxiliaryTraining | None:
        """Make what runs beside the agent's own updates, None when nothing does.

        :param distiller: the agent's, whole but for this.
        :raises TypeError: when the agent has no use for it.
        """
        return None


@dataclass(frozen=True)
class EveryStep(Timing, name="every_step"):
    """Deposit at every ``stride``-th gradient step of the actor, ``stride`` times as strongly.

    The sum over many steps is that of a deposit at each, for a ``stride``-th of the cost.

    :param stride: gradient steps from one deposit to the next. Raising it costs less and makes the pull rougher.
        Usual range 1 to 8.
    :param teacher_acts: the probability with which a teacher from elsewhere acts in the agent's place at the start of
        training, step by step (DAgger, Ross et al. 2011). It falls linearly to 0. On policy the log-probability of an
        action is that of who chose it; PPO and its like only. Usual range 0 to 1.
    :param teacher_acts_until: the share of training after which it is 0. Usual range 0.1 to 0.5.
    :param critic_first: updates of the agent, calls of its ``train()``, in which its critic learns alone and the actor
        stands still: for an actor that knows more than its critic, as after imitation or loading. Not for Q-learners,
        TRPO and ARS. Usual range 0 to 50 rollouts, or as many thousand updates off policy.
    """

    stride: int = integer(1, low=1)
    teacher_acts: float = number(0.0, high=1.0, kw_only=True)
    teacher_acts_until: float = number(0.5, high=1.0, low_open=True, kw_only=True)
    critic_first: int = field(default=0, kw_only=True, metadata=integer(0).metadata)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain data; what is not asked for is left out, as in files of before."""
        data, left_out = super().to_dict(), {"critic_first"} if not self.critic_first else set()
        left_out |= {"teacher_acts", "teacher_acts_until"} if not self.teacher_acts else set()
        return {key: value for key, value in data.items() if key not in left_out}

    def weight(self, step: int) -> int:  # noqa: D102
        # The last of each stride: right after a refresh the teacher still equals its student and pulls at nothing.
        return self.stride if step % self.stride == self.stride - 1 else 0
