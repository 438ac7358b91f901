"""By what measure of difference? The answers to the third question."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from rlsd.config import Answer, choice, number
from rlsd.distributions import Family, Gaussian


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
    :param mean_weight: for Gaussian actions, the weight of the term that differing means cause.
    :param std_weight: for Gaussian actions, the weight of the term that differing spreads cause (MPO, Abdolmaleki et
        al. 2018, section 4.2, decouples them so). Below 1 the student's exploration is freer than its means.
    """

    direction: str = choice("forward", ("forward", "reverse"))
    temperature: float = number(1.0, low=0.0, low_open=True)
    mean_weight: float = number(1.0, low=0.0)
    std_weight: float = number(1.0, low=0.0)

    def __call__(self, family: Family, teacher: Tensor, student: Tensor) -> Tensor:  # noqa: D102
        if self.temperature != 1.0:
            teacher = family.tempered(teacher, self.temperature)
            student = family.tempered(student, self.temperature)
        p, q = (teacher, student) if self.direction == "forward" else (student, teacher)
        if isinstance(family, Gaussian) and (self.mean_weight, self.std_weight) != (1.0, 1.0):
            mean_part, std_part = family.kl_parts(p, q)
            divergence = self.mean_weight * mean_part + self.std_weight * std_part
        else:
            divergence = family.kl(p, q)
        return divergence * self.temperature**2


@dataclass(frozen=True)
class MSE(Divergence, name="mse"):
    """Squared error, summed over dimensions, of probabilities, of Gaussian means, of actions or of Q-values.

    Softer than KL on confident teachers. For Q-learners it holds the values themselves, not only their order.
    """

    def __call__(self, family: Family, teacher: Tensor, student: Tensor) -> Tensor:  # noqa: D102
        return (family.values(teacher) - family.values(student)).square().sum(-1)
