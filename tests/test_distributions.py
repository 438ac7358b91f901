"""The closed forms against ``torch.distributions`` and against sampling."""

from __future__ import annotations

import json
import math

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.stats import entropy as entropy_of
from scipy.stats import gmean, norm
from torch import distributions as td

from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian, Point, QValues

FAMILIES: dict[str, Family] = {
    "Categorical": Categorical((4,)),
    "MultiDiscrete": Categorical((2, 3, 4)),
    "Bernoulli": Bernoulli(3),
    "Gaussian": Gaussian(2),
    "Point": Point(2),
    "QValues": QValues(3),
}
FAMILIES["QValues"].load({"tau": 2.5})

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
every_random_family = pytest.mark.parametrize("family", [f for f in FAMILIES.values() if not isinstance(f, Point)])


def in_torch(family: Family, p: torch.Tensor) -> list[td.Distribution]:
    """The same distribution as independent torch distributions with a batch shape of (batch,)."""
    if isinstance(family, QValues):
        return [td.Categorical(logits=p / family.tau)]
    if isinstance(family, Point):
        return [td.Independent(td.Normal(p, Point.SPREAD), 1)]
    if isinstance(family, Categorical):
        return [td.Categorical(logits=part) for part in p.split(family.sizes, dim=-1)]
    if isinstance(family, Bernoulli):
        return [td.Independent(td.Bernoulli(logits=p), 1)]
    mean, log_std = p.chunk(2, dim=-1)
    return [td.Independent(td.Normal(mean, log_std.exp()), 1)]


def torch_kl(family: Family, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    pairs = zip(in_torch(family, p), in_torch(family, q), strict=True)
    kl = torch.stack([td.kl_divergence(a, b) for a, b in pairs]).sum(0)
    return kl * family.tau if isinstance(family, QValues) else kl


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


@every_random_family
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


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli", "Gaussian"])
def test_kl_and_entropy_equal_their_monte_carlo_estimates(name):
    family = FAMILIES[name]
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
        # two normals of spread .2, .1 and .3 apart: (.1/.2)**2 / 2 + (.3/.2)**2 / 2
        (Point(2), [0.5, -0.2], [0.4, 0.1], 1.25),
        (QValues(2), [math.log(9.0), 0.0], [0.0, 0.0], 0.3680642),
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
        # Half the spread.
        (Point(2), [0.0, 0.5], [0.09, 0.41], 1.0),
        (Point(2), [0.0, 0.5], [0.09, 0.39], 0.0),
        (QValues(3), [5.0, 9.0, 8.0], [-2.0, -1.0, -1.5], 1.0),
        (QValues(3), [5.0, 9.0, 8.0], [5.0, 8.0, 8.1], 0.0),
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
    assert [family.size for family in FAMILIES.values()] == [4, 2 + 3 + 4, 3, 2 + 2, 2, 3]


@given(data=st.data())
def test_what_means_and_spreads_cost_sums_to_the_kl_of_normals(data):
    family = Gaussian(2)
    p, q = data.draw(parameters(family)), data.draw(parameters(family))
    mean_part, std_part = family.kl_parts(p, q)
    torch.testing.assert_close(mean_part + std_part, torch_kl(family, p, q), rtol=1e-8, atol=1e-10)
    # The cost of the spreads alone is the divergence of two normals of the same mean.
    recentred = torch.cat([q[:, :2], p[:, 2:]], dim=-1)
    torch.testing.assert_close(std_part, torch_kl(family, recentred, q), rtol=1e-8, atol=1e-10)


# Several at once


@st.composite
def shares(draw, k: int = 3) -> torch.Tensor:
    """Weights of ``k`` members, some of which may count for nothing."""
    found = np.array(draw(st.lists(st.floats(0.05, 1.0) | st.just(0.0), min_size=k, max_size=k).filter(any)))
    return torch.from_numpy(found / found.sum())


def members_of(data, family: Family, k: int = 3) -> torch.Tensor:
    return torch.stack([family.normalized(data.draw(parameters(family))) for _ in range(k)])


def gradient_of(loss, q: torch.Tensor) -> torch.Tensor:
    q = q.clone().requires_grad_()
    return torch.autograd.grad(loss(q).sum(), q)[0]


def check_pulls_alike(one, other, q: torch.Tensor) -> None:
    found, expected = gradient_of(one, q), gradient_of(other, q)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "QValues"])
