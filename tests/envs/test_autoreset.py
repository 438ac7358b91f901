import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_environments import Counter

from rlsd_envs.autoreset import MaskedReset, SameStep, autoreset_of


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (AutoresetMode.SAME_STEP, SameStep),
        (AutoresetMode.NEXT_STEP, MaskedReset),
        (AutoresetMode.DISABLED, MaskedReset),
    ],
)
def test_the_mode_decides(mode, expected):
    assert isinstance(autoreset_of(SyncVectorEnv([Counter], autoreset_mode=mode)), expected)


class OnlyWhatWasReset(gym.vector.VectorEnv):
    """Answers a partial reset with as many rows, as EnvPool does."""

    def reset(self, *, seed=None, options=None):
        rows = np.flatnonzero(options["reset_mask"])
        return 100.0 + rows[:, None], {"row": rows}


def test_rows_of_a_short_answer_are_put_where_they_belong():
    ended = np.array([False, True, False, True])
    observations = np.arange(4.0)[:, None]
    restart = MaskedReset().restart(OnlyWhatWasReset(), observations, {"last": np.arange(4)}, ended)
    assert restart.observations[:, 0].tolist() == [0.0, 101.0, 2.0, 103.0]
    assert restart.final_observations[:, 0].tolist() == [1.0, 3.0]
    assert restart.final_infos == [{"last": 1}, {"last": 3}]
    assert restart.reset_infos == [{"row": 1}, {"row": 3}]


def test_final_observations_may_come_as_one_array():
    info = {"final_obs": np.arange(3.0)[:, None], "lives": np.array([5, 5, 5])}
    restart = SameStep().restart(OnlyWhatWasReset(), np.zeros((3, 1)), info, np.array([False, False, True]))
    assert restart.final_observations.tolist() == [[2.0]]
    assert restart.final_infos == [{}]
    assert restart.reset_infos == [{"lives": 5}]
