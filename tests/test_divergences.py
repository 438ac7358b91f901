"""Divergences as losses: direction, temperature, weights, and figures that stay finite at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import small_agent, small_ppo, vec_env
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

import rlsd
from rlsd import KL, MSE
from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian, Point, QValues
from rlsd.divergences import JensenShannon

FAMILIES: dict[str, Family] = {
    "Categorical": Categorical((3,)),
    "MultiDiscrete": Categorical((2, 3)),
    "Bernoulli": Bernoulli(2),
    "Gaussian": Gaussian(1),
    "Point": Point(2),
    "QValues": QValues(3),
}

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
both_directions = pytest.mark.parametrize("direction", ["forward", "reverse"])

seeds = st.integers(0, 2**32 - 1)
temperatures = st.floats(0.25, 8.0)


def drawn(family: Family, seed: int, scale: float = 1.5) -> torch.Tensor:
    """Parameters of 4 distributions in 64 bits."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(4, family.size)) * scale)


@pytest.mark.parametrize(
    ("family", "teacher", "student", "forward", "reverse"),
    [
        (Categorical((2,)), [math.log(9.0), 0.0], [0.0, 0.0], 0.3680642, 0.5108256),
        (Bernoulli(1), [math.log(9.0)], [0.0], 0.3680642, 0.5108256),
        (Gaussian(1), [0.0, 0.0], [1.0, math.log(2.0)], 0.4431472, 1.3068528),
    ],
    ids=["Categorical", "Bernoulli", "Gaussian"],
)
def test_forward_is_teacher_from_student_and_reverse_is_student_from_teacher(
    family, teacher, student, forward, reverse
):
    # .9 ln(.9/.5) + .1 ln(.1/.5) against .5 ln(.5/.9) + .5 ln(.5/.1); for normals, N(0, 1) against N(1, 2).
    sides = torch.tensor([teacher]), torch.tensor([student])
    assert KL("forward")(family, *sides).item() == pytest.approx(forward, abs=1e-6)
    assert KL("reverse")(family, *sides).item() == pytest.approx(reverse, abs=1e-6)


@every_family
@given(a=seeds, b=seeds, temperature=temperatures)
def test_exchanging_both_sides_exchanges_the_directions(family, a, b, temperature):
    p, q = drawn(family, a), drawn(family, b)
    forward, reverse = KL("forward", temperature), KL("reverse", temperature)
    torch.testing.assert_close(forward(family, p, q), reverse(family, q, p))


def tempered_probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """``p ** (1 / temperature)``, normalised, from probabilities."""
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    raised = probabilities ** (1 / temperature)
    return raised / raised.sum(-1, keepdims=True)


def discrete_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (p * np.log(p / q)).sum(-1)


def components(family: Family, p: torch.Tensor) -> list[np.ndarray]:
    """The logits of each independent choice."""
    array = p.numpy()
    if isinstance(family, Bernoulli):
        return [np.stack([array[:, i], np.zeros(len(array))], axis=-1) for i in range(family.size)]
    return np.split(array, np.cumsum(family.sizes[:-1]), axis=-1)


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli"])
@given(a=seeds, b=seeds, temperature=temperatures)
def test_temperature_raises_both_sides_to_its_inverse_and_scales_by_its_square(name, a, b, temperature):
    family = FAMILIES[name]
    p, q = drawn(family, a), drawn(family, b)
    expected = sum(
        discrete_kl(tempered_probabilities(x, temperature), tempered_probabilities(y, temperature))
        for x, y in zip(components(family, p), components(family, q), strict=True)
    )
    found = KL("forward", temperature)(family, p, q)
    np.testing.assert_allclose(found.numpy(), expected * temperature**2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 5.0])
def test_temperature_raises_a_normal_density_too(temperature):
    x = np.linspace(-60, 60, 400_001)
    width = x[1] - x[0]

    def density(mean: float, std: float) -> np.ndarray:
        raised = np.exp(-0.5 * ((x - mean) / std) ** 2 / temperature)
        return raised / (raised.sum() * width)

    p, q = density(0.3, 0.8), density(-0.5, 1.4)
    both = (p > 1e-250) & (q > 1e-250)  # further out neither adds anything
    expected = (p[both] * np.log(p[both] / q[both])).sum() * width * temperature**2
    teacher = torch.tensor([[0.3, math.log(0.8)]], dtype=torch.float64)
    student = torch.tensor([[-0.5, math.log(1.4)]], dtype=torch.float64)
    assert KL("forward", temperature)(Gaussian(1), teacher, student).item() == pytest.approx(expected, rel=1e-6)


@every_family
@both_directions
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_equals_the_numerical_one(family, direction, temperature):
    teacher = drawn(family, 1, 1.0)
    student = drawn(family, 2, 1.0).requires_grad_()
    divergence = KL(direction, temperature)
    assert torch.autograd.gradcheck(lambda s: divergence(family, teacher, s), (student,), eps=1e-6, atol=1e-6)


