"""A frozen copy of the agent's own policy, taken anew from time to time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import Actor
from rlsd.config import integer
from rlsd.observations import Normalization, Observations
from rlsd.plain import SavedState
from rlsd.teachers.base import Teacher, TeacherConfig
from rlsd.teachers.frozen_policy import FrozenPolicy


class SnapshotTeacher(Teacher):
    """A frozen copy of the agent, taken anew from time to time."""

    def __init__(self, actor: Actor, every: int) -> None:
        super().__init__(actor)
        self.every = every
        self.frozen = FrozenPolicy(actor)

    @property
    def policy(self) -> nn.Module | None:
        """The acting module, frozen; None before the first snapshot."""
        return self.frozen.policy

    @property
    def normalization(self) -> Normalization | None:
        """The statistics that were frozen with it."""
        return self.frozen.normalization

    def refresh(self, agent: BaseAlgorithm) -> bool:  # noqa: D102
        if self.age(agent) < self.every:
            return False
        self.take(agent)
        return True

    def take(self, agent: BaseAlgorithm) -> None:
        """Freeze the agent as it is now."""
        self.frozen.take(agent)
        self.refreshed_at = self.clock.steps(agent)
        self.version += 1

    def targets(self, observations: Observations) -> Tensor:  # noqa: D102
        return self.frozen.targets(observations)

    def values(self, observations: Observations) -> Tensor:  # noqa: D102
        return self.frozen.values(observations)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return self.frozen.tensors()

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        super().load(agent, tensors, state)
        self.frozen.load(agent, tensors)
        if self.ready and self.policy is None:
            raise ValueError("the saved teacher does not fit this policy: it has no tensors")


@dataclass(frozen=True)
class Snapshot(TeacherConfig, name="snapshot"):
    """A frozen copy of the agent's own policy, taken anew from time to time just before an update.

    :param every: environment steps from one snapshot to the next, rounded up to whole rollouts; 1 takes one before
        every update. A short interval limits how far one update carries the policy off on states outside the current
        batch; a long one keeps what was known, and holds back learning. An algorithm that makes one gradient step per
        rollout (A2C) needs more than a rollout's steps: a teacher equal to its student pulls at nothing. Usual range 1
        to 100,000.
    """

    every: int = integer(2048, low=1)

    def build(self, actor: Actor) -> SnapshotTeacher:  # noqa: D102
        return SnapshotTeacher(actor, self.every)
