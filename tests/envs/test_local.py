import numpy as np
import pytest
from toy_environments import Counter

from rlsd_envs import InvalidAction
from rlsd_envs.local import LocalVecEnv


def test_actions_are_checked_before_the_environment_sees_them():
    env = LocalVecEnv([Counter])
    env.reset()
    with pytest.raises(InvalidAction, match="Action 3 for environment 0"):
        env.step(np.array([3]))
    assert env.get_attr("count") == [0]