@every_family
@both_directions
@given(seed=seeds, temperature=temperatures)
def test_a_student_that_equals_its_teacher_is_not_pulled(family, direction, seed, temperature):
    student = drawn(family, seed).float().requires_grad_()
    loss = KL(direction, temperature)(family, family.normalized(student.detach()), student)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() <= 1e-5 * max(1.0, temperature**2)
    assert gradient.abs().max() <= 1e-5 * max(1.0, temperature**2)


@both_directions
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli"])
def test_logits_a_thousand_apart_leave_value_and_gradient_finite(name, temperature, direction):
    family = FAMILIES[name]
    sure = torch.zeros(family.size)
    sure[:: 2 if name == "Categorical" else 1] = 500.0
    sure[1::2] = -500.0
    for teacher, student in ((sure, -sure), (-sure, sure), (sure, 0 * sure), (0 * sure, sure), (sure, sure)):
        student = student[None].clone().requires_grad_()
        loss = KL(direction, temperature)(family, family.normalized(teacher[None]), student)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert torch.isfinite(loss).all(), (teacher, student, loss)
        assert torch.isfinite(gradient).all(), (teacher, student, gradient)


@both_directions
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_log_stds_from_minus_20_to_2_leave_value_and_gradient_finite(temperature, direction):
    family = Gaussian(1)
    edges = [(mean, log_std) for mean in (-10.0, 0.0, 10.0) for log_std in (-20.0, -9.0, 0.0, 2.0)]
    teacher = torch.tensor([one for one in edges for _ in edges])
    student = torch.tensor([other for _ in edges for other in edges]).requires_grad_()
    loss = KL(direction, temperature)(family, teacher, student)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(gradient).all()


# What means and spreads weigh


@both_directions
@given(a=seeds, b=seeds, mean_weight=st.floats(0, 5), std_weight=st.floats(0, 5), temperature=temperatures)
def test_differing_means_and_differing_spreads_weigh_what_they_are_told_to(
    direction, a, b, mean_weight, std_weight, temperature
):
    family = Gaussian(2)
    teacher, student = drawn(family, a), drawn(family, b)
    found = KL(direction, temperature, mean_weight, std_weight)(family, teacher, student)

    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    mean_p, log_std_p = np.split(first.numpy(), 2, axis=-1)
    mean_q, log_std_q = np.split(second.numpy(), 2, axis=-1)
    variance_p, variance_q = (temperature * np.exp(2 * log_std) for log_std in (log_std_p, log_std_q))
    means = (mean_p - mean_q) ** 2 / (2 * variance_q)
    spreads = 0.5 * (variance_p / variance_q - 1 - np.log(variance_p / variance_q))
    expected = (mean_weight * means + std_weight * spreads).sum(-1) * temperature**2
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("weights", "pulled"), [((1.0, 0.0), [True, False]), ((0.0, 1.0), [False, True])])
def test_what_weighs_nothing_does_not_pull(weights, pulled):
    student = torch.tensor([[0.5, -1.0]], requires_grad=True)
    loss = KL("reverse", 1.0, *weights)(Gaussian(1), torch.tensor([[0.0, 0.3]]), student)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert (gradient[0] != 0).tolist() == pulled


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Gaussian"])
def test_without_means_and_spreads_their_weights_mean_nothing(name):
    family = FAMILIES[name]
    p, q = drawn(family, 1), drawn(family, 2)
    assert torch.equal(KL(mean_weight=0.0, std_weight=3.0)(family, p, q), KL()(family, p, q))


@pytest.mark.parametrize("name", ["PPO", "TD3", "DQN"])
def test_without_means_and_spreads_their_weights_are_refused(name):
    agent = small_agent(name)
    with pytest.raises(TypeError, match=f"= 0, 0 weigh the parts of Gaussian actions, and this {name} has none: leave"):
        rlsd.distill(agent, {"divergence": KL(mean_weight=0.0, std_weight=0.0)})


def test_with_means_and_spreads_their_weights_are_not_refused():
    rlsd.distill(small_ppo(vec_env(action_space=spaces.Box(-1.0, 1.0, (2,)))), {"divergence": KL(std_weight=0.0)})


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@every_family
def test_at_the_ends_of_the_range_of_temperatures_the_loss_is_finite(family, temperature):
    p, q = drawn(family, 1).float(), drawn(family, 2).float()
    assert torch.isfinite(KL(temperature=temperature)(family, p, q)).all()


# Jensen-Shannon


