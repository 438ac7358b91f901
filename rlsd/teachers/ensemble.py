"""The latest copies of the agent, which teach together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.config import integer
from rlsd.plain import SavedState
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.frozen_policy import FrozenPolicy, split_parts
from rlsd.teachers.joined import JoinedTeacher


class EnsembleTeacher(JoinedTeacher):
    """The ``k`` latest snapshots; the oldest gives its place to the next."""

    def __init__(self, actor: Actor, k: int, every: int) -> None:
        super().__init__(actor)
        self.k, self.every = k, every
        self._members: list[FrozenPolicy] = []  # the oldest first

    def members(self) -> list[FrozenPolicy]:
        """Return the snapshots, the oldest first."""
        return self._members

    def refresh(self, agent: BaseAlgorithm) -> bool:  # noqa: D102
        if self.age(agent) < self.every:
            return False
        self.take(agent)
        return True

    def take(self, agent: BaseAlgorithm) -> None:
        """Add the agent as it is now."""
        member = self._members.pop(0) if len(self._members) == self.k else FrozenPolicy(self.actor)
        member.take(agent)
        self._members.append(member)
        self.refreshed_at = self.clock.steps(agent)
        self.version += 1

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {f"{i}/{name}": t for i, member in enumerate(self._members) for name, t in member.tensors().items()}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        super().load(agent, tensors, state)
        parts = split_parts(tensors)
        if len(parts) != min(self.version, self.k):
            raise ValueError(f"the saved teacher does not fit this policy: it has {len(parts)} members")
        self._members = []
        for i in range(len(parts)):
            self._members.append(FrozenPolicy(self.actor))
            self._members[-1].load(agent, parts[str(i)])


@dataclass(frozen=True)
class Ensemble(TeacherConfig, name="ensemble"):
    """The latest copies of the policy teach together: their mixture, or for the reverse KL their product.

    What they agree on is held firmly, what changed from one to the next loosely. A gate may look at how far they
    differ. After Temporal Ensembling (Laine and Aila 2017), which averages predictions over training.

    :param k: copies kept. Raising it reaches further back, ``k * every`` environment steps, for ``k`` policies'
        memory; a gradient step costs the same. Usual range 3 to 10.
    :param every: environment steps from one copy to the next, rounded up to whole rollouts. Usual range 1 to 100,000.
    """

    k: int = integer(5, low=1)
    every: int = integer(2048, low=1)

    def build(self, actor: Actor) -> EnsembleTeacher:  # noqa: D102
        return EnsembleTeacher(actor, self.k, self.every)
