"""Another trained agent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor, algorithm_name
from rlsd.actors.on_policy import FORBIDDEN, MaskedActorCritic, RecurrentActorCritic
from rlsd.chunks import Pace
from rlsd.distributions import Categorical, Family, QValues
from rlsd.observations import Observations, as_items, split_context, with_context
from rlsd.plain import shown
from rlsd.states import StateStore
from rlsd.teachers.base import Teacher, TeacherConfig
from rlsd.teachers.frozen_policy import FrozenPolicy
from rlsd.teachers.outside import checked_view, same_kind, seen_by, seen_space
from rlsd.teachers.packed_policy import PackedPolicy

#: Stored states on which the scale of a Q-learner's values is taken.
_SAMPLE = 256


class FrozenTeacher(Teacher):
    """Another agent's policy, of any size and algorithm; it never changes. See :class:`Frozen`."""

    from_elsewhere = True

    def __init__(self, actor: Actor, answer: Frozen) -> None:
        super().__init__(actor)
        self.answer = answer
        self.donor: PackedPolicy | None = None
        self.frozen: FrozenPolicy | None = None
        self.tau: float | None = None  # of a Q-learner that teaches a policy of probabilities

    def begin(self, agent: BaseAlgorithm) -> None:
        """Find the teacher, and refuse one that cannot teach this agent.

        :raises ValueError: then.
        """
        if isinstance(self.answer.agent, str):
            raise ValueError(
                f"the teacher was an agent in memory, {self.answer.agent}, and only agents saved with it hold it: "
                "pass rlsd.Frozen(agent=...) or a path"
            )
        self._take(agent, self.answer.agent or PackedPolicy.read(self.answer.path, self.answer.vecnormalize))

    def _take(self, agent: BaseAlgorithm, donor: PackedPolicy) -> None:
        frozen, built = donor.unpack(agent.device)
        theirs = (built.observation_space, built.action_space)
        view = self.answer.observations
        mine = (seen_space(view, agent.observation_space), agent.action_space)
        if theirs[1] != mine[1] or not (theirs[0] == mine[0] if view is None else same_kind(theirs[0], mine[0])):
            shows = "this agent sees" if view is None else "teacher.observations gives it"
            raise ValueError(
                f"the teacher {donor.name} sees {theirs[0]} and acts in {theirs[1]}, {shows} {mine[0]} and "
                f"acts in {mine[1]}: both spaces must be the same, so use one trained in this agent's environment, or "
                "say by teacher.observations which of its observations the teacher sees"
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in frozen.tensors().values()):
            raise ValueError(f"the teacher {donor.name} has weights that are not finite, and would answer with NaN")
        translated = _translated(frozen.actor.family, self.actor.family)
        reason = "" if translated else misfit(frozen.actor, built.squash_output, self.actor, agent.policy.squash_output)
        if reason:
            like = "PPO" if isinstance(self.actor, RecurrentActorCritic) else algorithm_name(agent)
            raise ValueError(
                f"the teacher {donor.name} cannot teach a {algorithm_name(agent)}: {reason}. Use one trained by {like}"
            )
        if self.wants.value and not frozen.actor.has_values:
            raise ValueError(f"the teacher {donor.name} gives no values of states: set divergence.value_weight to 0")
        self.donor, self.frozen = donor, frozen

    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Begin to teach, before the first update."""
        if self.ready:
            return False
        if self.frozen is None:
            self.begin(agent)
        self.version, self.refreshed_at = 1, self.clock.steps(agent)
        return True

    def prepare(self, store: StateStore) -> None:
        """Take the scale of a Q-learner's values, once."""
        if self.tau is not None or not self._translates or store.count == 0:
            return
        slots = store.slots()[:: max(store.count // _SAMPLE, 1)][:_SAMPLE]
        values = Pace().joined(lambda some: self._policy.targets(self._shown(store.pick(some))), slots)
        self._policy.actor.family.calibrate(values)
        self.tau = self._policy.actor.family.tau  # type: ignore[attr-defined]

    @property
    def _policy(self) -> FrozenPolicy:
        assert self.frozen is not None, "there is no teacher yet"
        return self.frozen

    @property
    def _translates(self) -> bool:
        return _translated(self._policy.actor.family, self.actor.family)

    def targets(self, observations: Observations) -> Tensor:  # noqa: D102
        answers = self._policy.targets(self._shown(observations))
        mask = split_context(observations)[1].get("@mask")
        if mask is None and not self._translates:
            return answers
        if self._translates:
            answers = answers / (1.0 if self.tau is None else self.tau)
        if mask is not None:
            answers = torch.where(mask > 0.5, answers, FORBIDDEN)
        return self.actor.family.normalized(answers)

    def values(self, observations: Observations) -> Tensor:  # noqa: D102
        return self._policy.values(self._shown(observations))

    def _shown(self, observations: Observations) -> Observations:
        """Return raw states without what only the student acts by; a teacher with masks is shown one, if all ones."""
        plain, context = split_context(observations)
        plain = seen_by(self.answer.observations, plain)
        if not isinstance(self._policy.actor, MaskedActorCritic):
            return plain
        some: Tensor = next(iter(as_items(plain).values()))
        ones = torch.ones(len(some), self._policy.actor.family.size, device=some.device)
        return with_context(plain, {"@mask": context.get("@mask", ones)})

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        return {} if self.donor is None else self.donor.tensors()

    def state(self) -> dict[str, Any]:  # noqa: D102
        return super().state() | {"name": None if self.donor is None else self.donor.name, "tau": self.tau}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up what was saved: the file that the teacher came from is not needed."""
        super().load(agent, tensors, state)
        self.tau = state["tau"]
        if tensors:
            self._take(agent, PackedPolicy.from_tensors(str(state["name"]), tensors))


def _translated(theirs: Family, mine: Family) -> bool:
    """Tell whether a Q-learner's values are to become the probabilities of a policy."""
    return isinstance(theirs, QValues) and type(mine) is Categorical and theirs.sizes == mine.sizes


def misfit(theirs: Actor, theirs_squashed: bool, mine: Actor, mine_squashed: bool) -> str:
    """Return why one policy's distributions cannot be targets of another's, empty when they can."""
    if isinstance(theirs, RecurrentActorCritic):
        return "its memory of an episode is not stored with the states"
    a, b = theirs.family, mine.family
    same = type(a) is type(b) and a.size == b.size and getattr(a, "sizes", ()) == getattr(b, "sizes", ())
    if not same:
        return f"it acts by {_described(a)}, the agent by {_described(b)}"
    if theirs_squashed != mine_squashed:
        return "only one of the two squashes its actions by a tanh (squash_output)"
    return ""


def _described(family: Family) -> str:
    sizes = getattr(family, "sizes", None)
    return f"{type(family).__name__} of {family.size if sizes is None else ' and '.join(map(str, sizes))}"


def _path(key: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{key} must be a path, got {shown(value)}")
    return os.fspath(value)


def _agent(key: str, value: Any) -> PackedPolicy | str | None:
    if isinstance(value, BaseAlgorithm):
        return PackedPolicy.of(value)
    if value is None or isinstance(value, (PackedPolicy, str)):
        return value or None
    raise ValueError(f"{key} must be an SB3 agent, got {shown(value)}")


@dataclass(frozen=True)
class Frozen(TeacherConfig, name="frozen"):
    """Another trained agent: ``rlsd.Frozen("teacher.zip")`` or ``rlsd.Frozen(teacher)``.

    Its network, feature extractor and algorithm may be others, not its spaces; but it may see other keys of a Dict than
    its student does, or fewer numbers of a vector: ``rlsd.Frozen(teacher, observations="state")``. It must act by the
    same family of distributions; a Q-learner may also teach a policy of probabilities, by ``softmax(Q / tau)``, with
    tau the spread of its values over the actions. It sees states through its own ``VecNormalize`` statistics. What it
    needs is saved with the student, so a saved student goes on without the file. Loading it unpickles, as SB3's
    ``load`` does: use only files that you trust.

    :param path: an SB3 zip, of which only the policy is built; or a live agent, as ``agent``.
    :param vecnormalize: the pickled ``VecNormalize`` that the teacher was trained in. Empty: the ``vecnormalize.pkl``
        beside the zip or in the folder of its name, where rl_zoo3 and ``rlsd train`` put it, if there is one.
    :param agent: a live agent instead of a path; it is copied at once. A config with it can be written to a file, but
        not be used again from there: the file has only its name.
    :param observations: what it sees of its student's observations: a key, ``{its key: the student's key}``, or the
        places of a vector, ``[0, 1, 3]``. None for all, as it is.
    :raises ValueError: when there is neither a path nor an agent, or both.
    """

    path: str = field(default="", metadata={"check": _path})
    agent: Any = field(default=None, kw_only=True, metadata={"check": _agent})
    vecnormalize: str = field(default="", kw_only=True, metadata={"check": _path})
    observations: Any = field(default=None, kw_only=True, metadata={"check": checked_view})

    def __post_init__(self) -> None:
        if isinstance(self.path, BaseAlgorithm):  # rlsd.Frozen(teacher)
            given = {"path": "", "agent": self.path} if self.agent is None else {}
            for name, value in given.items():
                object.__setattr__(self, name, value)
        super().__post_init__()
        if bool(self.path) == (self.agent is not None):
            raise ValueError(
                "teacher 'frozen' needs a trained agent, either teacher.path or teacher.agent: "
                'rlsd.Frozen("teacher.zip"), or --distill teacher.path=teacher.zip on the command line'
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain data; of an agent only its name; observations are left out where it sees all."""
        name = self.agent.name if isinstance(self.agent, PackedPolicy) else self.agent
        data = super().to_dict() | {"agent": name}
        return data if self.observations is not None else {k: v for k, v in data.items() if k != "observations"}

    def build(self, actor: Actor) -> FrozenTeacher:  # noqa: D102
        return FrozenTeacher(actor, self)