@pytest.mark.parametrize(
    ("family", "teacher", "student", "quarter", "three_quarters"),
    [
        # m = (.6, .4): .25 (.9 ln(.9/.6) + .1 ln(.1/.4)) + .75 (.5 ln(.5/.6) + .5 ln(.5/.4)), and with m = (.8, .2)
        (Categorical((2,)), [math.log(9.0), 0.0], [0.0, 0.0], 0.0718805, 0.0833034),
        (Categorical((2, 2)), [math.log(9.0), 0.0] * 2, [0.0] * 4, 2 * 0.0718805, 2 * 0.0833034),
        (Bernoulli(1), [math.log(9.0)], [0.0], 0.0718805, 0.0833034),
        (QValues(2), [math.log(9.0), 0.0], [0.0, 0.0], 0.0718805, 0.0833034),
        # N(0, 1) and N(1, 2): ln(1/4 + 3 + 3/16) / 2 - (3/4) ln 2, and ln(3/4 + 1 + 3/16) / 2 - (1/4) ln 2
        (Gaussian(1), [0.0, 0.0], [1.0, math.log(2.0)], 0.0975118, 0.1574124),
        # ln(1 + (3/16) (.4/.2)**2) / 2, whichever side has the larger share
        (Point(1), [0.1], [0.5], 0.2798079, 0.2798079),
    ],
)
def test_the_weight_is_the_teachers_share_of_the_mixture(family, teacher, student, quarter, three_quarters):
    sides = torch.tensor([teacher]), torch.tensor([student])
    assert JensenShannon(0.25)(family, *sides).item() == pytest.approx(quarter, abs=1e-6)
    assert JensenShannon(0.75)(family, *sides).item() == pytest.approx(three_quarters, abs=1e-6)


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli"])
@given(a=seeds, b=seeds)
def test_half_and_half_is_the_jensen_shannon_divergence_of_scipy_for_each_choice(name, a, b):
    family = FAMILIES[name]
    p, q = drawn(family, a), drawn(family, b)
    pairs = zip(components(family, p), components(family, q), strict=True)
    expected = sum(jensenshannon(softmax(x, axis=-1), softmax(y, axis=-1), axis=-1) ** 2 for x, y in pairs)
    np.testing.assert_allclose(JensenShannon()(family, p, q).numpy(), expected, rtol=1e-6, atol=1e-12)


@every_family
@given(a=seeds, b=seeds, weight=st.floats(0.05, 0.95), temperature=temperatures)
def test_exchanging_both_sides_and_their_shares_changes_nothing(family, a, b, weight, temperature):
    p, q = drawn(family, a), drawn(family, b)
    found = JensenShannon(weight, temperature)(family, p, q)
    assert found.shape == (4,)
    torch.testing.assert_close(found, JensenShannon(1 - weight, temperature)(family, q, p))


@every_family
def test_toward_its_ends_it_is_a_share_of_kl_in_one_direction_or_the_other(family):
    p, q = drawn(family, 1, 0.5), drawn(family, 2, 0.5)
    end = 1e-7
    torch.testing.assert_close(JensenShannon(end)(family, p, q) / end, KL()(family, p, q), rtol=1e-4, atol=1e-6)
    reverse = JensenShannon(1 - end)(family, p, q) / end
    torch.testing.assert_close(reverse, KL("reverse")(family, p, q), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli"])
@given(a=seeds, b=seeds, weight=st.floats(0.01, 0.99))
def test_it_is_never_more_than_the_entropy_of_the_shares_for_each_choice(name, a, b, weight):
    family = FAMILIES[name]
    most = -(weight * math.log(weight) + (1 - weight) * math.log(1 - weight))
    choices = {"Categorical": 1, "MultiDiscrete": 2, "Bernoulli": 2}[name]
    found = JensenShannon(weight)(family, drawn(family, a, 50.0), drawn(family, b, 50.0))
    assert (found >= -1e-12).all()
    assert (found <= choices * most + 1e-9).all()


@pytest.mark.parametrize("family", [Gaussian(1), Point(1)])
def test_for_actions_far_apart_it_grows_with_the_logarithm_of_the_distance(family):
    teacher = torch.zeros(2, family.size)
    student = torch.zeros(2, family.size)
    student[:, 0] = torch.tensor([1e3, 1e5])
    near, far = JensenShannon()(family, teacher, student).tolist()
    assert far - near == pytest.approx(math.log(100.0), rel=1e-4)


@every_family
@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (0.2, 3.0)])
def test_the_gradient_of_jensen_shannon_equals_the_numerical_one(family, weight, temperature):
    teacher, student = drawn(family, 1, 1.0), drawn(family, 2, 1.0).requires_grad_()
    divergence = JensenShannon(weight, temperature)
    assert torch.autograd.gradcheck(lambda s: divergence(family, teacher, s), (student,), eps=1e-6, atol=1e-6)


