"""When should a teacher be trusted? Gates multiply the strength by a number from 0 to 1.

A teacher that is worse than its student is a brake. A gate watches both and lets go.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.config import Answer, number
from rlsd.returns import smoothed_return


class OpenGate(ABC):
    """A gate as it stands in training."""

    @abstractmethod
    def update(self, agent: BaseAlgorithm, refreshed: bool) -> float:
        """Return how far the gate is open, 0..1. Called once before each update.

        :param refreshed: whether the teacher was just taken from the agent as it is now.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the gate's state as plain data."""

    @abstractmethod
    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned."""


class ReturnComparison(OpenGate):
    """Compares the training return now with what it was when the teacher was taken.

    The same smoothing and the same exploration noise are on both sides.
    """

    def __init__(self, margin: float, width: float) -> None:
        self.margin = margin
        self.width = width
        self.teacher: float | None = None
        self.lowest: float | None = None
        self.highest: float | None = None

    def update(self, agent: BaseAlgorithm, refreshed: bool) -> float:  # noqa: D102
        present = smoothed_return(agent)
        if present is None:
            if refreshed:  # nothing to judge it by yet: the first returns that come will
                self.teacher = None
            return 0.0
        student = present.mean
        self.lowest = student if self.lowest is None else min(self.lowest, student)
        self.highest = student if self.highest is None else max(self.highest, student)
        if refreshed or self.teacher is None:
            self.teacher = student
        span = self.highest - self.lowest
        if span == 0.0:
            return 0.0
        # Only what chance does not explain counts as a fall: two standard errors are taken off.
        behind = (self.teacher - student - 2.0 * present.error) / span
        return min(max((behind - self.margin) / self.width, 0.0), 1.0)

    def state(self) -> dict[str, Any]:  # noqa: D102
        return {"teacher": self.teacher, "lowest": self.lowest, "highest": self.highest}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: D102
        self.teacher, self.lowest, self.highest = state["teacher"], state["lowest"], state["highest"]


@dataclass(frozen=True)
class Gate(Answer, question="gate"):
    """A rule that opens or closes the pull."""

    @abstractmethod
    def build(self) -> OpenGate:
        """Make the gate of one agent."""


@dataclass(frozen=True)
class ReturnGate(Gate, name="return"):
    """Pull only while the student's smoothed training return is behind its teacher's.

    What two standard errors of the student's return explain is no fall. Before 20 episodes have ended, the gate is
    closed. After Dual Policy Distillation (Lai et al. 2020).

    :param margin: how far the student must fall behind before the gate begins to open, as a share of the range
        of smoothed returns seen so far. Usual range 0 to 0.3.
    :param width: over what further share of the range it opens fully. Usual range 0.01 to 0.3.
    """

    margin: float = number(0.05, low=0.0, high=1.0)
    width: float = number(0.1, low=0.0, high=1.0, low_open=True)

    def build(self) -> ReturnComparison:  # noqa: D102
        return ReturnComparison(self.margin, self.width)