@given(data=st.data())
def test_a_mixture_pulls_as_all_its_members_do(name, data):
    family = FAMILIES[name]
    members, weights, q = members_of(data, family), data.draw(shares()), data.draw(parameters(family))
    mixture = family.mixture(members, weights)
    check_pulls_alike(
        lambda q: family.kl(mixture, q),
        lambda q: sum(w * torch_kl(family, p, q) for w, p in zip(weights, members, strict=True)),
        q,
    )


@every_family
@given(data=st.data())
def test_a_product_pulls_as_all_its_members_do_when_the_student_comes_first(family, data):
    members, weights, q = members_of(data, family), data.draw(shares()), data.draw(parameters(family))
    product = family.product(members, weights)
    check_pulls_alike(
        lambda q: family.kl(q, product),
        lambda q: sum(w * torch_kl(family, q, p) for w, p in zip(weights, members, strict=True)),
        q,
    )


@every_family
@given(data=st.data())
def test_a_mixture_pulls_as_its_members_do_by_squared_error_too(family, data):
    members, weights, q = members_of(data, family), data.draw(shares()), data.draw(parameters(family))
    mixture = family.mixture(members, weights)
    check_pulls_alike(
        lambda q: (family.values(mixture) - family.values(q)).square().sum(-1),
        lambda q: sum(
            w * (family.values(p) - family.values(q)).square().sum(-1) for w, p in zip(weights, members, strict=True)
        ),
        q,
    )


@every_family
@given(data=st.data())
def test_one_member_that_counts_is_its_own_mixture_and_product(family, data):
    members = members_of(data, family)
    alone = torch.tensor([0.0, 1.0, 0.0])
    for joined in (family.mixture(members, alone.double()), family.product(members, alone.double())):
        torch.testing.assert_close(family.normalized(joined), members[1])


@pytest.mark.parametrize(
    ("family", "members", "mixture", "product"),
    [
        # .9 and .5 with weights 1/4 and 3/4: .6, and odds of 9 ** (1/4)
        (Bernoulli(1), [[math.log(9.0)], [0.0]], [math.log(1.5)], [math.log(9.0) / 4]),
        # N(0, 1) and N(1, 2): mean 3/4, variance 1/4 + 3 + 3/16; precision 1/4 + 3/16, mean (3/16) / (7/16)
        (
            Gaussian(1),
            [[0.0, 0.0], [1.0, math.log(2.0)]],
            [0.75, 0.5 * math.log(3.4375)],
            [3 / 7, math.log(16 / 7) / 2],
        ),
        (Point(2), [[0.0, 1.0], [4.0, 5.0]], [3.0, 4.0], [3.0, 4.0]),
        (QValues(2), [[0.0, 8.0], [4.0, 0.0]], [3.0, 2.0], [3.0, 2.0]),
    ],
)
def test_mixture_and_product_of_two_worked_out_by_hand(family, members, mixture, product):
    members, weights = torch.tensor(members)[:, None], torch.tensor([0.25, 0.75])
    torch.testing.assert_close(family.mixture(members, weights)[0], torch.tensor(mixture))
    torch.testing.assert_close(family.product(members, weights)[0], torch.tensor(product))


def options(family: Family, p: torch.Tensor) -> list[np.ndarray]:
    """The probabilities of each choice's options, by numpy alone."""
    p = p.numpy()
    if isinstance(family, Bernoulli):
        on = 1 / (1 + np.exp(-p))
        return [np.stack([on[..., i], 1 - on[..., i]], -1) for i in range(family.size)]
    scale = family.tau if isinstance(family, QValues) else 1.0
    parts = np.split(p / scale, np.cumsum(family.sizes[:-1]), axis=-1)
    return [np.exp(part - part.max(-1, keepdims=True)) for part in parts]


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli", "QValues"])
@given(data=st.data())
def test_the_spread_of_choices_is_the_entropy_that_mixing_adds(name, data):
    family = FAMILIES[name]
    members, weights = members_of(data, family), data.draw(shares())
    expected = 0.0
    for choice in options(family, members):
        probabilities = choice / choice.sum(-1, keepdims=True)
        mixed = np.einsum("k,kbn->bn", weights.numpy(), probabilities)
        expected += entropy_of(mixed, axis=-1) - weights.numpy() @ entropy_of(probabilities, axis=-1)
    np.testing.assert_allclose(family.spread(members, weights).numpy(), expected, rtol=1e-6, atol=1e-9)


