"""When should a teacher be trusted? Gates multiply the strength by a number from 0 to 1.

A teacher that is worse than its student is a brake. A gate watches both and lets go.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor, algorithm_name
from rlsd.clock import StepCounter
from rlsd.config import Answer, checked_number, number
from rlsd.distributions import Family, Point
from rlsd.plain import SavedState, State
from rlsd.returns import Episodes


class GateInput(NamedTuple):
    """The input of a gate that decides state by state; nothing of it asks for a gradient.

    :param family: of the action distributions.
    :param teacher: the teacher's parameters, ``(batch, family.size)``.
    :param student: the student's.
    :param teacher_values: the teacher's values of the states, ``(batch,)``, where a gate wants values.
    :param student_values: the student's.
    :param spread: how far the teacher's members differ, ``(batch,)``, where a gate wants it.
    """

    family: Family
    teacher: Tensor
    student: Tensor
    teacher_values: Tensor | None = None
    student_values: Tensor | None = None
    spread: Tensor | None = None


class GateState:
    """A gate as it stands in training."""

    #: The agent's environment steps and episodes, through all calls of ``learn()``; there before it is first asked.
    clock: StepCounter
    ended: Episodes

    def update(self, agent: BaseAlgorithm, refreshed: bool) -> float:
        """Return how far the gate is open for all states, 0..1. Called once before each update.

        :param refreshed: whether the teacher was just taken from the agent as it is now.
        """
        return 1.0

    def weights(self, situation: GateInput) -> Tensor | None:
        """Return how far the gate is open for each state of a minibatch, ``(batch,)``; None for fully, everywhere."""
        return None

    def state(self) -> State:
        """Return the gate's state as plain data."""
        return {}

    def load(self, state: SavedState) -> None:
        """Load what :meth:`state` returned."""


class ReturnComparison(GateState):
    """Compares the training return now with what it was when the teacher was taken.

    The same smoothing and the same exploration noise are on both sides.
    """

    def __init__(self, margin: float, width: float) -> None:
        self.margin, self.width, self.ended = margin, width, Episodes()
        self.teacher: float | None = None
        self.lowest: float | None = None
        self.highest: float | None = None

    def update(self, agent: BaseAlgorithm, refreshed: bool) -> float:  # noqa: D102
        present = self.ended.smoothed(agent)
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

    def state(self) -> State:  # noqa: D102
        return {"teacher": self.teacher, "lowest": self.lowest, "highest": self.highest}

    def load(self, state: SavedState) -> None:  # noqa: D102
        self.teacher, self.lowest, self.highest = state["teacher"], state["lowest"], state["highest"]


class BehindState(GateState):
    """Compares the training return with one that the teacher is known to reach."""

    def __init__(self, teacher: float, start: float) -> None:
        self.teacher, self.start, self.ended = teacher, start, Episodes()
        self.open = 1.0

    def update(self, agent: BaseAlgorithm, refreshed: bool) -> float:  # noqa: D102
        present = self.ended.smoothed(agent)
        if present is not None:
            self.open = min(max((self.teacher - present.mean) / (self.teacher - self.start), 0.0), 1.0)
        return self.open

    def state(self) -> State:  # noqa: D102
        return {"open": self.open}

    def load(self, state: SavedState) -> None:  # noqa: D102
        self.open = float(state["open"])


