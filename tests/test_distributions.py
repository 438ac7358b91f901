"""The closed forms against ``torch.distributions`` and against sampling."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as td

from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian

FAMILIES: dict[str, Family] = {
    "Categorical": Categorical((4,)),
    "MultiDiscrete": Categorical((2, 3, 4)),
    "Bernoulli": Bernoulli(3),
    "Gaussian": Gaussian(2),
}

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def in_torch(family: Family, p: torch.Tensor) -> list[td.Distribution]:
    """The same distribution as independent torch distributions with a batch shape of (batch,)."""
    if isinstance(family, Categorical):
        return [td.Categorical(logits=part) for part in p.split(family.sizes, dim=-1)]
    if isinstance(family, Bernoulli):
        return [td.Independent(td.Bernoulli(logits=p), 1)]
    mean, log_std = p.chunk(2, dim=-1)
    return [td.Independent(td.Normal(mean, log_std.exp()), 1)]


def torch_kl(family: Family, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    pairs = zip(in_torch(family, p), in_torch(family, q), strict=True)
    return torch.stack([td.kl_divergence(a, b) for a, b in pairs]).sum(0)


def batch(low: float, high: float, width: int) -> st.SearchStrategy[torch.Tensor]:
    """Batches of 5 in 64 bits, whose numbers lie in [low, high]."""
    return arrays_of.arrays(np.float64, (5, width), elements=st.floats(low, high)).map(torch.from_numpy)


def parameters(family: Family) -> st.SearchStrategy[torch.Tensor]:
    if isinstance(family, Gaussian):
        means, log_stds = batch(-10, 10, family.dim), batch(-5, 2, family.dim)
        return st.tuples(means, log_stds).map(lambda both: torch.cat(both, dim=-1))
    return batch(-20, 20, family.size)


@every_family
@given(data=st.data())
def test_kl_equals_that_of_torch_summed_over_the_actions_components(family, data):
    p, q = data.draw(parameters(family)), data.draw(parameters(family))
    found = family.kl(p, q)
    assert found.shape == (5,), "one value a state"
    torch.testing.assert_close(found, torch_kl(family, p, q), rtol=1e-8, atol=1e-10)


@every_family
@given(data=st.data())
def test_entropy_equals_that_of_torch_summed_over_the_actions_components(family, data):
    p = data.draw(parameters(family))
    expected = torch.stack([d.entropy() for d in in_torch(family, p)]).sum(0)
    torch.testing.assert_close(family.entropy(p), expected, rtol=1e-8, atol=1e-10)


@every_family
@given(data=st.data())
def test_kl_is_never_negative_beyond_rounding(family, data):
    p, q = data.draw(parameters(family)).float(), data.draw(parameters(family)).float()
    nudged = p + 1e-4 * torch.sign(q)  # where subtraction cancels most
    for other in (q, nudged):
        assert (family.kl(p, other) >= -1e-6).all()


@every_family
@given(data=st.data())
def test_kl_and_its_gradient_vanish_where_both_sides_are_equal(family, data):
    p = data.draw(parameters(family)).float()
    for as_first in (True, False):
        q = p.clone().requires_grad_()
        kl = family.kl(q, p) if as_first else family.kl(p, q)
        (gradient,) = torch.autograd.grad(kl.sum(), q)
        assert kl.abs().max() <= 1e-6
        assert gradient.abs().max() <= 1e-5


def samples(family: Family, p: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Draw ``n`` actions ``(n, components)`` by numpy alone."""
    if isinstance(family, Gaussian):
        return p[: family.dim] + np.exp(p[family.dim :]) * generator.standard_normal((n, family.dim))
    if isinstance(family, Bernoulli):
        return (generator.random((n, family.size)) < 1 / (1 + np.exp(-p))).astype(float)
    starts = np.cumsum((0, *family.sizes[:-1]))
    choices = []
    for start, size in zip(starts, family.sizes, strict=True):
        weights = np.exp(p[start : start + size])
        choices.append(generator.choice(size, n, p=weights / weights.sum()))
    return np.stack(choices, axis=1)


