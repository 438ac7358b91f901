"""How strongly? The answers to the fourth question."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor, algorithm_name
from rlsd.clock import StepCounter
from rlsd.config import Answer, answers, checked_number, choice, integer, number
from rlsd.gates import Gate, GateInput
from rlsd.plain import SavedState, State
from rlsd.returns import Episodes

_SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda start, end, done: start + (end - start) * done,
    "cosine": lambda start, end, done: end + (start - end) * 0.5 * (1 + math.cos(math.pi * done)),
    "exponential": lambda start, end, done: start * (end / start) ** done,
}


class Feedback(NamedTuple):
    """How an update went.

    :param divergence: mean over the deposits, None when there was none.
    :param loss: the agent's own policy loss, as its algorithm logs it, None when it logs none.
    :param ratio: norm of the gradient of ``D`` over that of the agent's own, measured once, None when it was not.
    """

    divergence: float | None
    loss: float | None
    ratio: float | None


class Controller:
    """A strength that follows how the updates go."""

    def at(self, remaining: float) -> float:
        """Return the strength before gates for the coming update."""
        raise NotImplementedError

    def learn(self, feedback: Feedback) -> None:
        """Record how an update went."""
        raise NotImplementedError

    def state(self) -> State:
        """Return its state as plain data."""
        return {}

    def load(self, state: SavedState) -> None:
        """Load what :meth:`state` returned."""


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
        """Return the strength before gates, as far as progress alone decides it.

        :param remaining: the share of training that lies ahead, 1 at the start and 0 at the end, as in SB3.
        """

    #: Whether it weighs the penalty against the agent's own update.
    relative: ClassVar[bool] = False

    def check(self, agent: BaseAlgorithm, actor: Actor) -> None:
        """Raise a ``TypeError`` where the agent cannot give what the strength or one of its gates goes by."""
        for gate in self.gates:
            gate.check(agent, actor)

    def build(self) -> Controller | None:
        """Make what adjusts the strength to how the updates go, None when nothing does."""
        return None

    @property
    def off(self) -> bool:
        """Whether the strength can never be anything but zero."""
        return False

    @property
    def compares_gradients(self) -> bool:
        """Whether the strength goes by the norm of the penalty's gradient beside that of the agent's own."""
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
        remaining = min(max(remaining, 0.0), 1.0)  # SB3 ends with a whole rollout, past the end of training
        if callable(self.value):
            return checked_number(f"strength.value({remaining:g})", self.value(remaining))
        return _SHAPES[self.shape](self.value, self.end, 1.0 - remaining)


class AdaptiveKLController(Controller):
    """Raises and lowers the strength, so that the divergence stays near its target."""

    def __init__(self, wanted: Adaptive) -> None:
        self.wanted = wanted
        self.value = wanted.value

    def at(self, remaining: float) -> float:  # noqa: D102
        return self.value

    def learn(self, feedback: Feedback) -> None:  # noqa: D102
        wanted, found = self.wanted, feedback.divergence
        if found is None or not math.isfinite(found):
            return
        if found > wanted.target * wanted.tolerance:
            self.value = min(self.value * wanted.factor, wanted.high)
        elif found < wanted.target / wanted.tolerance:
            self.value = max(self.value / wanted.factor, wanted.low)

    def state(self) -> State:  # noqa: D102
        return {"value": self.value}

    def load(self, state: SavedState) -> None:  # noqa: D102
        self.value = float(state["value"])


@dataclass(frozen=True)
class Adaptive(Strength, name="adaptive"):
    """A strength that keeps the divergence near a target, as PPO's adaptive KL penalty does.

    After each update of the agent: times ``factor`` when the mean divergence was above ``target * tolerance``, over
    ``factor`` when it was below ``target / tolerance`` (Schulman et al. 2017, section 4). A teacher that was just
    copied equals its student, so the strength falls until they part: ``low`` says how far.

    :param target: the mean divergence wanted, in the units of ``distill/kl``. Raising it leaves the student freer.
        Usual range 0.001 to 0.1.
    :param value: the strength at the start. Usual range 0.1 to 3.
    :param factor: by how much the strength changes at a time. Raising it follows faster, and less steadily.
        Usual range 1.1 to 2.
    :param tolerance: how many times more or less than the target the divergence may be before anything changes.
        Usual range 1 to 2.
    :param low: the least strength. Usual range 0.001 to 0.1.
    :param high: the largest strength. Usual range 3 to 100.
    :raises ValueError: when a value is out of its range.
    """

    target: float = number(0.01, low=0.0, low_open=True)
    value: float = number(1.0, low=0.0, low_open=True)
    factor: float = number(2.0, low=1.0, low_open=True)
    tolerance: float = number(1.5, low=1.0)
    low: float = number(0.01, low=0.0, low_open=True)
    high: float = number(10.0, low=0.0, low_open=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_between(self.value, "low", self.low, "high", self.high)

    def at(self, remaining: float) -> float:  # noqa: D102
        return self.value

    def build(self) -> AdaptiveKLController:  # noqa: D102
        return AdaptiveKLController(self)


class RelativeController(Controller):
    """Weighs the penalty as a share of the agent's own loss, or of its gradient."""

    def __init__(self, wanted: Relative) -> None:
        self.wanted = wanted
        self.value = wanted.value
        #: What was found in the latest updates: size of the agent's own, and of the penalty at strength 1.
        self.seen: deque[tuple[float, float]] = deque(maxlen=wanted.window)

    def at(self, remaining: float) -> float:  # noqa: D102
        return self.value

    def learn(self, feedback: Feedback) -> None:  # noqa: D102
        pair = self._pair(feedback)
        if pair is None or not all(map(math.isfinite, pair)):
            return
        self.seen.append(pair)
        own, penalty = (math.fsum(sizes) for sizes in zip(*self.seen, strict=True))
        if penalty > 0.0:  # else nothing ever differed, and no strength is the right one
            self.value = min(max(self.wanted.share * own / penalty, self.wanted.floor), self.wanted.cap)

    def _pair(self, feedback: Feedback) -> tuple[float, float] | None:
        if feedback.divergence is None:  # no deposit was made
            return None
        wanted = self.wanted
        if wanted.of == "gradient":
            # An update that has no gradient of its own counts as one that asks for the floor, not for 0.
            ratio = feedback.ratio
            return None if ratio is None else (1.0, min(ratio, wanted.share / wanted.floor))
        if feedback.loss is None:
            raise RuntimeError(
                "strength 'relative' of='loss' needs a policy loss, and the algorithm logs none under train/: "
                "use of='gradient'"
            )
        return abs(feedback.loss), abs(feedback.divergence)

    def state(self) -> State:  # noqa: D102
        return {"value": self.value, "seen": [list(pair) for pair in self.seen]}

    def load(self, state: SavedState) -> None:  # noqa: D102
        self.value = float(state["value"])
        self.seen.clear()
        self.seen.extend((float(own), float(penalty)) for own, penalty in state["seen"])


