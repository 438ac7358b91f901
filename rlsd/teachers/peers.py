"""Agents that learn side by side in one process and teach each other."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor, RecurrentActorCritic
from rlsd.config import integer
from rlsd.plain import SavedState, State, shown
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.frozen import misfit
from rlsd.teachers.frozen_policy import FrozenPolicy, split_parts
from rlsd.teachers.joined import JoinedTeacher

#: Everyone of this process, by the name of the group. Nobody is kept alive by it.
_GROUPS: dict[str, weakref.WeakSet[PeersTeacher]] = {}


class Kind(NamedTuple):
    """What agents must have in common to teach each other.

    :param actor: the adapter to its way of acting.
    :param spaces: its observation and action space.
    :param squashed: whether its actions go through a tanh.
    """

    actor: Actor
    spaces: tuple[spaces.Space[Any], spaces.Space[Any]]
    squashed: bool

    @classmethod
    def of(cls, agent: BaseAlgorithm, actor: Actor) -> Kind:
        """Return an agent's."""
        return cls(actor, (agent.observation_space, agent.action_space), bool(agent.policy.squash_output))


class Copy(NamedTuple):
    """What an agent has last shown to its peers; never changed once it is shown.

    :param frozen: its policy.
    :param number: how many it had shown before.
    :param kind: the agent's.
    """

    frozen: FrozenPolicy
    number: int
    kind: Kind


