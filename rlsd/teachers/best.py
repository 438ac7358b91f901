"""The best policy so far, by the returns of its own time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor
from rlsd.config import checked_number, choice, integer
from rlsd.plain import SavedState, State
from rlsd.returns import mean_and_error
from rlsd.teachers.base import TeacherConfig
from rlsd.teachers.frozen_policy import FrozenPolicy, split_parts
from rlsd.teachers.snapshot import SnapshotTeacher


class BestTeacher(SnapshotTeacher):
    """The copy with the best mark, and the candidate that is being judged. See :class:`Best`."""

    def __init__(self, actor: Actor, answer: Best) -> None:
        super().__init__(actor, answer.every)
        self.episodes, self.patience = answer.episodes, answer.patience
        #: Whether marks come from evaluations, which training returns are not compared with.
        self.evaluated = answer.by == "evaluation"
        #: Mean return less its standard error; None before there is one, or once it is too old to count.
        self.mark: float | None = None
        self.candidate: FrozenPolicy | None = None
        self.returns: list[float] = []  # of the episodes that ended since the candidate was taken
        self._taken_at: int | None = None
        self._counted = 0  # of the episodes that have ended
        self._changed = False

    def refresh(self, agent: BaseAlgorithm) -> bool:
        """Judge the candidate by what ended since, and take the next one when it is due."""
        if self.patience and self.mark is not None and self.age(agent) >= self.patience:
            self.mark = None
        if not self.evaluated:
            self._judge(agent)
        changed, self._changed = self._changed, False
        return changed

    def offer(self, agent: BaseAlgorithm, mean_return: float) -> bool:
        """Hand in the result of an evaluation of the agent as it is now; it teaches if that is the best so far.

        :class:`rlsd.OfferEvaluation` does it after each evaluation of SB3's ``EvalCallback``.

        :param agent: the agent that this teacher is of.
        :param mean_return: its mean return over some episodes.
        :return: whether it was the best.
        :raises ValueError: when the return is no finite number, or the teacher goes by training returns.
        """
        if not self.evaluated:
            raise ValueError("teacher.by is 'training', which takes no evaluations: build the agent with 'evaluation'")
        mean_return = checked_number("mean_return", mean_return, low=-math.inf)
        if self.mark is not None and mean_return <= self.mark:
            return False
        best = FrozenPolicy(self.actor)
        best.take(agent)
        self._crown(agent, best, mean_return)
        return True

    def _judge(self, agent: BaseAlgorithm) -> None:
        fresh = self.ended.since(agent, self._counted)
        self._counted = self.ended.count
        if self.candidate is not None:
            self.returns += fresh
            if len(self.returns) >= self.episodes:
                mark = marked(self.returns[: self.episodes])  # the nearest to the candidate's own
                candidate, self.candidate = self.candidate, None
                if self.mark is None or mark > self.mark:
                    self._crown(agent, candidate, mark)
        now = self.clock.steps(agent)
        if self.candidate is None and now - (self._taken_at or 0) >= self.every:
            self.candidate = FrozenPolicy(self.actor)
            self.candidate.take(agent)
            self._taken_at, self.returns = now, []

    def _crown(self, agent: BaseAlgorithm, best: FrozenPolicy, mark: float) -> None:
        self.frozen, self.mark = best, mark
        self.refreshed_at = self.clock.steps(agent)
        self.version += 1
        self._changed = True

    def metrics(self) -> dict[str, float]:  # noqa: D102
        return {} if self.mark is None else {"best_mark": self.mark}

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        out = {f"best/{name}": tensor for name, tensor in super().tensors().items()}
        judged = {} if self.candidate is None else self.candidate.tensors()
        return out | {f"candidate/{name}": tensor for name, tensor in judged.items()}

    def state(self) -> State:  # noqa: D102
        mine = {"mark": self.mark, "returns": self.returns, "taken_at": self._taken_at}
        return super().state() | mine | {"changed": self._changed}

    def load(self, agent: BaseAlgorithm, tensors: Mapping[str, Tensor], state: SavedState) -> None:  # noqa: D102
        parts = split_parts(tensors, {"best", "candidate"})
        super().load(agent, parts.get("best", {}), state)
        self.candidate = None
        if "candidate" in parts:
            self.candidate = FrozenPolicy(self.actor)
            self.candidate.load(agent, parts["candidate"])
        self.mark, self.returns = state["mark"], [float(value) for value in state["returns"]]
        self._taken_at = state["taken_at"]
        self._changed = bool(state["changed"])
        # Between an update and the next rollout, where exact checkpoints are taken, none is new.
        self.ended.sync(agent)
        self._counted = self.ended.count


def marked(returns: list[float]) -> float:
    """Return the mean of some returns less the standard error of that mean."""
    mean, error = mean_and_error(returns)
    return mean - error


@dataclass(frozen=True)
class Best(TeacherConfig, name="best"):
    """The best policy so far, as in Self-Imitation and Dual Policy Distillation's peer that is ahead.

    A candidate is frozen, and only episodes that *end after that* count toward its mark, their mean return less its
    standard error; it replaces the best when its mark is higher. A smoothed return of the moment would be that of older
    policies, and would crown a poor one. The agent goes on learning while the candidate is judged, so a mark is of the
    policy from its taking to the end of its judging; the next candidate is taken after that. Nothing is taught before
    the first one was judged, and without finished episodes nobody is.

    Evaluations judge better, where they can be afforded: each is of one policy, which is frozen at once when it is the
    best so far. ``rlsd train`` hands them in, and so does :class:`rlsd.OfferEvaluation`.

    :param every: environment steps from one candidate to the next, rounded up to whole rollouts and to the end of the
        judging. Usual range 1 to 100,000.
    :param episodes: how many it is judged by. Raising it lets chance decide less, and the policy move on further
        meanwhile. Usual range 10 to 100.
    :param patience: environment steps after which the mark of a best that was never beaten no longer counts, so that
        the next candidate takes its place whatever its own: in a changing task it may come from another. 0 is never.
        Usual range 0, or several times the length of a task.
    :param by: ``"training"`` or ``"evaluation"``: whose returns count. ``every`` and ``episodes`` are of the former.
    """

    every: int = integer(2048, low=1)
    episodes: int = integer(20, low=2)
    patience: int = integer(0, low=0)
    by: str = choice("training", ("training", "evaluation"))

    def build(self, actor: Actor) -> BestTeacher:  # noqa: D102
        return BestTeacher(actor, self)
