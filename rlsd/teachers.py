"""Who teaches? The answers to the first question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rlsd.actors import Actor
from rlsd.config import Answer, integer
from rlsd.observations import Normalization, Observations


class Teacher(ABC):
    """What an agent is distilled from, as it stands in training.

    :param actor: the adapter to the agent's way of acting.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        #: Increases whenever the teacher would answer differently: targets of an older version are asked for anew.
        self.version = 0
        #: Environment steps at which it was last refreshed, None before it ever was, 0 when that was in an earlier
        #: ``learn()``, which counted for itself.
        self.refreshed_at: int | None = None
        self._seen = 0

    @property
    def ready(self) -> bool:
        """Whether there is anything to teach yet."""
        return self.version > 0

    def age(self, agent: BaseAlgorithm) -> int:
        """Return the environment steps since it was last refreshed, or since the start."""
        return agent.num_timesteps - (self.refreshed_at or 0)

    def keep_time(self, agent: BaseAlgorithm) -> None:
        """Take note when ``learn()`` began to count anew. Called once before each update."""
        if agent.num_timesteps <= self._seen and self.refreshed_at is not None:
            self.refreshed_at = 0
        self._seen = agent.num_timesteps

    @abstractmethod
    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Bring the teacher up to date if it is due, and tell whether it changed. Called before each update."""

    @abstractmethod
    def targets(self, observations: Observations) -> Tensor:
        """Return what the teacher would do on raw states: normalised parameters ``(batch, family.size)``."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the teacher's tensors by name."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return the rest of the teacher's state as plain data."""
        return {"version": self.version, "refreshed_at": self.refreshed_at, "seen": self._seen}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up what :meth:`tensors` and :meth:`state` returned."""
        self.version, self.refreshed_at = int(state["version"]), state["refreshed_at"]
        self._seen = int(state["seen"])


class FrozenPolicy:
    """A copy of what acts and of the statistics that normalise what it sees, as they were at one moment.

    :param actor: the adapter to the agent's way of acting.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.policy: nn.Module | None = None
        self.normalization: Normalization | None = None

    def take(self, agent: BaseAlgorithm) -> None:
        """Freeze the agent as it is now."""
        if self.policy is None:
            self.policy = self.actor.frozen(agent.policy)
        else:
            _copy_into(self.policy, _named_tensors(self.actor.module(agent.policy)))
        self.normalization = Normalization.of(agent)

    def targets(self, observations: Observations) -> Tensor:
        """Return what it would do on raw states: normalised parameters ``(batch, family.size)``."""
        assert self.policy is not None, "nothing was frozen yet"
        with torch.no_grad():
            seen = observations if self.normalization is None else self.normalization(observations)
            return self.actor.family.normalized(self.actor.parameters(self.policy, seen))

    def tensors(self) -> dict[str, Tensor]:
        """Return all its tensors by name."""
        out: dict[str, Tensor] = {}
        if self.policy is not None:
            out.update({f"policy/{name}": tensor for name, tensor in _named_tensors(self.policy).items()})
        if self.normalization is not None:
            out.update({f"normalization/{name}": tensor for name, tensor in self.normalization.tensors().items()})
        return out

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`tensors` returned."""
        parts: dict[str, dict[str, Tensor]] = {"policy": {}, "normalization": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        if parts["policy"]:
            self.policy = self.actor.frozen(agent.policy)
            _copy_into(self.policy, parts["policy"])
        if parts["normalization"]:
            self.normalization = Normalization.from_tensors(parts["normalization"], agent.device)


class SnapshotTeacher(Teacher):
    """A frozen copy of the agent, taken anew from time to time."""

    def __init__(self, actor: Actor, every: int) -> None:
        super().__init__(actor)
        self.every = every
        self.frozen = FrozenPolicy(actor)

    @property
    def policy(self) -> nn.Module | None:
        """What acts, frozen; None before the first snapshot."""
        return self.frozen.policy

    @property
    def normalization(self) -> Normalization | None:
        """The statistics that were frozen with it."""
        return self.frozen.normalization

    def refresh(self, agent: BaseAlgorithm) -> bool:  # noqa: D102
        self.keep_time(agent)
        if self.age(agent) < self.every:
            return False
        self.take(agent)
        return True

    def take(self, agent: BaseAlgorithm) -> None:
        """Freeze the agent as it is now."""
        self.frozen.take(agent)
        self.refreshed_at = agent.num_timesteps
        self.version += 1

    def targets(self, observations: Observations) -> Tensor:  # noqa: D102
        return self.frozen.targets(observations)

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return self.frozen.tensors()

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:  # noqa: D102
        super().load(agent, tensors, state)
        self.frozen.load(agent, tensors)
        if self.ready and self.policy is None:
            raise ValueError("the saved teacher does not fit this policy: it has no tensors")


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers, those that submodules share only once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _copy_into(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    own = _named_tensors(module)
    for name in sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"the saved teacher does not fit this policy: {name!r} is on one side only")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"the saved teacher does not fit this policy: {name!r} is {tuple(tensors[name].shape)}, "
                f"{tuple(tensor.shape)} expected"
            )
        tensor.data.copy_(tensors[name])


@dataclass(frozen=True)
class Teaching(Answer, question="teacher"):
    """A choice of who teaches."""

    @abstractmethod
    def build(self, actor: Actor) -> Teacher:
        """Make the teacher of one agent."""


@dataclass(frozen=True)
class Snapshot(Teaching, name="snapshot"):
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
