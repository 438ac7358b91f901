"""Several teachers from elsewhere as one: by task, by the student's critic, or averaged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.actors.base import acting_copy
from rlsd.config import Answer, checked_number, integer, switch
from rlsd.distributions import Family, Gaussian, Point
from rlsd.observations import Observations, as_items, split_context
from rlsd.plain import shown
from rlsd.states import StateStore
from rlsd.teachers.base import Teacher, TeacherConfig
from rlsd.teachers.expert import Expert
from rlsd.teachers.frozen import Frozen
from rlsd.teachers.frozen_policy import FrozenPolicy, copy_into, named_tensors, split_parts
from rlsd.teachers.outside import seen_by, seen_space


class SeveralTeacher(Teacher):
    """Asks its members and gives the answer of one, or their mixture. See :class:`Several`."""

    from_elsewhere = True
    weighs = True

    def __init__(self, actor: Actor, answer: Several) -> None:
        super().__init__(actor)
        self.answer = answer
        self.members = [None if one is None else one.build(actor) for one in answer.teachers]
        self._critic: torch.nn.Module | None = None
        self._student = FrozenPolicy(actor)  # whose actions the critic compares with the teachers'

    @property
    def _present(self) -> list[Teacher]:
        return [member for member in self.members if member is not None]

    def begin(self, agent: BaseAlgorithm) -> None:
        """Let each look at the agent.

        :raises ValueError: when one cannot teach it, or nobody can be chosen so.
        """
        if self.answer.task is not None:
            seen_space(self.answer.view, agent.observation_space)
        if self.answer.advised and not (self.actor.has_values or isinstance(self.actor.family, (Gaussian, Point))):
            raise ValueError(
                "teacher.advised goes by values of states, or of continuous actions, and this agent has neither: give "
                "teacher.task or teacher.weights"
            )
        for number, member in enumerate(self.members):
            if member is not None:
                member.clock, member.ended = self.clock, self.ended
                member.wants = self._wanted()
                try:
                    member.begin(agent)
                except ValueError as error:
                    raise ValueError(f"teacher {number} of several: {error}") from error

    def _wanted(self) -> Any:
        by_value = self.answer.advised and self.actor.has_values
        return type(self.wants)(value=self.wants.value or by_value, product=self.wants.product)

    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Begin to teach, before the first update; by a critic that takes actions, look at it anew when it is due."""
        for member in self._present:
            member.refresh(agent)
        by_critic = self.answer.advised and not self.actor.has_values
        if self.ready and not (by_critic and self.age(agent) >= self.answer.every):
            return False
        if by_critic:
            self._critic = acting_copy(agent.policy.critic, agent.policy.modules())  # type: ignore[arg-type]
            self._student.take(agent)
        self.version, self.refreshed_at = self.version + 1, self.clock.steps(agent)
        return True

    def prepare(self, store: StateStore) -> None:  # noqa: D102
        for member in self._present:
            member.prepare(store)

    def targets(self, observations: Observations) -> Tensor:  # noqa: D102
        return self._columns(observations)[0]

    def values(self, observations: Observations) -> Tensor:  # noqa: D102
        return self._columns(observations)[1]

    def target_weights(self, observations: Observations) -> Tensor:
        """Return 1 where there is a teacher, and by a critic one that betters the student; else 0."""
        return self._columns(observations)[2]

    def rows(self, observations: Observations) -> Tensor:  # noqa: D102
        targets, values, weights = self._columns(observations)  # once for all
        columns = [targets, *([values.unsqueeze(-1)] if self.wants.value else [])]
        return torch.cat([*columns, *([weights.unsqueeze(-1)] if self.wants.weight else [])], dim=-1)

    def _columns(self, observations: Observations) -> tuple[Tensor, Tensor, Tensor]:
        """Return targets ``(batch, family.size)``, values and weights ``(batch,)``."""
        some: Tensor = next(iter(as_items(observations).values()))
        n, family = len(some), self.actor.family
        nothing = torch.zeros(n, device=some.device)
        blank = family.normalized(torch.zeros(n, family.size, device=some.device))
        answers = torch.stack([blank if one is None else one.targets(observations) for one in self.members])
        valued = self._wanted().value
        values = torch.stack([one.values(observations) if one and valued else nothing for one in self.members])
        if self.answer.task is None and not self.answer.advised:
            shares = torch.tensor(self.answer.shares, device=some.device)
            join = family.product if self.wants.product else family.mixture
            return join(answers, shares), shares @ values, nothing + 1.0
        if self.answer.task is not None:
            chosen, weights = self._of_task(observations)
        elif self.actor.has_values:
            chosen, weights = values.argmax(0), nothing + 1.0
        else:
            chosen, weights = self._by_critic(observations, answers)
        rows = torch.arange(n, device=some.device)
        return answers[chosen, rows], values[chosen, rows], weights

    def _of_task(self, observations: Observations) -> tuple[Tensor, Tensor]:
        found: Any = seen_by(self.answer.view, split_context(observations)[0])
        flat = found.reshape(len(found), -1)
        number = flat.float().argmax(-1) if flat.shape[1] > 1 else flat[:, 0].float().round().long()
        here = torch.tensor([one is not None for one in self.members], device=number.device)
        known = (number >= 0) & (number < len(self.members))
        number = torch.where(known, number, 0)
        return number, (known & here[number]).float()

    def _by_critic(self, observations: Observations, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return who is best by the student's critic, and whether that betters the student's own action."""
        assert self._critic is not None, "there is no critic yet"
        family, seen = self.actor.family, self._student.seen(split_context(observations)[0])
        with torch.no_grad():
            own = _value(self._critic, seen, _action(family, self._student.targets(observations)))
            each = torch.stack([_value(self._critic, seen, _action(family, answer)) for answer in answers])
        best = each.max(0)
        return best.indices, (best.values > own).float()

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        out = {
            f"{i}/{name}": tensor
            for i, member in enumerate(self.members)
            for name, tensor in (member.tensors() if member else {}).items()
        }
        if self._critic is not None:
            out |= {f"critic/{name}": tensor for name, tensor in named_tensors(self._critic).items()}
            out |= {f"student/{name}": tensor for name, tensor in self._student.tensors().items()}
        return out

    def state(self) -> dict[str, Any]:  # noqa: D102
        return super().state() | {"members": [member.state() if member else None for member in self.members]}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:  # noqa: D102
        super().load(agent, tensors, state)
        parts = split_parts(tensors)
        for i, (member, saved) in enumerate(zip(self.members, state["members"], strict=True)):
            if member is not None:
                member.clock, member.ended, member.wants = self.clock, self.ended, self._wanted()
                member.load(agent, parts.get(str(i), {}), saved)
        if "critic" in parts:
            self._critic = acting_copy(agent.policy.critic, agent.policy.modules())  # type: ignore[arg-type]
            copy_into(self._critic, parts["critic"])
            self._student.load(agent, parts["student"])


def _action(family: Family, parameters: Tensor) -> Tensor:
    """Return the likeliest actions on SB3's scale of -1 to 1, ``(batch, n)``."""
    return parameters[:, : family.dim].tanh() if isinstance(family, Gaussian) else parameters


def _value(critic: Any, seen: Any, actions: Tensor) -> Tensor:
    """Return what a critic expects of actions, ``(batch,)``: of several the least, of quantiles the mean."""
    found = critic(seen, actions)
    parts = found if isinstance(found, (tuple, list)) else found.split(1, dim=1) if found.dim() > 2 else (found,)
    return torch.stack([part.flatten(1).mean(1) for part in parts]).min(0).values


def as_teacher(given: Any) -> TeacherConfig:
    """Return the answer that an agent, a path, a function, a list of these, or an answer stands for.

    :raises ValueError: when it is none of these.
    """
    if isinstance(given, BaseAlgorithm):
        return Frozen(agent=given)
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given not in ("several", "expert", "frozen")):
        return Frozen(os.fspath(given))
    if isinstance(given, (list, tuple)):
        return Several(given)
    if callable(given) and not isinstance(given, Answer):
        return Expert(given)
    found = Answer.parse("teacher", given)
    if not isinstance(found, (Frozen, Expert, Several)):
        kinds = "other agents, paths, functions or answers such as Frozen"
        raise ValueError(f"teachers must be {kinds}, got {shown(given)}")
    return found


