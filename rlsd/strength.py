"""How strongly? The answers to the fourth question."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.config import Answer, answers, checked_number, choice, number
from rlsd.gates import Gate

_SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda start, end, done: start + (end - start) * done,
    "cosine": lambda start, end, done: end + (start - end) * 0.5 * (1 + math.cos(math.pi * done)),
    "exponential": lambda start, end, done: start * (end / start) ** done,
}


@dataclass(frozen=True)
class Strength(Answer, question="strength"):
    """A choice of the factor on the divergence, beta in ``L = L_RL + beta * D``.

    :param gates: each multiplies the strength by a number from 0 to 1.
    :param bound: the largest norm of the deposited gradient, for algorithms that clip none (SAC, TQC, CrossQ, TD3,
        DDPG, QR-DQN); elsewhere ``max_grad_norm`` clips the sum. Usual range 0.1 to 10.
    """

    gates: tuple[Gate, ...] = answers("gate")
    bound: float = number(1.0, low=0.0, low_open=True, kw_only=True)

    @abstractmethod
    def at(self, remaining: float) -> float:
        """Return the strength before gates.

        :param remaining: the share of training that lies ahead, 1 at the start and 0 at the end, as in SB3.
        """

    @property
    def off(self) -> bool:
        """Whether the strength can never be anything but zero."""
        return False


@dataclass(frozen=True)
class Constant(Strength, name="constant"):
    """The same strength throughout.

    :param value: 0 switches distillation off; 1 weighs the divergence like the policy loss. Raising it holds the
        policy nearer to its teacher. Usual range 0.01 to 3.
    """

    value: float = number(1.0, low=0.0)

    def at(self, remaining: float) -> float:  # noqa: D102
        return self.value

    @property
    def off(self) -> bool:  # noqa: D102
        return self.value == 0.0


@dataclass(frozen=True)
class Schedule(Strength, name="schedule"):
    """A strength that changes with training's progress.

    :param value: the strength at the start, or a function of *remaining* progress (1 to 0) as everywhere in SB3.
        A function cannot be written to a file: hand it over again when loading.
    :param end: the strength at the end, when ``value`` is a number.
    :param shape: the way from one to the other: ``"linear"``, ``"cosine"`` or ``"exponential"`` (both ends above 0).
    :raises ValueError: when a value is out of range, here or when the function returns it.
    """

    value: float | Callable[[float], float] = 1.0
    end: float = number(0.0, low=0.0)
    shape: str = choice("linear", tuple(_SHAPES))

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.value, Mapping) and "function" in self.value:
            raise ValueError(
                f"strength.value was the Python function {self.value['function']}, which no file can hold: "
                "pass distill=... with that function again when loading"
            )
        if callable(self.value) and not isinstance(self.value, type):
            return
        value = checked_number("strength.value", self.value)
        object.__setattr__(self, "value", value)
        if self.shape == "exponential" and min(value, self.end) <= 0.0:
            raise ValueError(
                f"strength.value and strength.end must be > 0 for an exponential schedule, got {value}, {self.end}"
            )

    def at(self, remaining: float) -> float:  # noqa: D102
        if callable(self.value):
            return checked_number(f"strength.value({remaining:g})", self.value(remaining))
        return _SHAPES[self.shape](self.value, self.end, min(max(1.0 - remaining, 0.0), 1.0))


class Dial:
    """The strength of one agent as it stands in training: the schedule's value times its gates.

    :param strength: what is wanted.
    """

    def __init__(self, strength: Strength) -> None:
        self.strength = strength
        self.gates = [gate.build() for gate in strength.gates]
        self.value = 0.0

    def update(self, agent: BaseAlgorithm, refreshed: bool) -> float:
        """Set the strength for the coming update and return it.

        :param refreshed: whether the teacher was just taken from the agent as it is now.
        """
        value = self.strength.at(agent._current_progress_remaining)
        for gate in self.gates:
            value *= gate.update(agent, refreshed)
        self.value = value
        return value

    def state(self) -> dict[str, Any]:
        """Return the gates' state as plain data."""
        return {"gates": [gate.state() for gate in self.gates]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        for gate, saved in zip(self.gates, state["gates"], strict=True):
            gate.load(saved)
