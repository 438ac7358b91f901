"""Numbers belong to an environment and a rollout, and samples made of them follow the policy's distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)

from rlsd.scaling.drawing import Drawing, numbers, random_actions, width

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
MANY = 20_000


@given(st.integers(0, 9), st.integers(0, 50), st.sampled_from([BOX, spaces.Discrete(3), spaces.MultiBinary(4)]))
def test_an_environments_numbers_are_the_same_in_any_company(first, rollout, space):
    whole = numbers(7, range(first + 3), rollout, 5, space, explores=True)
    part = numbers(7, range(first, first + 3), rollout, 5, space, explores=True)
    for mine, all_of_them in zip(vars(part).values(), vars(whole).values(), strict=True):
        np.testing.assert_array_equal(mine, all_of_them[:, first:])


@pytest.mark.parametrize("other", [(8, 0, 1), (7, 1, 1), (7, 0, 2)])
def test_another_run_environment_or_rollout_has_other_numbers(other):
    def first(key: int, environment: int, rollout: int) -> np.ndarray:
        return numbers(key, range(environment, environment + 1), rollout, 6, BOX, explores=False).drawn

    assert not np.isin(first(*other), first(7, 0, 1)).any()


def uniform(n: int, columns: int) -> torch.Tensor:
    return torch.from_numpy(numbers(1, range(1), 1, n, spaces.MultiBinary(columns), explores=False).drawn[:, 0])


def normal(n: int, columns: int) -> torch.Tensor:
    space = spaces.Box(-1.0, 1.0, (columns,), np.float32)
    return torch.from_numpy(numbers(1, range(1), 1, n, space, explores=False).drawn[:, 0])


def sampled(dist: Any, drawn: torch.Tensor) -> torch.Tensor:
    drawing = Drawing(dist)
    drawing.numbers = drawn
    actions: torch.Tensor = dist.get_actions()
    return actions


def test_choices_come_as_often_as_their_probability_says_and_never_at_0():
    probs = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    dist = CategoricalDistribution(6).proba_distribution(probs.log().clamp(min=-1e8).expand(MANY, 6))
    counts = torch.bincount(sampled(dist, uniform(MANY, 1)), minlength=6)
    assert counts[probs == 0].sum() == 0
    torch.testing.assert_close(counts / MANY, probs, atol=0.015, rtol=0)
    ends = torch.tensor([[0.0], [1 - 2**-24]])
    dist = CategoricalDistribution(6).proba_distribution(probs.log().clamp(min=-1e8).expand(2, 6))
    assert sampled(dist, ends).tolist() == [1, 4]


def test_several_choices_are_drawn_apart():
    logits = torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0]).expand(MANY, 5)
    actions = sampled(MultiCategoricalDistribution([2, 3]).proba_distribution(logits), uniform(MANY, 2))
    joint = torch.zeros(2, 3).index_put_((actions[:, 0], actions[:, 1]), torch.tensor(1 / MANY), accumulate=True)
    expected = torch.outer(logits[0, :2].softmax(0), logits[0, 2:].softmax(0))
    torch.testing.assert_close(joint, expected, atol=0.015, rtol=0)


def test_binary_actions_are_as_likely_as_they_should_be():
    logits = torch.tensor([0.0, 2.0, -2.0]).expand(MANY, 3)
    actions = sampled(BernoulliDistribution(3).proba_distribution(logits), uniform(MANY, 3))
    torch.testing.assert_close(actions.mean(0), logits[0].sigmoid(), atol=0.015, rtol=0)


@pytest.mark.parametrize("kind", [DiagGaussianDistribution, SquashedDiagGaussianDistribution])
def test_gaussians_have_their_mean_and_spread_and_their_own_log_probability(kind):
    mean, log_std = torch.tensor([0.3, -1.0]).expand(MANY, 2), torch.tensor([0.5, -1.0]).expand(MANY, 2)
    dist = kind(2).proba_distribution(mean, log_std)
    actions = sampled(dist, normal(MANY, 2))
    plain = actions if kind is DiagGaussianDistribution else dist.gaussian_actions
    torch.testing.assert_close(plain.mean(0), mean[0], atol=0.04, rtol=0)
    torch.testing.assert_close(plain.std(0), log_std[0].exp(), atol=0.04, rtol=0)
    if kind is SquashedDiagGaussianDistribution:
        torch.testing.assert_close(actions, plain.tanh())
    expected = kind(2).proba_distribution(mean, log_std).log_prob(actions)
    torch.testing.assert_close(dist.log_prob(actions), expected, atol=1e-3, rtol=1e-3)


def test_random_actions_come_from_all_over_their_space():
    drawn = random_actions(spaces.Discrete(3, start=5), np.array([[0.0], [0.5], [0.999]]))
    assert drawn.tolist() == [5, 6, 7]
    box = spaces.Box(np.array([-1.0, 2.0], np.float32), np.array([1.0, 6.0], np.float32))
    np.testing.assert_allclose(random_actions(box, np.array([[0.0, 0.0], [0.5, 0.75]])), [[-1, 2], [0, 5]])


def test_a_space_that_no_policy_acts_in_is_refused():
    with pytest.raises(ValueError, match="cannot draw actions in a Text space"):
        width(spaces.Text(3))