class ValueComparison(GateState):
    """Compares the teacher's values of states with the student's, on the scale on which the student's spread."""

    #: Share of the running spread that stays at each minibatch: it follows some hundred of them.
    DECAY = 0.99
    #: Values that spread less than this are all the same.
    SMALLEST = 1e-8

    def __init__(self, margin: float, width: float) -> None:
        self.margin, self.width = margin, width
        # Minibatches seen, and mean and variance of the values in them. On the device: nothing waits for it.
        self.running = torch.zeros(3)

    def weights(self, situation: GateInput) -> Tensor:  # noqa: D102
        teacher, student = situation.teacher_values, situation.student_values
        assert teacher is not None and student is not None
        self._follow(student)
        scale = self.running[2].sqrt().clamp(min=self.SMALLEST)
        return (((teacher - student) / scale - self.margin) / self.width).clamp(0.0, 1.0)

    def _follow(self, values: Tensor) -> None:
        self.running = self.running.to(values.device)
        count, mean, variance = self.running.unbind()
        # Of all that was seen, until that is more than the memory holds.
        share = (1.0 / (count + 1.0)).clamp(min=1.0 - self.DECAY)
        gap = values.mean() - mean
        spread = (1.0 - share) * (variance + share * gap.square()) + share * values.var(correction=0)
        now = torch.stack([count + 1.0, mean + share * gap, spread])
        self.running = torch.where(torch.isfinite(now).all(), now, self.running)

    def state(self) -> State:  # noqa: D102
        return {"running": self.running.tolist()}

    def load(self, state: SavedState) -> None:  # noqa: D102
        self.running = torch.tensor(state["running"], dtype=torch.float32)


class DisagreementState(GateState):
    """Closes where the teacher's members differ."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def weights(self, situation: GateInput) -> Tensor:  # noqa: D102
        assert situation.spread is not None
        return (1.0 - (situation.spread - self.low) / (self.high - self.low)).clamp(0.0, 1.0)


class EntropyFloorState(GateState):
    """Closes where little of the student's action is left to chance, unless the teacher would leave more."""

    def __init__(self, floor: float, width: float) -> None:
        self.floor, self.width = floor, width

    def weights(self, situation: GateInput) -> Tensor:  # noqa: D102
        student = situation.family.normalized_entropy(situation.student)
        widening = situation.family.normalized_entropy(situation.teacher) > student
        return ((student - self.floor) / self.width).clamp(0.0, 1.0).masked_fill(widening, 1.0)


@dataclass(frozen=True)
class Gate(Answer, question="gate"):
    """A rule that opens or closes the pull."""

    #: Whether it decides state by state, and what it needs for that.
    per_state: ClassVar[bool] = False
    wants_value: ClassVar[bool] = False
    wants_spread: ClassVar[bool] = False

    def check(self, agent: BaseAlgorithm, actor: Actor) -> None:
        """Raise a ``TypeError`` where the agent cannot give what the gate judges by."""

    @abstractmethod
    def build(self) -> GateState:
        """Make the gate of one agent."""


@dataclass(frozen=True)
class ReturnGate(Gate, name="return"):
    """Pull only while the student's smoothed training return is behind its teacher's.

    What two standard errors of the student's return explain is no fall. Before 20 episodes have ended, the gate is
    closed. Where ``stats_window_size`` is less than 20, as many count, but 5 at least. After Dual Policy Distillation
    (Lai et al. 2020).

    :param margin: how far the student must fall behind before the gate begins to open, as a share of the range
        of smoothed returns seen so far. Usual range 0 to 0.3.
    :param width: over what further share of the range it opens fully. Usual range 0.01 to 0.3.
    """

    margin: float = number(0.05, low=0.0, high=1.0)
    width: float = number(0.1, low=0.0, high=1.0, low_open=True)

    def build(self) -> ReturnComparison:  # noqa: D102
        return ReturnComparison(self.margin, self.width)


@dataclass(frozen=True)
class Behind(Gate, name="behind"):
    """Let go as the student's smoothed training return comes up to what the teacher is known to reach.

    ``max(1 - student / teacher, 0)``, the rule of QDagger (Agarwal et al. 2022, "Reincarnating Reinforcement
    Learning"), counted from ``start``: for a teacher from outside, which does not follow its student. Until 20 episodes
    have ended it is open.

    :param teacher_return: the teacher's mean return, in the environment's own rewards. Must be given. Raising it lets
        go later.
    :param start: the return at which the gate is fully open: that of a student that knows nothing. 0 as published;
        where returns are negative give that of a random policy.
    :raises ValueError: when ``teacher_return`` is not above ``start``.
    """

    teacher_return: float | None = None
    start: float = number(0.0, low=-math.inf)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_return is None:
            raise ValueError("gate.teacher_return must be given for 'behind': the mean return of the teacher, got None")
        value = checked_number("gate.teacher_return", self.teacher_return, low=-math.inf)
        if value <= self.start:
            raise ValueError(
                f"gate.teacher_return must be above gate.start = {self.start:g}, got {value:g}: where returns are "
                "negative set start to that of a random policy"
            )
        object.__setattr__(self, "teacher_return", value)

    def build(self) -> BehindState:  # noqa: D102
        assert self.teacher_return is not None
        return BehindState(self.teacher_return, self.start)


