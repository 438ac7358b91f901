"""Several frozen policies that teach as one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from rlsd.observations import Observations
from rlsd.teachers.base import Teacher
from rlsd.teachers.frozen_policy import FrozenPolicy


class JoinedTeacher(Teacher):
    """A teacher of several members, joined into one target when the target is made.

    The gradient of the members' weighted divergences is that of the divergence from one distribution: from their
    mixture for ``KL(member || student)``, from their normalised product for ``KL(student || member)``. So a gradient
    step costs the same however many members there are.
    """

    @abstractmethod
    def members(self) -> Sequence[FrozenPolicy]:
        """Return those who teach."""

    def weights(self) -> Tensor:
        """Return the weights of the members, ``(k,)``, with sum 1; alike unless a subclass says otherwise."""
        k = len(self.members())
        return torch.full((k,), 1.0 / k)

    def targets(self, observations: Observations) -> Tensor:  # noqa: D102
        return self._join(self._answers(observations))

    def values(self, observations: Observations) -> Tensor:
        """Return the mean of the members' values."""
        values = torch.stack([member.values(observations) for member in self.members()])
        return torch.einsum("k,kb->b", self.weights().to(values), values)

    def spread(self, observations: Observations) -> Tensor:  # noqa: D102
        return self._spread(self._answers(observations))

    def rows(self, observations: Observations) -> Tensor:  # noqa: D102
        answers = self._answers(observations)  # once for target and spread
        columns = [self._join(answers)]
        if self.wants.value:
            columns.append(self.values(observations).unsqueeze(-1))
        if self.wants.spread:
            columns.append(self._spread(answers).unsqueeze(-1))
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)

    def _answers(self, observations: Observations) -> Tensor:
        return torch.stack([member.targets(observations) for member in self.members()])

    def _join(self, answers: Tensor) -> Tensor:
        if len(answers) == 1:
            return answers[0]
        family, weights = self.actor.family, self.weights().to(answers)
        return family.product(answers, weights) if self.wants.product else family.mixture(answers, weights)

    def _spread(self, answers: Tensor) -> Tensor:
        return self.actor.family.spread(answers, self.weights().to(answers))
