"""torch's checks and threads are as before after ``learn``, however it ends; a broken policy still stops it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from agents import ROLLOUT, build, copied, differences, make_env
from sb3_contrib import TQC, TRPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch.distributions import Distribution

import rlsd
from rlsd.faults import nonfinite_parameter
from rlsd.speed import NOTHING, Speed, validation
from rlsd.speed.validation import is_small, no_validation, one_thread


def test_checks_are_off_inside_only() -> None:
    assert Distribution._validate_args is True
    with pytest.raises(KeyboardInterrupt), no_validation():  # noqa: PT012
        with no_validation():
            assert Distribution._validate_args is False
        assert Distribution._validate_args is False
        raise KeyboardInterrupt
    assert Distribution._validate_args is True


def test_checks_the_user_switched_off_stay_off() -> None:
    Distribution.set_default_validate_args(False)
    try:
        with no_validation():
            pass
        assert Distribution._validate_args is False
    finally:
        Distribution.set_default_validate_args(True)


def test_checks_come_back_when_the_last_of_two_threads_is_done() -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with no_validation():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with no_validation():
        thread.start()
        inside.wait(10)
    assert Distribution._validate_args is False
    leave.set()
    thread.join()
    assert Distribution._validate_args is True


def test_who_needs_checks_inside_has_them() -> None:
    with no_validation():
        with validation.validation(), no_validation(), validation.validation():
            assert Distribution._validate_args is True
        assert Distribution._validate_args is False
    assert Distribution._validate_args is True


#: A step at which every agent acts by itself.
LATER = 2 * ROLLOUT + 4


class Spoils(VecEnvWrapper):
    """Gives NaN for one observation, and takes note of actions that are not finite."""

    def __init__(self, venv: Any, step: int) -> None:
        super().__init__(venv)
        self.spoiled, self.steps, self.sound = step, 0, True

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.sound &= bool(np.isfinite(actions).all())
        super().step_async(actions)

    def step_wait(self) -> Any:
        observations, *rest = self.venv.step_wait()
        self.steps += 1
        if self.steps == self.spoiled:
            parts = observations.values() if isinstance(observations, dict) else [observations]
            next(part for part in parts if part.dtype == np.float32)[0, 0] = np.nan
        return observations, *rest


@pytest.mark.parametrize(
    ("algorithm", "kind", "step"),
    [
        *[(PPO, kind, step) for kind in ("box", "discrete") for step in (3, LATER)],
        *[(A2C, "box", LATER), (PPO, "multidiscrete", 3), (PPO, "gsde", LATER), (PPO, "dict", 3), (TRPO, "box", LATER)],
        *[(SAC, "box", 3), (SAC, "gsde", LATER), (SAC, "box_dict", 3), (TQC, "box", LATER)],
    ],
)
def test_one_observation_that_is_nan_stops_an_agent_where_it_stops_plain_sb3(
    algorithm: type[Any], kind: str, step: int
) -> None:
    """At step 3 an off-policy agent still acts at random, and meets the observation where it samples it."""
    ends = []
    for wrapped, how in ((algorithm, {}), (rlsd.SelfDistilled(algorithm), {"distill": None})):
        env = Spoils(make_env(kind), step)
        agent = build(wrapped, kind, env, **how)
        with pytest.raises(ValueError, match=r"Expected parameter|not finite"):
            agent.learn(3000)
        assert env.sound, "the environment was given NaN to act on"
        assert nonfinite_parameter(agent) is None
        ends.append((env.steps, agent.num_timesteps, copied(agent.policy.state_dict())))
    assert not differences(*ends)
    assert Distribution._validate_args is True


class Breaks(BaseCallback):
    """Makes a parameter NaN at some step, as a diverged loss would."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_rollout_end(self) -> None:
        if self.num_timesteps >= self.step:
            next(self.model.policy.parameters()).data.fill_(float("nan"))

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "box"), (PPO, "discrete"), (SAC, "box"), (DQN, "discrete")])
def test_a_policy_that_is_not_finite_stops_training(algorithm: type[Any], kind: str, monkeypatch: Any) -> None:
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None)
    monkeypatch.setattr(type(agent), "train", lambda *_, **__: None)  # of what it trains to, nobody has to know
    with pytest.raises(ValueError, match=r"parameter '.*' is not finite"):
        agent.learn(2000, callback=Breaks(ROLLOUT))
    assert Distribution._validate_args is True


@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "box"), (SAC, "box"), (DQN, "discrete")])
def test_a_policy_that_is_not_finite_stops_training_in_short_calls(
    algorithm: type[Any], kind: str, monkeypatch: Any
) -> None:
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None)
    monkeypatch.setattr(type(agent), "train", lambda *_, **__: None)
    agent.learn(ROLLOUT, callback=Breaks(ROLLOUT))
    with pytest.raises(ValueError, match=r"parameter '.*' is not finite"):
        agent.learn(ROLLOUT)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two threads that nobody chose."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(validation, "_THREADS_AT_IMPORT", 2)
    for name in validation._SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_small_networks_learn_with_one_thread() -> None:
    agent = build(PPO)
    with pytest.raises(ValueError, match="stop"), one_thread(agent):  # noqa: PT012
        assert torch.get_num_threads() == 1
        raise ValueError("stop")
    assert torch.get_num_threads() == 2
    with one_thread(build(PPO, "image_chw")):
        assert torch.get_num_threads() == 2, "a network of convolutions has work for more"


@pytest.mark.usefixtures("two_threads")
def test_threads_that_were_chosen_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        with one_thread(build(PPO)):
            assert torch.get_num_threads() == 2
    monkeypatch.setattr(validation, "_THREADS_AT_IMPORT", 4)
    with one_thread(build(PPO)):
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("speed", "threads"), [("exact", 2), ("max", 1), (None, 2), (NOTHING, 2)])
def test_only_max_changes_the_threads(speed: Any, threads: int) -> None:
    seen = set()
    agent = build(rlsd.SelfDistilled(PPO), distill=None, speed=speed)
    agent.learn(ROLLOUT, callback=lambda *_: seen.add(torch.get_num_threads()) or True)
    assert seen == {threads}
    assert torch.get_num_threads() == 2


def test_what_is_small_is_said_by_its_parameters() -> None:
    assert is_small(build(PPO))
    assert not is_small(build(PPO, policy_kwargs={"net_arch": [512, 512]}))
    assert Speed().one_thread is False
