"""By what measure of difference? The answers to the third question."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from rlsd.config import Answer, choice, number
from rlsd.distributions import Family


@dataclass(frozen=True)
class Divergence(Answer, question="divergence"):
    """A measure of the difference between the teacher's and the student's action distributions."""

    @abstractmethod
    def __call__(self, family: Family, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the difference for each state, ``(batch,)``, from parameters ``(batch, family.size)``."""


@dataclass(frozen=True)
class KL(Divergence, name="kl"):
    """Kullback-Leibler divergence over the full action distributions, in closed form, summed over action dimensions.

    Full distributions, because estimators from sampled actions give biased gradients when used as a loss.

    :param direction: ``"forward"`` is KL(teacher || student): covers all that the teacher does and keeps its entropy.
        ``"reverse"`` is KL(student || teacher): seeks the teacher's main mode and can lower entropy.
    :param temperature: both sides are raised to ``1 / temperature`` and the loss is multiplied by ``temperature**2``,
        which keeps the size of the gradient (Hinton et al. 2015, section 2). Above 1 the small probabilities
        count for more. Usual range 1 to 4.
    """

    direction: str = choice("forward", ("forward", "reverse"))
    temperature: float = number(1.0, low=0.0, low_open=True)

    def __call__(self, family: Family, teacher: Tensor, student: Tensor) -> Tensor:  # noqa: D102
        if self.temperature != 1.0:
            teacher = family.tempered(teacher, self.temperature)
            student = family.tempered(student, self.temperature)
        p, q = (teacher, student) if self.direction == "forward" else (student, teacher)
        return family.kl(p, q) * self.temperature**2
