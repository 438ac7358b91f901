"""How well an agent does at present."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from agents import ALL_ALGORITHMS, VECTOR, TinyEnv, build, distilled, logged
from gymnasium import spaces
from helpers import check_goes_on_as_if_never_stopped, small_ppo, vec_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import rlsd
from rlsd.returns import EPISODES, FEWEST, Episodes


def smoothed_return(agent):
    return Episodes().smoothed(agent)


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
def test_where_sb3_keeps_too_few_twenty_count_all_the_same(window):
    assert smoothed_return(agent(*[7.0] * (EPISODES - 1), window=window)) is None
    assert smoothed_return(agent(*[7.0] * EPISODES, window=window)) == (7.0, 0.0)
    assert smoothed_return(agent(*[7.0] * FEWEST, window=FEWEST)) == (7.0, 0.0)


@pytest.mark.parametrize("monitor", [False, True])
@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN"])
def test_the_window_that_sb3_logs_by_changes_no_return(name, monitor):
    few, many = (guarded(name, monitor=monitor, window=window).learn(160).distiller.ended for window in (1, 100))
    told = few._returns[-EPISODES:]
    assert len(told) == EPISODES and len(set(told)) > 5
    assert told == many._returns[-EPISODES:]


def test_each_episode_is_counted_once_as_far_as_it_is_remembered():
    ended, one = Episodes(), agent(1.0, 1.0)
    assert ended.since(agent(), 0) == []
    assert ended.since(one, 0) == [1.0, 1.0]
    assert ended.since(one, 2) == []
    one.ep_info_buffer.extend([{"r": 2.0}, {"r": 3.0}])
    assert ended.since(one, 2) == [2.0, 3.0]
    assert ended.since(one, 2) == [2.0, 3.0], "somebody else asks"
    assert ended.since(agent(4.0, 5.0), 4) == [4.0, 5.0], "learn() began anew, and SB3 forgot all the others"
    assert ended.since(agent(*[6.0] * 200), 6) == [6.0] * 200, "as many as ARS ends in an update"


def test_its_mean_is_what_sb3_logs():
    trained = small_ppo(VecMonitor(vec_env(n=2)), stats_window_size=FEWEST)
    trained.learn(64)
    assert len(trained.ep_info_buffer) == FEWEST
    assert smoothed_return(trained).mean == pytest.approx(np.mean([episode["r"] for episode in trained.ep_info_buffer]))


# Where SB3 knows of no episodes


class Falling(TinyEnv):
    """Pays 10 more in its first steps than afterwards."""

    good, steps = 200, 0

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.steps += 1
        return observation, reward + 10.0 * (self.steps <= self.good), *rest


def falling(n: int = 2, monitor: bool = False, normalize: bool = False, actions=None):
    actions = spaces.Discrete(2) if actions is None else actions
    make = [lambda i=i: Falling(VECTOR, actions, length=4 + i) for i in range(n)]
    env = DummyVecEnv([(lambda m=m: Monitor(m())) if monitor else m for m in make])
    return VecNormalize(env) if normalize else env


#: Asks for returns, and pulls as soon as they fall.
GUARD = {
    "teacher": {"every": 64},
    "states": {"capacity": 64, "batch_size": 8},
    "strength": {"type": "constant", "gates": ["return"]},
}


def guarded(name: str = "PPO", window: int = 100, **env) -> Any:
    algorithm, env = ALL_ALGORITHMS[name], falling(actions=ACTIONS.get(name), **env)
    return build(rlsd.SelfDistilled(algorithm), env=env, distill=GUARD, stats_window_size=window)


ACTIONS = {"SAC": spaces.Box(-1.0, 1.0, (2,), np.float32)}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ["PPO", "A2C", "MaskablePPO", "RecurrentPPO", "DQN", "SAC"])
def test_without_a_monitor_the_returns_are_those_that_it_would_tell(name, normalize):
    told, added = (
        guarded(name, monitor=monitor, normalize=normalize).learn(160).distiller.ended._returns[-20:]
        for monitor in (True, False)
    )
    assert len(set(added)) > 5
    assert added == pytest.approx(told[-len(added) :], abs=1e-5)


@pytest.mark.parametrize(
    ("calls", "monitor"),
    [
        (1, True),
        (30, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(30, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_the_guard_opens_when_the_return_falls_with_and_without_a_monitor_in_one_learn_or_many(name, calls, monitor):
    agent = guarded(name, monitor=monitor)
    for _ in range(calls):
        agent.learn(960 // calls)
    assert agent.distiller.deposits > 0


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_the_best_is_found_and_a_student_judged_without_a_monitor(name):
    best = build(
        rlsd.SelfDistilled(ALL_ALGORITHMS[name]),
        env=falling(),
        distill={"teacher": {"type": "best", "every": 16, "episodes": 2}, "states": {"capacity": 64, "batch_size": 8}},
    ).learn(320)
    assert best.distiller.teacher.mark is not None
    timing = {"type": "reborn", "every": 384, "steps": 4, "kl_bound": 9.0, "episodes": 4}
    reborn = build(
        rlsd.SelfDistilled(ALL_ALGORITHMS[name]),
        env=falling(),
        distill={"timing": timing, "states": {"capacity": 64, "batch_size": 8}},
    ).learn(480)
    assert reborn.distiller.auxiliary.returned > 0, "what it earned fell"


def test_what_sb3_logs_and_callbacks_see_without_a_monitor_is_as_without_us():
    class Sees(BaseCallback):
        def _on_step(self) -> bool:
            assert not any("episode" in info for info in self.locals["infos"])
            return True

    plain = build(PPO, env=falling())
    plain.learn(160)
    agent = build(rlsd.SelfDistilled(PPO), env=falling(), distill=GUARD | {"strength": {"value": 0.0}})
    agent.learn(160, callback=Sees())
    assert logged(agent) == logged(plain)
    guarded().learn(160, callback=Sees())


def test_nobody_watches_rewards_that_nobody_asks_for_or_that_a_monitor_tells():
    for agent in (distilled(env=falling()), guarded(monitor=True)):
        agent.learn(160)
        assert agent.distiller.recorders(agent) == []
    agent = guarded()
    agent.learn(160)
    assert len(agent.distiller.recorders(agent)) == 1


def test_an_episode_whose_beginning_nobody_watched_is_not_counted():
    ended, one = Episodes(), SimpleNamespace(n_envs=2, num_timesteps=0, ep_info_buffer=deque(), _stats_window_size=100)
    one.get_vec_normalize_env = lambda: None
    ended._asked = True

    def step(rewards, dones, infos=({}, {})):
        one.num_timesteps += 2
        ended.rewarded(one, np.array(rewards), np.array(dones), infos)

    assert ended.recorder(one) is not None
    step([1.0, 1.0], [False, True])
    step([1.0, 2.0], [True, False])
    step([3.0, 4.0], [True, True], ({}, {"episode": {"r": 6.0}}))
    assert ended._returns == [3.0], "the first of each was under way, and of the last a Monitor tells"
    one.num_timesteps += 2  # nobody watched
    ended.recorder(one)
    step([1.0, 1.0], [True, True])
    assert ended._returns == [3.0]
    ended.begin(one)  # the environment was reset
    ended.recorder(one)
    step([1.0, 2.0], [True, True])
    assert ended._returns == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_without_a_monitor_training_goes_on_as_if_never_stopped(name, tmp_path):
    agent = guarded(name)
    agent.learn(96)
    check_goes_on_as_if_never_stopped(agent, tmp_path / "checkpoint", 480)
