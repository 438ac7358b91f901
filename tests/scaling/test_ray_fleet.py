"""Ray actors do what workers in this process do, and one that dies or hangs costs its fragment and no more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from agents import build, config, differences, scramble
from ray_here import MARKS, ray
from scaling_states import ROLLOUT, state_of
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlsd
from rlsd.scaling import ray_fleet

pytestmark = MARKS


class Told(gym.Env[Any, Any]):
    """Says which process it is in, and fails when it is told to."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    fails = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        if self.fails:
            raise KeyError("the simulator has no such joint")
        drawn = self.np_random.random(2).astype(np.float32)
        return drawn, float(drawn @ action), bool(drawn[0] < 0.2), bool(drawn[1] < 0.2), {}

    def fail(self, fails: bool) -> None:
        self.fails = fails

    def process(self) -> int:
        return os.getpid()


def told(workers: Any) -> Any:
    env = VecNormalize(workers.vec_env(Told))
    return build(rlsd.SelfDistilled(PPO), env=env, distill=config())


@pytest.fixture(scope="module")
def agent(cluster: None) -> Iterator[Any]:
    """An agent with two actors of two environments, which the tests of the file share: actors take seconds to start."""
    agent = told(rlsd.RayWorkers(2, 2))
    yield agent
    agent.env.close()


def processes(agent: Any) -> list[int]:
    found: list[int] = agent.env.env_method("process")
    return found


def test_actors_do_what_workers_in_this_process_do(agent):
    local = told(rlsd.LocalWorkers(1, 4))
    for one in (local, agent):
        one.set_random_seed(3)
        one.learn(2 * ROLLOUT)
    assert not differences(state_of(local), state_of(agent))
    assert len({*processes(agent), os.getpid()}) == 3, "the workers are not processes of their own"


def test_a_checkpoint_goes_on_in_this_process_to_the_bit(agent, tmp_path):
    rlsd.save_checkpoint(agent, tmp_path / "0")
    resumed = rlsd.resume(tmp_path / "0", speed="exact")
    rlsd.scale(resumed, rlsd.LocalWorkers(4, 1))
    for one in (agent, resumed):
        scramble()
        one.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert not differences(state_of(agent), state_of(resumed))


def test_a_worker_that_moves_to_a_node_that_joined_changes_no_bit(agent, monkeypatch, tmp_path):
    rlsd.scale(agent, rlsd.RayWorkers(2, 2, elastic=True))
    fleet = agent.env.unwrapped.fleet
    (here,) = fleet._nodes()
    assert fleet.nodes == 1
    before = processes(agent)
    rlsd.save_checkpoint(agent, tmp_path / "0")
    local = rlsd.resume(tmp_path / "0", speed="exact")
    rlsd.scale(local, rlsd.LocalWorkers(1, 4))
    monkeypatch.setattr(fleet, "_nodes", lambda: {here: 1.0, "ab" * 28: 1.0})  # Ray puts its workers on the first
    for one in (local, agent):
        scramble()
        one.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert not differences(state_of(local), state_of(agent))
    assert fleet.nodes == 2
    assert len(set(before) & set(processes(agent))) == 1, "one of the two workers moves, and no other"
    assert fleet.lost == 0


class Send(BaseCallback):
    """Sends a signal to the second worker's process at the beginning of the second rollout."""

    def __init__(self, what: signal.Signals) -> None:
        super().__init__()
        self._what, self._rollouts, self.lost, self.to = what, 0, [], 0

    def _on_rollout_start(self) -> None:
        self._rollouts += 1
        if self._rollouts == 2:
            self.to = processes(self.model)[2]
            os.kill(self.to, self._what)

    def _on_rollout_end(self) -> None:
        self.lost.append(self.logger.name_to_value["scale/fragments_lost"])

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_costs_its_fragment_and_the_run_goes_on(what, agent, monkeypatch):
    monkeypatch.setattr(ray_fleet, "_BACK_OFF", 0.0)
    fleet, send = agent.env.unwrapped.fleet, Send(what)
    before = fleet.lost
    wait = fleet._wait
    if what == signal.SIGSTOP:  # a worker that starts anew may take longer than this
        monkeypatch.setattr(fleet, "_wait", lambda number, future: _wait_within(fleet, wait, number, future, send.to))
    with pytest.warns(UserWarning, match=r"worker 1 was lost .* started anew with new episodes \(1 of 3 times"):
        agent.learn(3 * ROLLOUT, callback=send)
    with contextlib.suppress(ProcessLookupError):
        os.kill(send.to, signal.SIGKILL)
    assert send.lost == [before, before + 1, before + 1]
    assert agent.num_timesteps == 3 * ROLLOUT
    assert send.to not in processes(agent)


def _wait_within(fleet: Any, wait: Any, number: int, future: Any, stopped: int) -> Any:
    """Wait a second for the worker that was stopped, and as long as it takes for the others."""
    fleet._timeout = 1.0 if stopped and not fleet._in_a_row[1] else 600.0
    return wait(number, future)


def test_what_an_environment_raises_comes_back_as_it_was_raised(agent):
    agent.env.env_method("fail", True, indices=[3])
    with pytest.raises(KeyError, match="no such joint"):
        agent.learn(ROLLOUT)
    agent.env.env_method("fail", False, indices=[3])
    assert agent.learn(ROLLOUT).num_timesteps == ROLLOUT


def test_a_worker_that_is_lost_too_often_ends_the_run_with_the_way_on(agent, monkeypatch):
    monkeypatch.setattr(agent.env.unwrapped.fleet, "_restarts", 0)
    os.kill(processes(agent)[0], signal.SIGKILL)
    with pytest.raises(ConnectionError, match=r"worker 0 was lost 1 times in a row .*rlsd\.resume"):
        agent.learn(ROLLOUT)


def test_environments_that_cannot_be_made_at_a_worker_are_told_of_when_they_are_asked_for(cluster):
    with pytest.raises(ValueError, match="each worker has 2 environments, and the function makes 3") as caught:
        rlsd.RayWorkers(1, 2).vec_env(lambda: DummyVecEnv([Told] * 3))
    assert "\n" not in str(caught.value)


def test_other_versions_at_a_worker_are_named():
    ours = {"rlsd": "1.0", "Python": "3.11"}
    assert ray_fleet.different(ours, ours) == ""
    assert ray_fleet.different(ours, ours | {"rlsd": "1.1"}) == "rlsd 1.0 there and 1.1 here"


def test_more_workers_than_cpus_share_them_and_are_warned_of():
    assert ray_fleet.share_of(4, 4) == 1
    with pytest.warns(UserWarning, match="6 workers share 4 CPUs: more than 4 are worth it only where"):
        share = ray_fleet.share_of(4, 6)
    assert 6 * share <= 4


def test_nobody_at_an_address_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no Ray cluster at '{address}': nobody answered within 10 s") as caught:
            rlsd.RayWorkers(1, 1, address=address).vec_env(Told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("setting", "value"), [("timeout", 0), ("restarts", -1), ("elastic", 2)])
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be"):
        rlsd.RayWorkers(1, 1, **{setting: value})
