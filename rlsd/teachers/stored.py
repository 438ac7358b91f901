"""What the agent would have done when it saw the state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlsd.actors import Actor
from rlsd.config import integer
from rlsd.observations import Observations, as_items
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.snapshot import SnapshotTeacher


class StoredTeacher(SnapshotTeacher):
    """A snapshot that is asked about a state once, when the state enters, and never again."""

    eager = True
    per_state = True

    def hold_weight(self, observations: Observations) -> Tensor:
        """Return 1 for all: a target stays as it was made."""
        some: Tensor = next(iter(as_items(observations).values()))
        return torch.ones(len(some), device=some.device)


@dataclass(frozen=True)
class Stored(TeacherConfig, name="stored"):
    """Each state is taught by the policy of the time when it was seen: CLEAR (Rolnick et al. 2019).

    A state's target is made when the state enters the store, and kept as long as the state is. States that were there
    before the first snapshot get theirs when they are first drawn. CLEAR also clones the values: set
    ``divergence.value_weight``.

    :param every: environment steps from one snapshot, which answers for the states that enter after it, to the next,
        rounded up to whole rollouts; 1 takes one before each update. Usual range 1 to a few rollouts.
    """

    every: int = integer(1, low=1)

    def build(self, actor: Actor) -> StoredTeacher:  # noqa: D102
        return StoredTeacher(actor, self.every)
