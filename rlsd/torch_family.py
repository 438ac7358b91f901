"""Action distributions that torch knows and :mod:`rlsd.distributions` does not: Beta, Laplace, Gamma, Student's t, ...

Their parameters are flattened into one tensor and rebuilt from it. What is measured is what
``torch.distributions.kl_divergence`` gives, summed over the action's components.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Transform, TransformedDistribution, kl_divergence

from rlsd.distributions import LOG_2PI_E, Family, weighted_mean

#: Other ways to write the same parameter, which torch computes from the one that is kept.
_SAME = {"logits": {"probs"}, "scale_tril": {"covariance_matrix", "precision_matrix"}}


class _Part:
    """One torch distribution: its class and the shapes of its parameters for one state."""

    def __init__(self, example: Distribution) -> None:
        self.cls = type(example)
        self.names = _names(example)
        self.shapes = [cast(Tensor, getattr(example, name)).shape[1:] for name in self.names]
        self.size = sum(shape.numel() for shape in self.shapes)
        self.components = math.prod((*example.batch_shape[1:], *example.event_shape))

    def rebuild(self, p: Tensor) -> Distribution:
        parts = p.split([shape.numel() for shape in self.shapes], dim=-1)
        shaped = [part.reshape(*p.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return cast(
            Distribution, cast(Any, self.cls)(**dict(zip(self.names, shaped, strict=True)), validate_args=False)
        )


class TorchFamily(Family):
    """Independent distributions of torch, told apart by an example.

    Several become one, for teachers of several members and for ``jensen_shannon``, by the mean of their parameters.
    That is exact for members that are equal, and off by the square of their distance: torch knows no mixture. As the
    geometric mean, which ``KL(student || member)`` asks for, it is exact for Beta, Gamma and Dirichlet.

    :param example: what a policy gave for two states or more, each distribution as :func:`bare` returns it.
    :raises TypeError: when torch cannot rebuild or compare such distributions.
    """

    tempers: ClassVar[bool] = False

    def __init__(self, example: Sequence[Distribution]) -> None:
        self.sizes = tuple(f"{type(one).__name__}{tuple(one.batch_shape[1:] + one.event_shape)}" for one in example)
        try:
            self._parts = [_Part(one) for one in example]
            super().__init__(sum(part.size for part in self._parts))
            self._components = sum(part.components for part in self._parts)
            p = flattened(example).detach()
            drawn = [one.sample() for one in example]
            again = [one.log_prob(x) for one, x in zip(self._rebuild(p), drawn, strict=True)]
            same = all(
                torch.allclose(a, one.log_prob(x), rtol=1e-3, atol=1e-4, equal_nan=True)
                for a, one, x in zip(again, example, drawn, strict=True)
            )
            self._by_mode = not bool(torch.isfinite(self._means(p)).all())
            finite = all(bool(torch.isfinite(a).all()) for a in (self.kl(p, p), self.entropy(p), self.values(p)))
        except (AttributeError, NotImplementedError, TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise TypeError(f"torch cannot rebuild or compare {', '.join(self.sizes)}: {reason}") from error
        if not same or not finite:
            reason = (
                "an entropy, a divergence or a mean is not finite" if same else "its parameters do not make it again"
            )
            raise TypeError(f"torch cannot rebuild or compare {', '.join(self.sizes)}: {reason}")

    def _rebuild(self, p: Tensor) -> list[Distribution]:
        pieces = p.split([part.size for part in self._parts], dim=-1)
        return [part.rebuild(piece) for part, piece in zip(self._parts, pieces, strict=True)]

    def _components_of(self, p: Tensor, q: Tensor) -> Tensor:
        """Return ``KL(p || q)`` of each component, ``(batch, n)``."""
        p, q = torch.broadcast_tensors(p, q)
        pairs = zip(self._rebuild(p), self._rebuild(q), strict=True)
        return torch.cat([_by_state(kl_divergence(a, b), p) for a, b in pairs], dim=-1)

    def _means(self, p: Tensor) -> Tensor:
        return torch.cat([_by_state(one.mean, p) for one in self._rebuild(p)], dim=-1)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:  # noqa: D102
        return self._components_of(p, q).sum(-1)

    def entropy(self, p: Tensor) -> Tensor:
        """Return the entropy in nats for each state, ``(batch,)``: before a bijection, where the policy has one."""
        return torch.cat([_by_state(one.entropy(), p) for one in self._rebuild(p)], dim=-1).sum(-1)

    def agreement(self, p: Tensor, q: Tensor) -> Tensor:
        """Count components as alike that differ no more than normals half a standard deviation apart."""
        near: Tensor = self._components_of(p, q) <= 0.125
        return near.all(-1).float()

    def tempered(self, p: Tensor, temperature: float) -> Tensor:
        """Refuse: torch knows no power of a distribution. Asked for only where :attr:`tempers`.

        :raises TypeError: always.
        """
        raise TypeError(f"torch knows no temperature of {', '.join(self.sizes)}")

    def values(self, p: Tensor) -> Tensor:
        """Return the means, ``(batch, n)``; the modes where there is no mean."""
        if not self._by_mode:
            return self._means(p)
        return torch.cat([_by_state(one.mode, p) for one in self._rebuild(p)], dim=-1)

    def mixture(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the mean parameters; see the class."""
        return weighted_mean(members, weights)

    def product(self, members: Tensor, weights: Tensor) -> Tensor:
        """Return the mean parameters; see the class."""
        return self.mixture(members, weights)

    def normalized_entropy(self, p: Tensor) -> Tensor:
        """Return the standard deviation of a normal of the same entropy, the geometric mean over the components."""
        return torch.exp(self.entropy(p) / self._components - 0.5 * LOG_2PI_E)

    def confidence(self, p: Tensor) -> Tensor:
        """Return the choice's share of the precision, beside that of a standard normal."""
        return torch.reciprocal(1.0 + self.normalized_entropy(p).square())


