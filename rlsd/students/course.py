"""A whole course of imitation: states are gathered in turns with learning, and learning ends when nothing is gained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rlsd.actors.random_search import search_around
from rlsd.states import StateStore
from rlsd.students.collection import Acts, DaggerCollector
from rlsd.students.imitation import imitate
from rlsd.students.imitation_loss import ImitationLoss

#: How often the student is measured on held-out states, of the steps of the last turn.
_LOOKS = 20


class Taught(NamedTuple):
    """How a student was taught.

    :param steps: gradient steps that it took.
    :param states: stored states.
    :param kl: mean divergence from the teacher on states that it did not learn on, in nats.
    :param agreement: share of them on which both would act alike.
    :param mean_return: of the episodes that it played afterwards; None without any.
    """

    steps: int
    states: int
    kl: float
    agreement: float
    mean_return: float | None = None


@dataclass
class Course:
    """The course of one student.

    :param student: the agent that learns.
    :param comparison: the loss.
    :param store: the states.
    :param generator: of all that is drawn.
    :param steps: gradient steps in all.
    :param learning_rate: of the first step of each turn.
    :param batch_size: states a step.
    :param rounds: in how many turns states are gathered.
    :param patience: after how many looks in vain the last turn ends; 0 for never.
    :param bar: has ``update(n)``, as tqdm's; None for none.
    """

    student: Any
    comparison: ImitationLoss
    store: StateStore
    generator: np.random.Generator
    steps: int
    learning_rate: float
    batch_size: int
    rounds: int
    patience: int = 0
    bar: Any = None
    taken: int = field(default=0, init=False)
    best: float = field(default=math.inf, init=False)
    _vain: int = field(default=0, init=False)

    def run(self, walk: DaggerCollector | None, first: Acts, missing: int) -> None:
        """Teach the student.

        :param walk: gathers states; None where there are enough.
        :param first: who acts in the first turn; in the others it is the student.
        :param missing: how many are to be gathered.
        """
        last = self.steps
        if walk is not None:
            turn, between = -(-missing // self.rounds), self.steps // 2 // max(self.rounds - 1, 1)
            walk.go(first, turn, self.generator)
            for _ in range(self.rounds - 1):
                self._learn(max(between, 1), 0)
                walk.go(self.student, turn, self.generator)
            last -= self.steps // 2 if self.rounds > 1 else 0
            walk.reset()
        self._learn(last, self.patience)

    def _learn(self, steps: int, patience: int) -> None:
        every = max(steps // _LOOKS, 1)

        def enough(step: int) -> bool:
            self.taken += 1
            if self.bar is not None:
                self.bar.update(1)
            return bool(patience) and step % every == 0 and self._in_vain(patience)

        student = self.student
        imitate(
            *(student.policy, self.comparison, self.store, steps, self.learning_rate, self.batch_size),
            *(self.generator, enough),
        )
        search_around(student)

    def _in_vain(self, patience: int) -> bool:
        gap = self.comparison.gap(self.student.policy, self.store)
        self._vain = 0 if gap < self.best else self._vain + 1
        self.best = min(self.best, gap)
        return self._vain >= patience

    def report(self, mean_return: float | None = None) -> Taught:
        """Return how it went."""
        policy = self.student.policy
        kl, agreement = (measure(policy, self.store) for measure in (self.comparison.gap, self.comparison.agreement))
        return Taught(self.taken, self.store.count, kl, agreement, mean_return)
