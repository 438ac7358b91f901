"""At which gradient steps? The answers to the fifth question."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from rlsd.config import Answer, integer


@dataclass(frozen=True)
class Timing(Answer, question="timing"):
    """A rule that says at which gradient steps the penalty is deposited, and with what weight."""

    @abstractmethod
    def weight(self, step: int) -> int:
        """Return the factor on the strength at the actor's gradient step number ``step``, 0 for no deposit."""


@dataclass(frozen=True)
class EveryStep(Timing, name="every_step"):
    """Deposit at every ``stride``-th gradient step of the actor, ``stride`` times as strongly.

    The sum over many steps is that of a deposit at each, for a ``stride``-th of the cost.

    :param stride: gradient steps from one deposit to the next. Raising it costs less and makes the pull rougher.
        Usual range 1 to 8.
    """

    stride: int = integer(1, low=1)

    def weight(self, step: int) -> int:  # noqa: D102
        # The last of each stride: right after a refresh the teacher still equals its student and pulls at nothing.
        return self.stride if step % self.stride == self.stride - 1 else 0