@dataclass(frozen=True)
class Relative(Strength, name="relative"):
    """A strength that makes the penalty a given share of the agent's own loss, or of its own gradient.

    ``share * mean |policy loss| / mean divergence`` over the latest updates, as CHAIN sets its coefficients (Tang &
    Berseth 2024): one share serves tasks whose rewards differ in scale. With ``of="gradient"`` it is ``share`` over the
    mean ratio of the gradients' norms, measured once an update on the parameters that both change; a policy loss may be
    near 0 while its gradient is not (PPO with normalised advantages).

    :param share: the penalty as a share of the agent's own. Raising it holds the policy nearer to its teacher. Usual
        range 0.01 to 1.
    :param of: ``"loss"``, as the algorithm logs it (all but ARS), or ``"gradient"`` (all but TRPO and ARS).
    :param value: the strength until the first update has been measured. Usual range 0.01 to 1.
    :param floor: the least strength. Usual range 0.0001 to 0.1.
    :param cap: the largest strength: a teacher that was just copied equals its student, and no strength is enough.
        Usual range 1 to 100.
    :param window: over how many updates the means are taken. Raising it makes the strength steadier. Usual range 10 to
        1000.
    :raises ValueError: when a value is out of its range.
    """

    relative: ClassVar[bool] = True

    share: float = number(0.1, low=0.0, low_open=True)
    of: str = choice("loss", ("loss", "gradient"))
    value: float = number(1.0, low=0.0, low_open=True)
    floor: float = number(0.001, low=0.0, low_open=True)
    cap: float = number(10.0, low=0.0, low_open=True)
    window: int = integer(50, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_between(self.value, "floor", self.floor, "cap", self.cap)

    def at(self, remaining: float) -> float:  # noqa: D102
        return self.value

    def check(self, agent: BaseAlgorithm, actor: Actor) -> None:  # noqa: D102
        super().check(agent, actor)
        if actor.optimizer(agent.policy) is None:
            raise TypeError(
                f"strength 'relative' weighs the penalty against a loss, and a {algorithm_name(agent)} has none: use "
                "'adaptive', 'constant' or 'schedule'"
            )

    @property
    def compares_gradients(self) -> bool:  # noqa: D102
        return self.of == "gradient"

    def build(self) -> RelativeController:  # noqa: D102
        return RelativeController(self)


def _check_between(value: float, low_key: str, low: float, high_key: str, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(
            f"strength.value must lie between strength.{low_key} = {low:g} and strength.{high_key} = {high:g}, "
            f"got {value:g}"
        )


class Coefficient:
    """The strength of one agent as it stands in training: the schedule's value times its gates.

    :param strength: what is wanted.
    :param clock: the agent's environment steps, for the gates; None for a counter of their own.
    :param ended: the agent's episodes, likewise.
    """

    def __init__(self, strength: Strength, clock: StepCounter | None = None, ended: Episodes | None = None) -> None:
        self.strength = strength
        self.control = strength.build()
        self.gates = [gate.build() for gate in strength.gates]
        for made in self.gates:
            made.clock, made.ended = clock or StepCounter(), ended or Episodes()
        self.per_state = [made for gate, made in zip(strength.gates, self.gates, strict=True) if gate.per_state]
        self.value = 0.0

    def update(self, agent: BaseAlgorithm, refreshed: bool) -> float:
        """Set the strength for the coming update and return it.

        :param refreshed: whether the teacher was just taken from the agent as it is now.
        :raises ValueError: when the schedule or the control returns no strength, or a gate no number from 0 to 1.
        """
        remaining = agent._current_progress_remaining
        source = self.strength if self.control is None else self.control
        value = source.at(remaining)
        if not (isinstance(value, float) and 0.0 <= value < math.inf):
            value = checked_number(f"{type(source).__name__}.at({remaining:g})", value)
        for gate in self.gates:
            value *= checked_number(f"{type(gate).__name__}.update", gate.update(agent, refreshed), high=1.0)
        self.value = value
        return value

    @torch.no_grad()
    def weights(self, situation: GateInput) -> Tensor | None:
        """Return the factor on each state of a minibatch, ``(batch,)``; None for 1 everywhere.

        :raises ValueError: when a gate's answer has another shape: a column would weigh every state by every other.
        """
        found = []
        for gate in self.per_state:
            weights, expected = gate.weights(situation), situation.teacher.shape[:1]
            if weights is None:
                continue
            if weights.shape != expected:
                answer = f"{type(gate).__name__}.weights"
                raise ValueError(f"{answer} must return the shape {tuple(expected)}, got {tuple(weights.shape)}")
            found.append(weights)
        return torch.stack(found).prod(0) if found else None

    def state(self) -> State:
        """Return the state of control and gates as plain data."""
        control = {} if self.control is None else self.control.state()
        return {"control": control, "gates": [gate.state() for gate in self.gates], "value": self.value}

    def load(self, state: SavedState) -> None:
        """Load what :meth:`state` returned."""
        if self.control is not None:
            self.control.load(state["control"])
        for gate, saved in zip(self.gates, state["gates"], strict=True):
            gate.load(saved)
        self.value = float(state.get("value", 0.0))  # files of before have none