class PeersTeacher(JoinedTeacher):
    """The latest copies of the other agents of a group. See :class:`Peers`."""

    def __init__(self, actor: Actor, group: str, every: int) -> None:
        super().__init__(actor)
        self.group, self.every = group, every
        self.shown: Copy | None = None
        self.copies: dict[int, Copy] = {}  # those that teach now, by the number of who showed them
        self._place: int = 1 + max((peer._place for peer in self._group()), default=0)
        self._company: list[weakref.ref[PeersTeacher]] | None = None
        self._waiting: dict[int, dict[str, Tensor]] = {}  # saved copies of peers whose networks are not known yet
        self._enter()

    def _group(self) -> weakref.WeakSet[PeersTeacher]:
        return _GROUPS.setdefault(self.group, weakref.WeakSet())

    def _enter(self) -> None:
        self._group().add(self)

    @property
    def ready(self) -> bool:
        """Whether a peer has shown itself."""
        return bool(self.copies)

    def keep_company(self, peers: Iterable[PeersTeacher]) -> None:
        """Learn from these only, whoever else is in the group.

        :param peers: all who learn together, this one may be among them.
        """
        self._company = [weakref.ref(peer) for peer in peers if peer is not self]

    @staticmethod
    def introduce(peers: list[PeersTeacher]) -> None:
        """Let all of these learn from each other, and from nobody else."""
        fresh = all(peer.shown is None for peer in peers)
        if fresh or len({peer._place for peer in peers}) < len(peers):  # loaded from the same file, say
            for place, peer in enumerate(peers, start=1):
                peer._place = place
        for peer in peers:
            peer.keep_company(peers)

    def peers(self) -> list[PeersTeacher]:
        """Return the others, in the order in which they came."""
        if self._company is not None:
            found = [peer for peer in (ref() for ref in self._company) if peer is not None]
        else:
            found = [peer for peer in self._group() if peer is not self]
        return sorted(found, key=lambda peer: peer._place)

    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Show a copy and look at those of the others, when that is due."""
        self._recognise()
        if self.age(agent) < self.every:
            return False
        self.show(agent)
        self.refreshed_at = self.clock.steps(agent)
        return self._look()

    def show(self, agent: BaseAlgorithm) -> None:
        """Let the others learn from the agent as it is now, whenever they look next."""
        frozen = FrozenPolicy(self.actor)  # a new one: others hold the one before
        frozen.take(agent)
        number = 0 if self.shown is None else self.shown.number + 1
        self.shown = Copy(frozen, number, Kind.of(agent, self.actor))

    def _look(self) -> bool:
        assert self.shown is not None
        found = {peer._place: peer.shown for peer in self.peers() if peer.shown is not None}
        for copy in found.values():
            self.check(self.shown.kind, copy.kind)
        before = {place: copy.number for place, copy in self.copies.items()}
        if not found or before == {place: copy.number for place, copy in found.items()}:
            return False
        self.copies, self._waiting = found, {}
        self.version += 1
        return True

    def check(self, mine: Kind, theirs: Kind) -> None:
        """Refuse a peer that cannot teach this agent.

        :raises ValueError: then.
        """
        reason = misfit(theirs.actor, theirs.squashed, mine.actor, mine.squashed)
        if mine.spaces != theirs.spaces:
            reason = (
                f"one sees {theirs.spaces[0]} and acts in {theirs.spaces[1]}, "
                f"the other {mine.spaces[0]} and {mine.spaces[1]}"
            )
        if reason:
            raise ValueError(
                f"the agents of the group {self.group!r} cannot teach each other: {reason}. Peers need the same "
                "spaces and the same kind of policy: train them by one algorithm, or give other agents another group"
            )
        if self.wants.value and not theirs.actor.has_values:
            raise ValueError(
                f"an agent of the group {self.group!r} gives no values of states, which are wanted: "
                "set divergence.value_weight to 0, and leave the gate 'value_advantage' out"
            )

    def members(self) -> list[FrozenPolicy]:
        """Return the others' latest copies."""
        return [copy.frozen for copy in self.copies.values()]

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {"peers": float(len(self.copies))}

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        held = {place: copy.frozen.tensors() for place, copy in self.copies.items()} | self._waiting
        if self.shown is not None:
            held[0] = self.shown.frozen.tensors()
        return {f"{place}/{name}": tensor for place, named in held.items() for name, tensor in named.items()}

    def state(self) -> State:  # noqa: D102
        numbers = {str(place): copy.number for place, copy in self.copies.items()}
        shown = None if self.shown is None else self.shown.number
        return super().state() | {"place": self._place, "shown": shown, "numbers": numbers}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:
        """Take up what was saved. A peer's copy is built as the agent is, or as the peer once that is loaded too."""
        super().load(agent, tensors, state)
        self._place = int(state["place"])
        parts = {int(place): named for place, named in split_parts(tensors).items()}
        own = parts.pop(0, None)
        kind = Kind.of(agent, self.actor)
        if own is not None:
            frozen = FrozenPolicy(self.actor)
            frozen.load(agent, own)
            self.shown = Copy(frozen, int(state["shown"]), kind)
        self.copies = {}
        for place, named in parts.items():
            frozen = FrozenPolicy(self.actor)
            try:
                frozen.load(agent, named)
            except ValueError:  # its network is another
                self._waiting[place] = named
                frozen = FrozenPolicy(self.actor)
            self.copies[place] = Copy(frozen, int(state["numbers"][str(place)]), kind)

    def _recognise(self) -> None:
        """Build the saved copies of peers that have other networks, from the peers that are here again."""
        for place, named in list(self._waiting.items()):
            peer = next((peer for peer in self.peers() if peer._place == place and peer.shown is not None), None)
            if peer is None:
                raise ValueError(
                    f"peer {place} of the group {self.group!r} has another network than this agent, and is needed to "
                    "go on: load it before training, and name them all in rlsd.learn_together"
                )
            assert peer.shown is not None and peer.shown.frozen.policy is not None
            frozen = peer.shown.frozen.again(split_parts(named))
            self.copies[place] = self.copies[place]._replace(frozen=frozen)
            del self._waiting[place]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_company": None}

    def __setstate__(self, state: State) -> None:
        self.__dict__.update(state)
        self._enter()


def _group(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a name, got {shown(value)}")
    return value


@dataclass(frozen=True)
class Peers(TeacherConfig, name="peers"):
    """Agents that are trained in one process teach each other: deep mutual learning (Zhang et al. 2018).

    Agents whose answers name the same group find each other. Each shows a copy of itself now and then, and is taught by
    the mixture of the others' latest copies, never by its own; nothing is taught before another has shown one. Their
    networks may differ, not their spaces, nor their families of distributions; not for RecurrentPPO. Train them with
    :func:`rlsd.learn_together`. An agent that is no longer trained goes on teaching as long as it exists.

    :param group: who belongs together. Give unrelated agents of one process different names.
    :param every: environment steps from one copy, and one look at the others', to the next, rounded up to whole
        rollouts. Usual range 1 to 10 rollouts.
    """

    group: str = field(default="peers", metadata={"check": _group})
    every: int = integer(2048, low=1)

    def build(self, actor: Actor) -> PeersTeacher:  # noqa: D102
        if isinstance(actor, RecurrentActorCritic):
            raise TypeError(
                "peers answer on each other's states, and with these only the memory of the agent that met them is "
                "stored: use teacher 'ema' or 'ensemble', or agents without a memory, such as PPO's"
            )
        return PeersTeacher(actor, self.group, self.every)