@given(data=st.data())
def test_the_spread_of_normals_is_the_entropy_that_one_normal_for_all_adds(data):
    family = Gaussian(2)
    members, weights = members_of(data, family), data.draw(shares())
    w, mean, std = weights.numpy()[:, None, None], members[..., :2].numpy(), members[..., 2:].exp().numpy()
    centre = (w * mean).sum(0)
    variance = (w * (std**2 + (mean - centre) ** 2)).sum(0)
    expected = (0.5 * np.log(variance) - (w * np.log(std)).sum(0)).sum(-1)
    np.testing.assert_allclose(family.spread(members, weights).numpy(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("gap", "std"), [(0.1, 1.0), (1.0, 1.0), (6.0, 0.5), (0.0, 3.0)])
def test_the_spread_of_normals_is_no_less_than_their_jensen_shannon_divergence(gap, std):
    x = np.linspace(-20, 20, 100_001)
    densities = np.stack([norm.pdf(x), norm.pdf(x, gap, std)])
    mixed = densities.mean(0)
    true = 0.5 * rel_entr(densities, mixed).sum() * (x[1] - x[0])
    members = torch.tensor([[[0.0, 0.0]], [[gap, math.log(std)]]], dtype=torch.float64)
    found = Gaussian(1).spread(members, torch.tensor([0.5, 0.5])).item()
    assert true - 1e-9 <= found <= true + 1.0
    if gap <= 1.0 and std == 1.0:
        assert found == pytest.approx(true, rel=0.02), "near equality both are the same"


@given(data=st.data())
def test_the_spread_of_points_is_that_of_normals_of_their_fixed_spread(data):
    members = torch.stack([data.draw(batch(-1, 1, 3)) for _ in range(3)])
    weights = data.draw(shares())
    normals = torch.cat([members, torch.full_like(members, math.log(Point.SPREAD))], dim=-1)
    torch.testing.assert_close(Point(3).spread(members, weights), Gaussian(3).spread(normals, weights))


@every_family
@given(data=st.data())
def test_members_that_agree_have_no_spread_and_others_have_some(family, data):
    p, weights = family.normalized(data.draw(parameters(family))).float(), data.draw(shares()).float()
    assert family.spread(torch.stack([p, p, p]), weights).abs().max() <= 1e-5
    others = members_of(data, family).float()
    assert (family.spread(others, weights) >= -1e-5).all()


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli"])
def test_the_spread_of_choices_that_exclude_each_other_is_the_most_there_is(name):
    family = FAMILIES[name]
    sure = torch.full((family.size,), -500.0)
    other = -sure if name == "Bernoulli" else sure.clone()
    if name != "Bernoulli":
        starts = np.cumsum((0, *family.sizes[:-1]))
        sure[starts], other[starts + 1] = 500.0, 500.0
    choices = 3 if name != "Categorical" else 1
    found = family.spread(torch.stack([sure, other])[:, None], torch.tensor([0.5, 0.5]))
    assert found.item() == pytest.approx(choices * math.log(2.0))


# How much is left to chance


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli", "QValues"])
def test_the_breadth_of_choices_is_a_share_of_choosing_blindly(name):
    family = FAMILIES[name]
    blind, sure = torch.zeros(1, family.size), torch.full((1, family.size), -500.0)
    if name != "Bernoulli":
        sure[0, np.cumsum((0, *family.sizes[:-1]))] = 500.0
    assert family.normalized_entropy(blind).item() == pytest.approx(1.0)
    assert family.normalized_entropy(sure).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli", "QValues"])
@given(data=st.data())
def test_the_breadth_of_choices_is_their_entropy_over_the_largest(name, data):
    family = FAMILIES[name]
    p = data.draw(parameters(family))
    choices = options(family, p)
    expected = sum(entropy_of(choice, axis=-1) for choice in choices) / sum(np.log(c.shape[-1]) for c in choices)
    np.testing.assert_allclose(family.normalized_entropy(p).numpy(), expected, rtol=1e-6, atol=1e-9)


@given(data=st.data())
def test_the_breadth_of_normals_is_their_typical_standard_deviation(data):
    p = data.draw(parameters(Gaussian(2)))
    expected = gmean(p[:, 2:].exp().numpy(), axis=-1)
    np.testing.assert_allclose(Gaussian(2).normalized_entropy(p).numpy(), expected, rtol=1e-9)


def test_who_chooses_blindly_is_uncertain_and_who_leaves_nothing_to_chance_is_certain():
    assert Categorical((4,)).confidence(torch.zeros(1, 4)).item() == pytest.approx(0.0, abs=1e-6)
    assert Categorical((4,)).confidence(torch.tensor([[50.0, 0.0, 0.0, 0.0]])).item() == pytest.approx(1.0)
    half = Categorical((2,)).confidence(torch.tensor([[3.0, 0.0]])).item()
    q = 1 / (1 + np.exp(-3.0))
    assert half == pytest.approx(1 + (q * np.log2(q) + (1 - q) * np.log2(1 - q)), abs=1e-6)
    log_std = torch.tensor([[5.0, -5.0, 0.0, 0.0], [0.0, 0.0, np.log(0.5), np.log(0.5)]])
    assert Gaussian(2).confidence(log_std).tolist() == pytest.approx([0.5, 0.8])
    assert Point(2).confidence(torch.ones(3, 2)).tolist() == [1.0] * 3


def test_a_point_and_a_single_option_have_no_breadth():
    assert Point(2).normalized_entropy(torch.ones(5, 2)).tolist() == [0.0] * 5
    assert Categorical((1,)).normalized_entropy(torch.ones(5, 1)).tolist() == [0.0] * 5


@every_family
def test_only_values_have_another_unit_than_nats(family):
    assert family.unit == (2.5 if isinstance(family, QValues) else 1.0)


# Points


@given(data=st.data())
def test_a_point_is_a_normal_of_fixed_spread(data):
    point, normal = Point(3), Gaussian(3)
    p, q = data.draw(batch(-1, 1, 3)), data.draw(batch(-1, 1, 3))
    spread = torch.full_like(p, math.log(Point.SPREAD))
    as_normals = [torch.cat([side, spread], dim=-1) for side in (p, q)]
    torch.testing.assert_close(point.kl(p, q), normal.kl(*as_normals))
    torch.testing.assert_close(point.kl(p, q), point.kl(q, p))
    tempered = [point.tempered(side, 3.0) for side in (p, q)]
    torch.testing.assert_close(point.kl(*tempered), normal.kl(*[normal.tempered(side, 3.0) for side in as_normals]))


def test_there_is_nothing_random_in_a_point():
    assert Point(2).entropy(torch.ones(5, 2)).tolist() == [0.0] * 5


# Values


def test_the_scale_of_values_is_the_teachers_mean_spread_over_actions():
    family = QValues(4)
    values = np.random.default_rng(0).normal(3.0, 7.0, (50, 4))
    family.calibrate(torch.from_numpy(values))
    assert family.tau == pytest.approx(np.mean([np.std(row) for row in values]))


@given(data=st.data(), scale=st.floats(1e-3, 1e3))
def test_values_on_another_scale_give_the_same_preferences_and_a_loss_on_that_scale(data, scale):
    p, q = data.draw(batch(-20, 20, 3)), data.draw(batch(-20, 20, 3))
    p[:, 0] += 1.0  # some preference
    plain, scaled = QValues(3), QValues(3)
    plain.calibrate(p)
    scaled.calibrate(p * scale)
    if plain.tau > 1e-2:
        torch.testing.assert_close(scaled.kl(p * scale, q * scale), plain.kl(p, q) * scale, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(scaled.entropy(p * scale), plain.entropy(p), rtol=1e-6, atol=1e-9)


@given(data=st.data(), shift=st.floats(-1e3, 1e3))
def test_a_shift_of_all_values_changes_nothing(data, shift):
    p, q = data.draw(batch(-20, 20, 3)), data.draw(batch(-20, 20, 3))
    shifted = QValues(3)
    shifted.calibrate(p + shift)
    plain = QValues(3)
    plain.calibrate(p)
    if plain.tau > 1e-2:
        torch.testing.assert_close(shifted.kl(p + shift, q), plain.kl(p, q), rtol=1e-6, atol=1e-6)


def test_values_that_are_all_the_same_leave_everything_finite():
    family = QValues(3)
    family.calibrate(torch.full((4, 3), 7.0))
    assert family.tau > 0
    student = torch.tensor([[7.0, 8.0, -5.0]], requires_grad=True)
    loss = family.kl(torch.full((1, 3), 7.0), student).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@every_family
def test_a_loaded_scale_is_the_saved_one(family):
    fresh = {Categorical: lambda: Categorical(family.sizes), QValues: lambda: QValues(family.size)}
    other = fresh.get(type(family), lambda: type(family)(getattr(family, "dim", family.size)))()
    other.load(json.loads(json.dumps(family.state())))
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 5, family.size, generator=generator)
    assert torch.equal(other.kl(p, q), family.kl(p, q))


def test_only_values_have_a_scale_of_their_own():
    for name, family in FAMILIES.items():
        assert bool(family.state()) == (name == "QValues")
        if name != "QValues":
            family.calibrate(torch.ones(4, family.size))
            assert family.state() == {}
