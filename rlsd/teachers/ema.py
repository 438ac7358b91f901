"""The average of the agent's own weights over its latest updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.config import integer, number
from rlsd.observations import Normalization
from rlsd.plain import SavedState, State
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.frozen_policy import named_tensors
from rlsd.teachers.snapshot import SnapshotTeacher


class EmaTeacher(SnapshotTeacher):
    """A moving average of the policy's weights, each step of which moves it by a share of the way."""

    def __init__(self, actor: Actor, decay: float, every: int) -> None:
        super().__init__(actor, every)
        self.decay = decay
        self.weight = 0.0  # of all policies that entered, each decayed

    def take(self, agent: BaseAlgorithm) -> None:
        """Let the agent as it is now enter the average."""
        self.weight = self.kept(agent) * self.weight + 1.0
        if self.policy is None or self.weight == 1.0:
            super().take(agent)
            return
        live = self.actor.module(agent.policy)
        with torch.no_grad():
            mine = dict(self.policy.named_parameters())
            theirs = named_tensors(live)
            torch._foreach_lerp_(list(mine.values()), [theirs[name].detach() for name in mine], 1.0 / self.weight)
            for name, buffer in self.policy.named_buffers():
                buffer.copy_(theirs[name])
        self.frozen.normalization = Normalization.of(agent)
        self.refreshed_at = self.clock.steps(agent)
        self.version += 1

    def restart(self, agent: BaseAlgorithm) -> None:
        """Let the average begin anew, with the agent as it is now."""
        if self.ready:
            self.weight = 0.0
            self.take(agent)

    def kept(self, agent: BaseAlgorithm) -> float:
        """Return the factor on the weight of the policies in the average as another enters it."""
        return self.decay

    def state(self) -> State:  # noqa: D102
        return super().state() | {"weight": self.weight}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        super().load(agent, tensors, state)
        self.weight = float(state["weight"])


@dataclass(frozen=True)
class Ema(TeacherConfig, name="ema"):
    """A moving average of the policy's weights, as in PPO-EWMA (Hilton et al. 2021) and Mean Teacher.

    Debiased: ``w <- decay * w + 1; average <- average + (policy - average) / w``, so that the first policies do not
    count for more than the others. Buffers, such as batch norm's, and ``VecNormalize`` statistics are the latest. The
    average begins anew where a student takes over or is sent back, and after each phase (PPG's is reset there, too).

    :param decay: what a policy's weight in the average is multiplied by at each further one. Raising it makes the
        teacher slower: it lies about ``1 / (1 - decay)`` entries back. 0 is a snapshot. Usual range 0.9 to 0.999.
    :param every: environment steps from one entry to the next, rounded up to whole rollouts; 1 enters the policy
        before each update. Usual range 1 to a few rollouts.
    """

    decay: float = number(0.99, low=0.0, high=1.0)
    every: int = integer(1, low=1)

    def build(self, actor: Actor) -> EmaTeacher:  # noqa: D102
        return EmaTeacher(actor, self.decay, self.every)