@every_family
@given(seed=seeds, temperature=temperatures, weight=st.floats(0.05, 0.95))
def test_a_student_that_equals_its_teacher_is_not_pulled_by_jensen_shannon(family, seed, temperature, weight):
    student = drawn(family, seed).float().requires_grad_()
    loss = JensenShannon(weight, temperature)(family, family.normalized(student.detach()), student)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() <= 1e-5 * max(1.0, temperature**2)
    assert gradient.abs().max() <= 1e-5 * max(1.0, temperature**2)


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli"])
@given(a=seeds, b=seeds, temperature=temperatures)
def test_temperature_means_for_jensen_shannon_what_it_means_for_kl(name, a, b, temperature):
    family = FAMILIES[name]
    p, q = drawn(family, a), drawn(family, b)
    expected = sum(
        jensenshannon(tempered_probabilities(x, temperature), tempered_probabilities(y, temperature), axis=-1) ** 2
        for x, y in zip(components(family, p), components(family, q), strict=True)
    )
    found = JensenShannon(0.5, temperature)(family, p, q)
    np.testing.assert_allclose(found.numpy(), expected * temperature**2, rtol=1e-6, atol=1e-9)


def test_jensen_shannon_of_values_is_on_their_scale_as_kl_is():
    p, q = drawn(QValues(3), 1), drawn(QValues(3), 2)
    plain, scaled = QValues(3), QValues(3)
    plain.calibrate(p)
    scaled.calibrate(100 * p)
    torch.testing.assert_close(
        JensenShannon()(scaled, 100 * p, 100 * q), 100 * JensenShannon()(plain, p, q), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", ["Categorical", "MultiDiscrete", "Bernoulli", "Gaussian"])
def test_jensen_shannon_and_its_gradient_stay_finite_at_the_edges(name):
    family = FAMILIES[name]
    sure = torch.full((family.size,), -500.0 if name != "Gaussian" else -20.0)
    sure[0] = 500.0
    for teacher, student in ((sure, -sure * (name != "Gaussian")), (sure, 0 * sure), (0 * sure, sure), (sure, sure)):
        student = student[None].clone().requires_grad_()
        loss = JensenShannon()(family, family.normalized(teacher[None]), student)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weight": 0.0}, r"divergence\.weight must be a number in \(0, 1\], got 0\.0"),
        ({"weight": 1.0}, r"divergence\.weight must be below 1, got 1\.0"),
        ({"temperature": 0.0}, r"divergence\.temperature must be a number in \[0\.001, 1000\], got 0\.0"),
        ({"value_weight": -1.0}, r"divergence\.value_weight must be a number >= 0, got -1\.0"),
    ],
)
def test_what_is_no_jensen_shannon_divergence_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        JensenShannon(**fields)


# Squared errors


@pytest.mark.parametrize(
    ("family", "teacher", "student", "expected"),
    [
        # of probabilities: (.9 - .5)**2 + (.1 - .5)**2
        (Categorical((2,)), [math.log(9.0), 0.0], [0.0, 0.0], 0.32),
        (Categorical((2, 2)), [math.log(9.0), 0.0] * 2, [0.0] * 4, 0.64),
        (Bernoulli(2), [math.log(9.0), 0.0], [0.0, 0.0], 0.16),
        # of means, of actions, of values
        (Gaussian(2), [1.0, 2.0, 0.0, 0.0], [0.0, 4.0, 3.0, -3.0], 5.0),
        (Point(2), [1.0, 2.0], [0.0, 4.0], 5.0),
        (QValues(2), [10.0, 20.0], [0.0, 40.0], 500.0),
    ],
)
def test_a_squared_error_is_summed_over_dimensions(family, teacher, student, expected):
    sides = torch.tensor([teacher]), torch.tensor([student])
    assert MSE()(family, *sides).item() == pytest.approx(expected, rel=1e-5)


@every_family
@given(a=seeds, b=seeds)
def test_a_squared_error_is_symmetric_and_zero_where_both_sides_are_equal(family, a, b):
    p, q = drawn(family, a), drawn(family, b)
    found = MSE()(family, p, q)
    assert found.shape == (4,)
    torch.testing.assert_close(found, MSE()(family, q, p))
    torch.testing.assert_close(found, MSE()(family, family.normalized(p), q))
    assert MSE()(family, p, p).tolist() == [0.0] * 4


@every_family
def test_the_gradient_of_a_squared_error_equals_the_numerical_one(family):
    teacher, student = drawn(family, 1, 1.0), drawn(family, 2, 1.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: MSE()(family, teacher, s), (student,), eps=1e-6, atol=1e-6)


def test_a_squared_error_of_values_does_not_depend_on_their_scale():
    family, p, q = QValues(3), drawn(QValues(3), 1), drawn(QValues(3), 2)
    before = MSE()(family, p, q)
    family.calibrate(100 * p)
    assert torch.equal(MSE()(family, p, q), before)
