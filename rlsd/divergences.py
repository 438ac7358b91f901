"""By what measure of difference? The answers to the third question."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rlsd.actors import Actor, algorithm_name
from rlsd.config import Answer, choice, number
from rlsd.distributions import Family, Gaussian

#: Temperatures beyond these leave nothing of a difference in 32 bits.
_COLDEST, _HOTTEST = 1e-3, 1e3


@dataclass(frozen=True)
class Divergence(Answer, question="divergence"):
    """A measure of the difference between the teacher's and the student's action distributions.

    :param value_weight: weight of ``(V_teacher - V_student)**2``, which holds the critic too, for algorithms with state
        values (PPO, A2C, TRPO, MaskablePPO). 0.5 in ITER (Igl et al. 2021) and in CLEAR (Rolnick et al. 2019). Usual
        range 0 to 1.
    """

    value_weight: float = number(0.0, low=0.0, kw_only=True)

    @abstractmethod
    def __call__(self, family: Family, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the difference for each state, ``(batch,)``, from parameters ``(batch, family.size)``."""

    def check(self, agent: BaseAlgorithm, actor: Actor) -> None:
        """Raise a ``TypeError`` where a field says something of what the agent's actions do not have."""
        temperature = getattr(self, "temperature", 1.0)
        if temperature != 1.0 and not actor.family.tempers:
            raise TypeError(
                f"divergence.temperature = {temperature:g}: no power is known of the distributions by which this "
                f"{algorithm_name(agent)} acts, {', '.join(actor.family.sizes)}: leave it at 1"  # type: ignore[attr-defined]
            )


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
    temperature: float = number(1.0, low=_COLDEST, high=_HOTTEST)
    mean_weight: float = number(1.0, low=0.0)
    std_weight: float = number(1.0, low=0.0)

    def check(self, agent: BaseAlgorithm, actor: Actor) -> None:  # noqa: D102
        super().check(agent, actor)
        weights = (self.mean_weight, self.std_weight)
        if weights != (1.0, 1.0) and not isinstance(actor.family, Gaussian):
            raise TypeError(
                f"divergence.mean_weight and divergence.std_weight = {weights[0]:g}, {weights[1]:g} weigh the parts of "
                f"Gaussian actions, and this {algorithm_name(agent)} has none: leave both at 1, and set strength.value"
            )

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
class JensenShannon(Divergence, name="jensen_shannon"):
    """Jensen-Shannon divergence: how far teacher and student lie from their own mixture (Lin 1991, equation 4.1).

    ``w KL(teacher || m) + (1 - w) KL(student || m)`` with ``m = w teacher + (1 - w) student``. It stays below log 2 for
    each choice where KL grows without limit, so states on which both sides are far apart do not lead. Near equality it
    is ``w (1 - w)`` times KL: at 0.5 a strength four times that of ``kl`` pulls alike.

    In closed form for discrete actions and Q-values, summed over independent choices. A mixture of normals has no
    closed form: for Gaussian and deterministic actions ``m`` is the normal with the mixture's means and variances,
    which gives an upper bound that grows with the logarithm of the distance (see :meth:`Family.spread`).

    :param weight: the teacher's share ``w`` of the mixture, above 0 and below 1. Toward 0 it becomes ``w`` times KL
        (teacher || student) and covers all that the teacher does; toward 1, ``1 - w`` times KL(student || teacher).
        Usual range 0.1 to 0.9.
    :param temperature: as for :class:`KL`. Usual range 1 to 4.
    :raises ValueError: when a value is out of its range.
    """

    weight: float = number(0.5, low=0.0, high=1.0, low_open=True)
    temperature: float = number(1.0, low=_COLDEST, high=_HOTTEST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight == 1.0:
            raise ValueError(
                "divergence.weight must be below 1, got 1.0: the student would have no share of the mixture"
            )

    def __call__(self, family: Family, teacher: Tensor, student: Tensor) -> Tensor:  # noqa: D102
        if self.temperature != 1.0:
            teacher = family.tempered(teacher, self.temperature)
            student = family.tempered(student, self.temperature)
        share = student.new_full((), self.weight)  # made where it is needed: nothing to wait for
        spread = family.spread(torch.stack([teacher, student]), torch.stack([share, 1.0 - share]))
        return spread * (family.unit * self.temperature**2)


@dataclass(frozen=True)
class MSE(Divergence, name="mse"):
    """Squared error, summed over dimensions, of probabilities, of Gaussian means, of actions or of Q-values.

    Softer than KL on confident teachers. For Q-learners it holds the values themselves, not only their order.
    """

    def __call__(self, family: Family, teacher: Tensor, student: Tensor) -> Tensor:  # noqa: D102
        return (family.values(teacher) - family.values(student)).square().sum(-1)
