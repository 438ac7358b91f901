"""KL as a loss: direction, temperature, and figures that stay finite at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlsd import KL
from rlsd.distributions import Bernoulli, Categorical, Family, Gaussian

FAMILIES: dict[str, Family] = {
    "Categorical": Categorical((3,)),
    "MultiDiscrete": Categorical((2, 3)),
    "Bernoulli": Bernoulli(2),
    "Gaussian": Gaussian(1),
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