def _names(distribution: Distribution) -> list[str]:
    """Return the parameters by which a distribution is described."""
    known = cast(dict[str, Any], distribution.arg_constraints)
    spare = {name for kept, others in _SAME.items() if kept in known for name in others}
    return [name for name in known if name not in spare]


def flattened(distributions: Sequence[Distribution]) -> Tensor:
    """Return the parameters ``(batch, size)`` of torch's distributions, in the order in which a family reads them."""
    return torch.cat([getattr(one, name).flatten(1) for one in distributions for name in _names(one)], dim=1)


def _by_state(numbers: Tensor, p: Tensor) -> Tensor:
    """Return a result computed from parameters ``p``, with all of a state's numbers in the last axis."""
    return numbers.reshape(*p.shape[:-1], -1)


def bare(distribution: Distribution) -> Distribution:
    """Return a distribution without what joins its components and without bijections, which change no divergence.

    :raises TypeError: when such a bijection depends on the state, or what it does cannot be undone.
    """
    while type(distribution) in (Independent, TransformedDistribution):
        if isinstance(distribution, TransformedDistribution):
            for transform in _flat(distribution.transforms):
                learned = [one for one in vars(transform).values() if isinstance(one, Tensor) and one.requires_grad]
                if learned or not transform.bijective:
                    kind = "that is learned" if learned else "that cannot be undone"
                    raise TypeError(f"it is changed by a {type(transform).__name__} {kind}")
        distribution = cast(Any, distribution).base_dist
    return distribution


def _flat(transforms: Sequence[Transform]) -> Iterator[Transform]:
    """Give transforms one by one that may be joined."""
    for transform in transforms:
        inner = getattr(transform, "parts", None) or [getattr(transform, "base_transform", None)]
        if inner == [None]:
            yield transform
        else:
            yield from _flat(inner)
