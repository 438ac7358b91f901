"""How well an agent does at present."""

from __future__ import annotations

import math
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import small_ppo, vec_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import VecMonitor

from rlsd.returns import EPISODES, FEWEST, Ended, smoothed_return


def agent(*returns: float, window: int = 100):
    """As much of an agent as is looked at."""
    return SimpleNamespace(ep_info_buffer=deque({"r": r, "l": 1} for r in returns), _stats_window_size=window)


@given(st.lists(st.floats(-1e6, 1e6), min_size=EPISODES, max_size=100))
def test_it_is_the_mean_over_the_latest_episodes_and_its_standard_error(returns):
    found = smoothed_return(agent(*returns))
    assert found.mean == pytest.approx(np.mean(returns[-EPISODES:]), abs=1e-6)
    assert found.error == pytest.approx(np.std(returns[-EPISODES:], ddof=1) / np.sqrt(EPISODES), abs=1e-6)


def test_what_is_long_past_does_not_count():
    assert smoothed_return(agent(*[1e6] * 80, *[3.0] * EPISODES)) == (3.0, 0.0)


@pytest.mark.parametrize("buffer", [None, [], deque()])
def test_there_is_none_before_an_episode_has_ended(buffer):
    assert smoothed_return(SimpleNamespace(ep_info_buffer=buffer, _stats_window_size=100)) is None


@pytest.mark.parametrize(
    ("episodes", "window", "enough"), [(19, 100, False), (20, 100, True), (4, 5, False), (5, 5, True)]
)
def test_there_is_none_before_enough_episodes_have_ended_unless_fewer_are_remembered(episodes, window, enough):
    assert (smoothed_return(agent(*[1.0] * episodes, window=window)) is not None) == enough


@pytest.mark.parametrize("window", range(1, FEWEST))
def test_of_too_few_episodes_nobody_knows_the_error(window):
    assert smoothed_return(agent(*[7.0] * window, window=window)) == (7.0, math.inf)
    assert smoothed_return(agent(*[7.0] * FEWEST, window=FEWEST)) == (7.0, 0.0)


def test_each_episode_is_counted_once_as_far_as_it_is_remembered():
    ended, one = Ended(), agent(1.0, 1.0)
    assert ended.returns(agent()) == []
    assert ended.returns(one) == [1.0, 1.0]
    assert ended.returns(one) == []
    one.ep_info_buffer.extend([{"r": 2.0}, {"r": 3.0}])
    assert ended.returns(one) == [2.0, 3.0]
    one.ep_info_buffer.append({"r": 4.0})
    ended.skip(one)
    assert ended.returns(one) == []
    assert ended.returns(agent(4.0, 5.0)) == [4.0, 5.0], "learn() began anew, and SB3 forgot all the others"


def test_its_mean_is_what_sb3_logs():
    trained = small_ppo(VecMonitor(vec_env(n=2)), stats_window_size=3)
    trained.learn(64)
    assert len(trained.ep_info_buffer) == 3
    assert smoothed_return(trained).mean == pytest.approx(np.mean([episode["r"] for episode in trained.ep_info_buffer]))
