import numpy as np
import pytest
from gymnasium import spaces

from rlsd_envs import InvalidAction
from rlsd_envs.actions import ActionCheck


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (spaces.Discrete(3), np.array([0, 2])),
        (spaces.Discrete(3, start=-1), np.array([-1, 1], np.int32)),
        (spaces.MultiDiscrete([2, 3]), np.array([[0, 2], [1, 0]])),
        (spaces.MultiBinary(2), np.array([[0, 1], [1, 1]], np.int8)),
        (spaces.Box(-1, 1, (2,)), np.array([[0.5, 1.0], [7.0, 0.0]], np.float32)),
    ],
)
def test_actions_of_the_space_pass(space, actions):
    ActionCheck(space, 2)(actions)


@pytest.mark.parametrize(
    ("space", "actions", "words"),
    [
        (spaces.Discrete(3), np.array([0, 1, 2]), r"shape \(3,\) given; Discrete\(3\) needs \(2,\)"),
        (spaces.Discrete(3), np.array([[0], [1]]), "shape"),
        (spaces.Discrete(3), np.array([0.0, 1.0]), "type float64 given"),
        (spaces.Discrete(3), np.array([0, 3]), "Action 3 for environment 1 is outside"),
        (spaces.Discrete(3), np.array([-1, 0]), "Action -1 for environment 0 is outside"),
        (spaces.MultiDiscrete([2, 3]), np.array([[0, 2], [2, 0]]), r"Action \[2 0\] for environment 1"),
        (spaces.Box(-1, 1, (2,)), np.zeros((2, 3), np.float32), r"needs \(2, 2\)"),
        (spaces.Box(-1, 1, (2,)), np.array([["a", "b"], ["c", "d"]]), "type <U1"),
    ],
)
def test_others_are_refused_with_what_was_wrong(space, actions, words):
    with pytest.raises(InvalidAction, match=words):
        ActionCheck(space, 2)(actions)
