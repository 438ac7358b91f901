"""What every teacher answers, and what may be wanted of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.change import ChangeEvent
from rlsd.clock import StepCounter
from rlsd.config import Answer
from rlsd.observations import Observations, as_items
from rlsd.plain import SavedState, State
from rlsd.returns import Episodes
from rlsd.states import StateStore


@dataclass(frozen=True)
class TargetSpec:
    """What is wanted of a teacher besides the parameters of its action distribution.

    :param value: the critic's value of each state.
    :param spread: how far the members of a teacher of several differ on each state.
    :param weight: what each state weighs in the loss, of a teacher that says so.
    :param product: members are to be joined for ``KL(student || member)``, whose weighted sum has the gradient of the
        divergence from the members' normalised geometric mean; else for ``KL(member || student)`` and their mixture.
    """

    value: bool = False
    spread: bool = False
    product: bool = False
    weight: bool = False

    @cached_property
    def extra(self) -> int:
        """How many numbers a target has besides the parameters."""
        return self.value + self.spread + self.weight


class Teacher(ABC):
    """What an agent is distilled from, as it stands in training.

    :param actor: the adapter to the agent's way of acting.
    """

    #: What is wanted of it; the distiller says so before it first asks.
    wants = TargetSpec()
    #: Whether a state's target is computed when the state enters the store, by the teacher of that moment. Else when it
    #: is first drawn after the teacher changed, so that states never drawn cost nothing.
    eager = False
    #: Whether it decides state by state, in :meth:`hold_weight`, which are held at the target that they have. Else
    #: every state is held, and its target made anew when the teacher changes.
    per_state = False
    #: The weight in the loss of states that are not held at all.
    min_weight = 0.0
    #: Whether it is shown all states that the agent meets.
    observes = False

    #: Whether it says with each target what the state weighs in the loss, see :meth:`target_weights`.
    weighs = False
    #: Whether it is of another agent, or of none, and so can act in its student's place.
    from_elsewhere = False
    #: Whether it must know of which episode each stored state is.
    episodic = False
    #: Whether a state that becomes held is asked about anew, and one that is not held never.
    rolls_back = False

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        #: Increases whenever the teacher would answer differently: targets of an older version are asked for anew.
        self.version = 0
        #: The agent's steps and episodes, through all calls of ``learn()``; the distiller hands it its own.
        self.clock, self.ended = StepCounter(), Episodes()
        #: By this clock, when it was last refreshed; None before it ever was.
        self.refreshed_at: int | None = None

    @property
    def ready(self) -> bool:
        """Whether there is anything to teach yet."""
        return self.version > 0

    def age(self, agent: BaseAlgorithm) -> int:
        """Return the environment steps since it was last refreshed, or since the start."""
        return self.clock.steps(agent) - (self.refreshed_at or 0)

    def begin(self, agent: BaseAlgorithm) -> None:  # noqa: B027 - most teachers have nothing to find
        """Look at an agent whose distillation begins, and is not loaded from a file; refuse one it cannot teach.

        :raises ValueError: then.
        """

    @abstractmethod
    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Bring the teacher up to date if it is due, and tell whether it changed. Called before each update."""

    @abstractmethod
    def targets(self, observations: Observations) -> Tensor:
        """Return the teacher's action distributions on raw states: normalised parameters ``(batch, family.size)``."""

    def values(self, observations: Observations) -> Tensor:
        """Return the teacher's values of raw states, ``(batch,)``."""
        raise TypeError(f"a {type(self).__name__} gives no values of states")

    def spread(self, observations: Observations) -> Tensor:
        """Return how far the teacher's members differ on raw states, ``(batch,)``; a single one agrees with itself."""
        some: Tensor = next(iter(as_items(observations).values()))
        return torch.zeros(len(some), device=some.device)

    def target_weights(self, observations: Observations) -> Tensor:
        """Return what raw states weigh in the loss, ``(batch,)``, for teachers that say so when the target is made."""
        raise NotImplementedError

    def rows(self, observations: Observations) -> Tensor:
        """Return all that is kept of the targets of raw states, ``(batch, family.size + wants.extra)``.

        The parameters come first, then the value, the spread and the weight where they are wanted.
        """
        columns = [self.targets(observations)]
        if self.wants.value:
            columns.append(self.values(observations).unsqueeze(-1))
        if self.wants.spread:
            columns.append(self.spread(observations).unsqueeze(-1))
        if self.wants.weight:
            columns.append(self.target_weights(observations).unsqueeze(-1))
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)

    def ask(self, observations: Observations) -> Tensor:
        """Return :meth:`rows`.

        :raises ValueError: when they have another shape than they should: one column would be taken for all.
        """
        rows, count = self.rows(observations), len(next(iter(as_items(observations).values())))
        expected = (count, self.actor.family.size + self.wants.extra)
        if rows.shape != expected:
            answer = f"{type(self).__name__}.{'rows' if self.wants.extra else 'targets'}"
            raise ValueError(f"{answer} must return the shape {expected}, got {tuple(rows.shape)}")
        return rows

    def restart(self, agent: BaseAlgorithm) -> None:  # noqa: B027 - most are of no weights but those of one moment
        """Called when the agent's weights are others than its updates made: a student's, or those of a phase.

        What averages the agent's weights begins anew, since those of before have nothing in common with them.
        """

    def observe_states(self, agent: BaseAlgorithm, states: Mapping[str, np.ndarray]) -> None:  # noqa: B027 - most do not care
        """Record raw states that the agent has just met, ``(n, *shape)`` by key, where :attr:`observes` is set.

        Called before :meth:`refresh`.
        """

    def prepare(self, store: StateStore) -> np.ndarray | None:
        """Look at the store of states before an update; called when states and teacher are up to date.

        :return: slots of the store whose targets are to be brought up to date at once, None for none.
        """
        return None

    @property
    def inactive(self) -> bool:
        """Whether there is nothing to hold the student to at present, so that an update need not look for it."""
        return False

    def hold_weight(self, observations: Observations) -> Tensor:
        """Return how firmly the student is held on some raw states, ``(batch,)`` in 0..1; see :attr:`per_state`.

        Above 0 the target stays as it is, elsewhere it is made anew.
        """
        raise NotImplementedError

    def held(self, holds: Tensor) -> None:  # noqa: B027 - most do not look back
        """Record how firmly the student is held on all states of a draw: :meth:`hold_weight` sees a few at a time."""

    def hold_stored(self, store: StateStore, slots: np.ndarray) -> Tensor:
        """Return :meth:`hold_weight` of the states in some slots of the store."""
        return self.hold_weight(store.pick(slots))

    def loss_weight(self, holds: Tensor, targets: Tensor) -> Tensor:
        """Return the weights of some states in the loss, ``(batch,)``.

        :param holds: how firmly the student is held on each, ``(batch,)``, as :meth:`hold_weight` returned it.
        :param targets: the parameters of their distributions, ``(batch, size)``.
        """
        return holds

    @property
    def changes(self) -> list[ChangeEvent]:
        """The changes of the task that it noticed, in order."""
        return []

    def metrics(self) -> dict[str, float]:
        """Return metrics of this teacher besides those of every one, by name."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the teacher's tensors by name."""
        return {}

    def state(self) -> State:
        """Return the rest of the teacher's state as plain data."""
        return {"version": self.version, "refreshed_at": self.refreshed_at}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Load what :meth:`tensors` and :meth:`state` returned."""
        self.version, self.refreshed_at = int(state["version"]), state["refreshed_at"]


@dataclass(frozen=True)
class TeacherConfig(Answer, question="teacher"):
    """A choice of the teacher."""

    @abstractmethod
    def build(self, actor: Actor) -> Teacher:
        """Make the teacher of one agent."""