@dataclass(frozen=True)
class ValueAdvantage(Gate, name="value_advantage"):
    """Pull only on states that the teacher's critic values higher than the student's does.

    ``clamp(((V_teacher - V_student) / scale - margin) / width, 0, 1)`` for each state, with scale the running standard
    deviation of the student's values over the last hundred minibatches or so. After Dual Policy Distillation (Lai et
    al. 2020), which follows the peer where its value is higher. For PPO, A2C, TRPO and MaskablePPO, and a teacher whose
    values are on its student's scale of rewards.

    :param margin: how much higher the teacher's value must be before the gate begins to open, in standard deviations.
        Usual range 0 to 0.5.
    :param width: over how many further standard deviations it opens fully. Raising it opens it more gradually. Usual
        range 0.01 to 1.
    """

    per_state: ClassVar[bool] = True
    wants_value: ClassVar[bool] = True

    margin: float = number(0.0, low=0.0)
    width: float = number(0.1, low=0.0, low_open=True)

    def build(self) -> ValueComparison:  # noqa: D102
        return ValueComparison(self.margin, self.width)


@dataclass(frozen=True)
class Disagreement(Gate, name="disagreement"):
    """Let go on states on which the members of a teacher of several disagree.

    ``clamp(1 - (spread - low) / (high - low), 0, 1)`` for each state, with spread the generalised Jensen-Shannon
    divergence of the members (:meth:`Family.spread`). Where members that have all learned still differ, they do not
    know: the disagreement of an ensemble measures that (Lakshminarayanan et al. 2017). A teacher of one agrees with
    itself: there the gate is always open.

    :param low: spread in nats up to which the gate is fully open. Usual range 0 to 0.1.
    :param high: spread in nats from which it is closed. Among ``k`` members one discrete choice spreads by ``log(k)``
        at most, 0.69 for two. Usual range 0.1 to 1.
    :raises ValueError: when ``high`` is not above ``low``.
    """

    per_state: ClassVar[bool] = True
    wants_spread: ClassVar[bool] = True

    low: float = number(0.05, low=0.0)
    high: float = number(0.3, low=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high <= self.low:
            raise ValueError(f"gate.high must be above gate.low = {self.low:g}, got {self.high:g}")

    def build(self) -> DisagreementState:  # noqa: D102
        return DisagreementState(self.low, self.high)


@dataclass(frozen=True)
class EntropyFloor(Gate, name="entropy_floor"):
    """Let go on states on which the student hardly explores any more, so that distillation cannot freeze it there.

    ``clamp((entropy - floor) / width, 0, 1)`` for each state. The entropy is normalised alike for all actions
    (:meth:`Family.normalized_entropy`): discrete ones have their entropy over the largest there is, 0 to 1; Gaussian
    ones the geometric mean of their standard deviations, before a tanh, near 1 when training begins; Q-learners the
    entropy of ``softmax(Q / tau)`` over the largest. Where the teacher is broader than the student the pull restores
    exploration, and the gate stays open.

    :param floor: entropy at which the gate is closed. Raising it lets go earlier. Usual range 0.01 to 0.3.
    :param width: over what further entropy it opens fully. Usual range 0.01 to 0.3.
    """

    per_state: ClassVar[bool] = True

    floor: float = number(0.05, low=0.0)
    width: float = number(0.05, low=0.0, low_open=True)

    def check(self, agent: BaseAlgorithm, actor: Actor) -> None:  # noqa: D102
        if isinstance(actor.family, Point):
            raise TypeError(
                f"gate 'entropy_floor' needs actions left to chance, and the actor of {algorithm_name(agent)} is "
                "deterministic: leave the gate out, or use 'return'"
            )

    def build(self) -> EntropyFloorState:  # noqa: D102
        return EntropyFloorState(self.floor, self.width)