def log_prob(family: Family, p: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Log-probabilities ``(n,)`` by numpy alone."""
    if isinstance(family, Gaussian):
        mean, log_std = p[: family.dim], p[family.dim :]
        return (-0.5 * ((actions - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
    if isinstance(family, Bernoulli):
        on = 1 / (1 + np.exp(-p))
        return np.log(np.where(actions == 1, on, 1 - on)).sum(1)
    total = np.zeros(len(actions))
    starts = np.cumsum((0, *family.sizes[:-1]))
    for i, (start, size) in enumerate(zip(starts, family.sizes, strict=True)):
        weights = np.exp(p[start : start + size])
        total += np.log(weights / weights.sum())[actions[:, i].astype(int)]
    return total


@every_family
def test_kl_and_entropy_equal_their_monte_carlo_estimates(family):
    generator = np.random.default_rng(0)
    p, q = generator.normal(size=(2, family.size)) * 0.7
    actions = samples(family, p, 100_000, generator)
    for estimates, closed_form in (
        (log_prob(family, p, actions) - log_prob(family, q, actions), family.kl),
        (-log_prob(family, p, actions), lambda p, q: family.entropy(p)),
    ):
        standard_error = estimates.std() / math.sqrt(len(estimates))
        found = closed_form(torch.from_numpy(p)[None], torch.from_numpy(q)[None]).item()
        assert abs(found - estimates.mean()) < 4 * standard_error, (found, estimates.mean(), standard_error)


@pytest.mark.parametrize(
    ("family", "p", "q", "expected"),
    [
        # .9 ln(.9/.5) + .1 ln(.1/.5)
        (Categorical((2,)), [math.log(0.9), math.log(0.1)], [0.0, 0.0], 0.3680642),
        (Bernoulli(1), [math.log(9.0)], [0.0], 0.3680642),
        # the same choice twice
        (Categorical((2, 2)), [math.log(9.0), 0.0] * 2, [0.0] * 4, 2 * 0.3680642),
        # N(0, 1) from N(1, 2): ln 2 + (1 + 1)/8 - 1/2
        (Gaussian(1), [0.0, 0.0], [1.0, math.log(2.0)], 0.4431472),
    ],
)
def test_kl_has_the_direction_of_a_sum_worked_out_by_hand(family, p, q, expected):
    assert family.kl(torch.tensor([p]), torch.tensor([q])).item() == pytest.approx(expected, abs=1e-6)


@every_family
@given(data=st.data())
def test_agreement_is_one_with_oneself_and_else_zero_or_one(family, data):
    p, q = data.draw(parameters(family)), data.draw(parameters(family))
    assert family.agreement(p, p).tolist() == [1.0] * 5
    assert set(family.agreement(p, q).tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("family", "p", "q", "expected"),
    [
        (Categorical((3,)), [0.0, 2.0, 1.0], [-1.0, 9.0, 8.0], 1.0),
        (Categorical((3,)), [0.0, 2.0, 1.0], [0.0, 1.0, 2.0], 0.0),
        # Of several choices, all must be alike.
        (Categorical((2, 2)), [1.0, 0.0, 1.0, 0.0], [3.0, 0.0, 2.0, 0.0], 1.0),
        (Categorical((2, 2)), [1.0, 0.0, 1.0, 0.0], [3.0, 0.0, 0.0, 2.0], 0.0),
        (Bernoulli(2), [1.0, -1.0], [0.1, -9.0], 1.0),
        (Bernoulli(2), [1.0, -1.0], [0.1, 9.0], 0.0),
        # Half of the first one's standard deviation, here 2: means may be 1 apart.
        (Gaussian(2), [0.0, 0.0, math.log(2.0), math.log(2.0)], [0.9, -0.9, 5.0, 5.0], 1.0),
        (Gaussian(2), [0.0, 0.0, math.log(2.0), math.log(2.0)], [0.9, -1.1, 5.0, 5.0], 0.0),
    ],
)
def test_agreement_tells_whether_both_would_act_alike(family, p, q, expected):
    assert family.agreement(torch.tensor([p]), torch.tensor([q])).tolist() == [expected]


@every_family
@given(data=st.data())
def test_normalising_changes_no_distribution_and_is_done_once(family, data):
    p, q = data.draw(parameters(family)), data.draw(parameters(family))
    once = family.normalized(p)
    torch.testing.assert_close(family.normalized(once), once)
    torch.testing.assert_close(family.kl(once, q), family.kl(p, q))
    torch.testing.assert_close(family.entropy(once), family.entropy(p))


def test_the_size_is_how_many_numbers_describe_one_distribution():
    assert [family.size for family in FAMILIES.values()] == [4, 2 + 3 + 4, 3, 2 + 2]
