"""Closed forms on action distributions, each written as one flat tensor of parameters.

A policy's answer to a batch of states is a tensor ``(batch, size)``; a :class:`Family` knows how to read it. All
forms are computed from log-probabilities or log standard deviations, so they stay finite where probabilities
underflow, and none builds a ``torch.distributions`` object. Sums run over the action's components: one value a state.

SB3's own ``kl_divergence`` is not summed for Gaussian and Bernoulli actions and is infinite once a probability
underflows, which is why these are written out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_2PI_E = math.log(2 * math.pi * math.e)


class Family(ABC):
    """A family of action distributions on flat parameters.

    :param size: how many numbers describe one distribution.
    """

    #: Whether the parameters have a scale of the task's own, so that :meth:`calibrate` must be shown a teacher's.
    needs_scale: ClassVar[bool] = False
    #: Whether :meth:`tempered` is known.
    tempers: ClassVar[bool] = True

    def __init__(self, size: int) -> None:
        self.size = size

    @abstractmethod
    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``KL(p || q)`` for each state, ``(batch,)``, from parameters ``(batch, size)``."""

    @abstractmethod
    def entropy(self, p: Tensor) -> Tensor:
        """Return the entropy in nats for each state, ``(batch,)``."""

    @abstractmethod
    def agreement(self, p: Tensor, q: Tensor) -> Tensor:
        """Return for each state, ``(batch,)``, 1 where both would act alike when acting greedily, else 0."""

    @abstractmethod
    def tempered(self, p: Tensor, temperature: float) -> Tensor:
        """Return the parameters of the distribution proportional to ``p ** (1 / temperature)``."""

    @abstractmethod
    def values(self, p: Tensor) -> Tensor:
        """Return the regression targets: probabilities, means, actions or Q-values, ``(batch, n)``."""

    @abstractmethod
    def mixture(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return one distribution that stands for several when a student ``q`` is pulled to all of them.

        ``sum_i w_i KL(member_i || q)`` and ``KL(mixture || q)`` have the same gradient in ``q``: exactly, also for
        Gaussians, where the mixture's first two moments are all that counts.

        :param members: normalised parameters, ``(k, batch, size)``.
        :param weights: ``(k,)``, at least 0, with sum 1.
        """

    @abstractmethod
    def product(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the normalised geometric mean of several distributions, ``(batch, size)``.

        ``sum_i w_i KL(q || member_i)`` and ``KL(q || product)`` have the same gradient in ``q``.

        :param members: normalised parameters, ``(k, batch, size)``.
        :param weights: ``(k,)``, at least 0, with sum 1.
        """

    @abstractmethod
    def normalized_entropy(self, p: Tensor) -> Tensor:
        """Return for each state, ``(batch,)``, how much is left to chance: 0 for nothing, near 1 at the start.

        It rises and falls with the entropy, and means the same whatever the number of actions or dimensions.
        """

    def confidence(self, p: Tensor) -> Tensor:
        """Return for each state, ``(batch,)``, how far the choice is from one made blindly: from 0 to 1 for sure."""
        return (1.0 - self.normalized_entropy(p)).clamp(0.0, 1.0)

    def spread(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return how far several distributions differ for each state in nats, ``(batch,)``: 0 where all are equal.

        The generalised Jensen-Shannon divergence (Lin 1991, equation 5.1), ``sum_i w_i KL(member_i || mixture)``. For
        independent choices it is summed over them, as KL is, and no more than ``log(k)`` for each.

        A mixture of normals has no closed form, so theirs is the normal with its means and variances. That gives
        ``H(that normal) - sum_i w_i H(member_i)``, an upper bound, since no density of a variance has a larger entropy;
        it grows with the logarithm of the distance. (Nielsen 2019 takes the geometric mean for the mixture: closed too,
        but growing with the square of the distance, as KL does.)

        :param members: parameters, ``(k, batch, size)``.
        :param weights: ``(k,)``, at least 0, with sum 1.
        """
        return torch.einsum("k,kb->b", weights.to(members), self.kl(members, self.mixture(members, weights)))

    def normalized(self, p: Tensor) -> Tensor:
        """Return ``p`` in the form in which targets are stored."""
        return p

    @property
    def unit(self) -> float:
        """What one nat counts in :meth:`kl`: 1, but for families whose parameters have a scale of the task's own."""
        return 1.0

    def calibrate(self, p: Tensor) -> None:  # noqa: B027 - most families have a scale
        """Take the scale of a teacher's answers ``p``, for families whose parameters have no scale of their own."""

    def state(self) -> dict[str, float]:
        """Return the state that :meth:`calibrate` set, as plain data."""
        return {}

    def load(self, state: Mapping[str, float]) -> None:  # noqa: B027 - and nothing to remember
        """Load what :meth:`state` returned."""


class Categorical(Family):
    """One or several independent categorical choices (Discrete, MultiDiscrete); parameters are logits.

    :param sizes: the number of options of each choice.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__(sum(sizes))
        self.sizes = sizes
        self._most = sum(math.log(n) for n in sizes)

    def _log_probs(self, p: Tensor) -> list[Tensor]:
        if len(self.sizes) == 1:
            return [F.log_softmax(p, dim=-1)]
        return [F.log_softmax(part, dim=-1) for part in p.split(self.sizes, dim=-1)]

    def kl(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        parts = [(lp.exp() * (lp - lq)).sum(-1) for lp, lq in zip(self._log_probs(p), self._log_probs(q), strict=True)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def entropy(self, p: Tensor) -> Tensor:  # noqa: D102
        return torch.stack([-(lp.exp() * lp).sum(-1) for lp in self._log_probs(p)]).sum(0)

    def agreement(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        pairs = zip(p.split(self.sizes, dim=-1), q.split(self.sizes, dim=-1), strict=True)
        return torch.stack([a.argmax(-1) == b.argmax(-1) for a, b in pairs]).all(0).float()

    def tempered(self, p: Tensor, temperature: float) -> Tensor:  # noqa: D102
        return p / temperature

    def values(self, p: Tensor) -> Tensor:  # noqa: D102
        return self.normalized(p).exp()

    def mixture(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities."""
        log_weights = weights.log().view(-1, 1, 1)
        return torch.logsumexp(torch.stack([self.normalized(p) for p in members]) + log_weights, dim=0)

    def product(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the normalised mean of the logarithms."""
        return self.normalized(weighted_mean(torch.stack([self.normalized(p) for p in members]), weights))

    def normalized_entropy(self, p: Tensor) -> Tensor:
        """Return the entropy as a share of that of choosing blindly, 0..1."""
        return self.entropy(p) / (self._most or 1.0)

    def normalized(self, p: Tensor) -> Tensor:
        """Return log-probabilities, which are logits too."""
        return torch.cat(self._log_probs(p), dim=-1)


class Bernoulli(Family):
    """Independent binary choices (MultiBinary); parameters are logits."""

    def kl(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        on, off = F.logsigmoid(p), F.logsigmoid(-p)
        return (on.exp() * (on - F.logsigmoid(q)) + off.exp() * (off - F.logsigmoid(-q))).sum(-1)

    def entropy(self, p: Tensor) -> Tensor:  # noqa: D102
        on, off = F.logsigmoid(p), F.logsigmoid(-p)
        return -(on.exp() * on + off.exp() * off).sum(-1)

    def agreement(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        same: Tensor = (p > 0) == (q > 0)
        return same.all(-1).float()

    def tempered(self, p: Tensor, temperature: float) -> Tensor:  # noqa: D102
        return p / temperature

    def values(self, p: Tensor) -> Tensor:  # noqa: D102
        return p.sigmoid()

    def mixture(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the logits of the mean probabilities."""
        log_weights = weights.log().view(-1, 1, 1)
        on = torch.logsumexp(F.logsigmoid(members) + log_weights, dim=0)
        return on - torch.logsumexp(F.logsigmoid(-members) + log_weights, dim=0)

    def product(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the mean logits."""
        return weighted_mean(members, weights)

    def normalized_entropy(self, p: Tensor) -> Tensor:
        """Return the entropy as a share of that of choosing blindly, 0..1."""
        return self.entropy(p) / (self.size * math.log(2.0))


class Gaussian(Family):
    """Independent normal distributions; parameters are the means, then the log standard deviations.

    A squashed Gaussian is described by the normal before its tanh: tanh is a bijection, so the divergence is the same.

    :param dim: the number of action dimensions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(2 * dim)
        self.dim = dim

    def kl(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        mean_part, std_part = self.kl_parts(p, q)
        return mean_part + std_part

    def kl_parts(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms of ``KL(p || q)``: what differing means cost, and what differing spreads cost."""
        mean_p, log_std_p = p.split(self.dim, dim=-1)
        mean_q, log_std_q = q.split(self.dim, dim=-1)
        gap = log_std_p - log_std_q
        mean_part = 0.5 * (mean_p - mean_q).square() * (-2 * log_std_q).exp()
        std_part = 0.5 * torch.expm1(2 * gap) - gap
        return mean_part.sum(-1), std_part.sum(-1)

    def entropy(self, p: Tensor) -> Tensor:  # noqa: D102
        return (p[..., self.dim :] + 0.5 * LOG_2PI_E).sum(-1)

    def agreement(self, p: Tensor, q: Tensor) -> Tensor:
        """Count means as alike when they lie within half of ``p``'s standard deviation in every dimension."""
        mean_p, log_std_p = p.split(self.dim, dim=-1)
        near: Tensor = (mean_p - q[..., : self.dim]).abs() <= 0.5 * log_std_p.exp()
        return near.all(-1).float()

    def tempered(self, p: Tensor, temperature: float) -> Tensor:  # noqa: D102
        mean, log_std = p.split(self.dim, dim=-1)
        return torch.cat([mean, log_std + 0.5 * math.log(temperature)], dim=-1)

    def values(self, p: Tensor) -> Tensor:  # noqa: D102
        return p[..., : self.dim]

    def mixture(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the normal distribution with the mixture's means and variances."""
        means, log_stds = members.split(self.dim, dim=-1)
        mean = weighted_mean(means, weights)
        variance = weighted_mean((2 * log_stds).exp() + (means - mean).square(), weights)
        return torch.cat([mean, 0.5 * variance.log()], dim=-1)

    def product(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the normal distribution with the mean precision, and the means weighted by precision."""
        means, log_stds = members.split(self.dim, dim=-1)
        precisions = (-2 * log_stds).exp()
        precision = weighted_mean(precisions, weights)
        return torch.cat([weighted_mean(means * precisions, weights) / precision, -0.5 * precision.log()], dim=-1)

    def normalized_entropy(self, p: Tensor) -> Tensor:
        """Return the geometric mean of the standard deviations. SB3's policies begin near 1; it has no upper end."""
        return p[..., self.dim :].mean(-1).exp()

    def confidence(self, p: Tensor) -> Tensor:
        """Return the choice's share of the precision, beside that of a standard normal: 1/2 where SB3's begin."""
        return 1.0 / (1.0 + self.normalized_entropy(p).square())


class Point(Family):
    """One action a state, without a spread (deterministic actors); parameters are the action, scaled to -1..1.

    Its divergence is that of two normals of the same small spread around the actions, a scaled squared error.

    :param dim: the number of action dimensions.
    """

    #: The spread: that of TD3's own target policy smoothing (Fujimoto et al. 2018, section 5.3).
    SPREAD = 0.2

    def kl(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        return 0.5 * ((p - q) / self.SPREAD).square().sum(-1)

    def entropy(self, p: Tensor) -> Tensor:
        """Return zero: there is nothing random in a point."""
        return torch.zeros(p.shape[:-1], device=p.device)

    def agreement(self, p: Tensor, q: Tensor) -> Tensor:
        """Count actions as alike when they differ by at most half the spread in every dimension."""
        near: Tensor = (p - q).abs() <= 0.5 * self.SPREAD
        return near.all(-1).float()

    def tempered(self, p: Tensor, temperature: float) -> Tensor:
        """Return ``p`` on a scale on which the spread is as it was: a temperature widens it, on both sides alike."""
        return p / math.sqrt(temperature)

    def values(self, p: Tensor) -> Tensor:  # noqa: D102
        return p

    def mixture(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the mean action, from which a squared error has the gradient of that from all members."""
        return weighted_mean(members, weights)

    def product(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the mean action."""
        return weighted_mean(members, weights)

    def normalized_entropy(self, p: Tensor) -> Tensor:
        """Return zero, as :meth:`entropy`."""
        return self.entropy(p)

    def spread(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return that of normals of the same small spread around the actions."""
        variances = weighted_mean((members - weighted_mean(members, weights)).square(), weights)
        return 0.5 * torch.log1p(variances / self.SPREAD**2).sum(-1)


class QValues(Categorical):
    """The values of discrete actions, acted on greedily; parameters are Q-values.

    They stand for ``softmax(Q / tau)``. The scale of Q is the task's and grows with training, so tau is the spread of
    the teacher's values over actions, taken when the teacher is, and the divergence is multiplied by tau to keep its
    gradient from shrinking as values grow (with equal greedy actions it is then of the order of the value error).

    :param n: the number of actions.
    """

    needs_scale = True
    #: Values that differ by less than this over the actions carry no preference worth keeping.
    SMALLEST = 1e-6

    def __init__(self, n: int) -> None:
        super().__init__((n,))
        self.tau = 1.0
        self._choice = Categorical((n,))

    @property
    def unit(self) -> float:  # noqa: D102
        return self.tau

    def calibrate(self, p: Tensor) -> None:  # noqa: D102
        self.tau = max(float(p.std(dim=-1, correction=0).mean()), self.SMALLEST)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        return super().kl(p / self.tau, q / self.tau) * self.tau

    def entropy(self, p: Tensor) -> Tensor:  # noqa: D102
        return super().entropy(p / self.tau)

    def values(self, p: Tensor) -> Tensor:  # noqa: D102
        return p

    def normalized(self, p: Tensor) -> Tensor:
        """Return ``p``: a squared error needs the values as they are."""
        return p

    def mixture(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the mean values: members are averaged where they can be compared, not as probabilities."""
        return weighted_mean(members, weights)

    def product(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the mean values, whose ``softmax(Q / tau)`` is the geometric mean of the members'."""
        return weighted_mean(members, weights)

    def spread(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return that of the members' ``softmax(Q / tau)``, in nats."""
        return self._choice.spread(members / self.tau, weights)

    def state(self) -> dict[str, float]:  # noqa: D102
        return {"tau": self.tau}

    def load(self, state: Mapping[str, float]) -> None:  # noqa: D102
        self.tau = float(state["tau"])


def weighted_mean(members: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of ``(k, batch, n)``, ``(batch, n)``."""
    return torch.einsum("k,kbn->bn", weights.to(members), members)
