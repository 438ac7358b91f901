"""The picture of what teacher and student do in the same states."""

import numpy as np
import pytest
import torch

from rlsd.cli import policy_picture
from rlsd.distributions import Bernoulli, Categorical, Gaussian, Point, QValues

FAMILIES = [Categorical((2,)), Categorical((3, 4)), Categorical((60,)), Bernoulli(3), Gaussian(2), Gaussian(17)]
FAMILIES += [Point(1), QValues(4)]


def colored(picture, color):
    return int((picture == np.array(color)).all(axis=-1)[policy_picture._HEAD :].sum())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{type(family).__name__}-{family.size}")
@pytest.mark.parametrize("states", [1, 40])
def test_both_are_seen_whatever_the_actions_are(family, states):
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(states, family.size, generator=generator) for _ in range(2))
    picture = policy_picture.draw(family, teacher, student, "step 1")
    assert picture.shape == (policy_picture.HEIGHT, policy_picture.WIDTH, 3) and picture.dtype == np.uint8
    assert colored(picture, policy_picture._STUDENT) > 20, "the student is not drawn"
    assert colored(picture, policy_picture._TEACHER) > 20, "the teacher is not drawn"


def test_a_bar_is_as_high_as_its_probability():
    family = Categorical((2,))
    areas = []
    for chance in (0.2, 0.8):
        teacher = torch.tensor([[chance, 1.0 - chance]]).log()
        student = torch.tensor([[0.5, 0.5]]).log()
        picture = policy_picture.draw(family, teacher, student, "")
        left = picture[policy_picture._HEAD :, : policy_picture.WIDTH // 2]
        areas.append(int((left == np.array(policy_picture._TEACHER)).all(axis=-1).sum()))
    assert areas[1] == pytest.approx(4 * areas[0], rel=0.1)


def test_q_values_are_shown_as_the_choice_that_they_stand_for():
    family = QValues(2)
    family.calibrate(torch.tensor([[0.0, 200.0]]))
    chances = policy_picture.probabilities(family, torch.tensor([[0.0, 100.0]]))
    assert chances.tolist()[0] == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)], rel=1e-5)