def _teachers(key: str, value: Any) -> tuple[TeacherConfig | None, ...]:
    if not isinstance(value, (list, tuple)) or not any(one is not None for one in value):
        raise ValueError(f"{key} must be a list of teachers, got {shown(value)}")
    return tuple(None if one is None else as_teacher(one) for one in value)


def _task(key: str, value: Any) -> Any:
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{key} must be a key of the student's observations or a place in a vector, got {shown(value)}")


def _weights(key: str, value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{key} must be a list of numbers, got {shown(value)}")
    return tuple(checked_number(f"{key}[{i}]", one, low_open=True) for i, one in enumerate(value))


@dataclass(frozen=True)
class Several(TeacherConfig, name="several"):
    """Several teachers as one: ``rlsd.Several([walks, jumps], task="task")``. A gradient step costs as with one.

    By ``task``, the one whose number the observation gives. ``advised``, the one that the critic values most: where the
    student has a critic of continuous actions, that one, and it pulls only where the best teacher betters the student
    (CUP, Zhang et al. 2022); else the teachers' own values of states, with gate ``value_advantage`` to the same end.
    Without either, their mixture, by ``weights``. Several distillations, each with a teacher, strength and schedule of
    its own, are a list in ``distill=``; leave teachers out there by ``None``.

    :param teachers: agents, paths of agents, functions or answers such as :class:`Frozen`, each of which may see other
        ``observations``. None pulls nowhere in its task.
    :param task: a key of the student's observations, or a place in its vector, where the number of the task is, or one
        of as many numbers is largest.
    :param advised: as above.
    :param weights: what each counts, as many as teachers; by default alike.
    :param every: environment steps from one look at the student's critic to the next. Usual range 100 to 10,000.
    :raises ValueError: when these do not go together; when the agent is built, that one cannot teach it.
    """

    teachers: Any = field(default=(), metadata={"check": _teachers})
    task: Any = field(default=None, kw_only=True, metadata={"check": _task})
    advised: bool = switch(False, kw_only=True)
    weights: Any = field(default=(), kw_only=True, metadata={"check": _weights})
    every: int = field(default=1000, kw_only=True, metadata=integer(1000, low=1).metadata)

    def __post_init__(self) -> None:
        super().__post_init__()
        ways = {"task": self.task is not None, "advised": self.advised, "weights": bool(self.weights)}
        chosen = [f"teacher.{name}" for name, given in ways.items() if given]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} each choose between teachers: give one of them")
        if self.weights and len(self.weights) != len(self.teachers):
            raise ValueError(
                f"teacher.weights must have a number for each of {len(self.teachers)} teachers, got {[*self.weights]}"
            )
        if self.task is None and None in self.teachers:
            raise ValueError("teacher.teachers may leave one out by None only where teacher.task says which task it is")

    @property
    def view(self) -> Any:
        """Where the number of the task is, as :mod:`rlsd.teachers.outside` takes it."""
        return (self.task,) if isinstance(self.task, int) else self.task

    @property
    def shares(self) -> list[float]:
        """What each counts in a mixture, with sum 1."""
        given = self.weights or (1.0,) * len(self.teachers)
        return [one / sum(given) for one in given]

    def build(self, actor: Actor) -> SeveralTeacher:  # noqa: D102
        return SeveralTeacher(actor, self)
