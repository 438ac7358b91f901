"""The agent as it was when distillation was switched on."""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.actors import Actor
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.snapshot import SnapshotTeacher


class OriginTeacher(SnapshotTeacher):
    """A snapshot taken once, before the first update."""

    def refresh(self, agent: BaseAlgorithm) -> bool:  # noqa: D102
        if self.ready:
            return False
        self.take(agent)
        return True


@dataclass(frozen=True)
class Origin(TeacherConfig, name="origin"):
    """The agent as it was before its first distilled update, never refreshed: for fine-tuning without forgetting.

    Load or train an agent, then ``rlsd.distill(agent, {"teacher": "origin"})``, and train it on something else. It is
    copied just before the first update, when no weight has changed yet, with the ``VecNormalize`` statistics of then.
    """

    def build(self, actor: Actor) -> OriginTeacher:  # noqa: D102
        return OriginTeacher(actor, every=1)
