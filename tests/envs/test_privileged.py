"""What only a teacher may see is in the observation, and not in the student's features."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlsd_envs import Privileged, StudentExtractor


def test_the_teacher_is_shown_all_and_the_student_what_is_left():
    env = Privileged(gym.make("CartPole-v1"), hidden=[1, 3])
    seen, _ = env.reset(seed=0)
    assert np.array_equal(seen["student"], seen["teacher"][[0, 2]]) and seen["teacher"].shape == (4,)
    assert env.observation_space.contains(env.step(0)[0])


@pytest.mark.parametrize("hidden", [[], [4], [-1], [0, 1, 2, 3]])
def test_numbers_that_cannot_be_hidden_are_named(hidden):
    with pytest.raises(ValueError, match=r"hidden must be some, not all, of the places 0 to 3, got \["):
        Privileged(gym.make("CartPole-v1"), hidden=hidden)


def test_an_observation_that_is_no_vector_is_named():
    with pytest.raises(ValueError, match="vectors, not of Discrete"):
        Privileged(gym.make("FrozenLake-v1"), hidden=[0])


SPACE = spaces.Dict({"student": spaces.Box(-1, 1, (2,)), "teacher": spaces.Box(-1, 1, (3,))})


def test_the_features_have_nothing_of_the_hidden_keys():
    extractor = StudentExtractor(SPACE)
    assert extractor.features_dim == 2
    seen = {"student": torch.ones(5, 2), "teacher": torch.zeros(5, 3)}
    assert torch.equal(extractor(seen), extractor({"student": torch.ones(5, 2)}))


@pytest.mark.parametrize("hidden", [["no"], ["student", "teacher"], "teacher"])
def test_keys_that_cannot_be_hidden_are_named(hidden):
    with pytest.raises(ValueError, match="hidden must be some, not all, of the keys"):
        StudentExtractor(SPACE, hidden=hidden)
    with pytest.raises(ValueError, match="hidden must be"):
        StudentExtractor(spaces.Box(-1, 1, (2,)))
