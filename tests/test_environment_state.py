"""A vector environment, frozen in the middle of its episodes and thawed, goes on as if nothing had happened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import KINDS, TinyEnv, differences, make_env, untouched_generators
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from rlsd.environment_state import freeze, thaw


def steps(env: VecEnv, number: int) -> list[Any]:
    """What some steps give, but for the clock's reading."""
    given = []
    for _ in range(number):
        actions = np.stack([np.full(env.action_space.shape, 0, dtype=env.action_space.dtype)] * env.num_envs)
        observations, rewards, dones, infos = env.step(actions)
        episodes = [(info["episode"]["r"], info["episode"]["l"]) for info in infos if "episode" in info]
        given.append((observations, rewards, dones, episodes))
    return given


@pytest.mark.parametrize("kind", KINDS)
def test_a_thawed_environment_goes_on_in_the_middle_of_its_episodes(kind: str) -> None:
    env = make_env(kind)
    env.seed(5)
    env.reset()
    steps(env, 7)
    with untouched_generators():
        data = freeze(env)
    expected = steps(env, 20)
    assert any(done.any() for _, _, done, _ in expected), "no episode ended, so little was shown"
    with untouched_generators():
        twin = thaw(data)
    assert type(twin) is type(env)
    assert not differences(expected, steps(twin, 20))


def test_freezing_leaves_the_environment_alone() -> None:
    env, untouched = make_env("normalized"), make_env("normalized")
    for each in (env, untouched):
        each.seed(5)
        each.reset()
    freeze(env)
    assert not differences(steps(untouched, 9), steps(env, 9))


def test_wrappers_on_wrappers_are_thawed_and_the_statistics_are_apart() -> None:
    spec = KINDS["dict"]
    image = spec.observations.spaces["image"]  # type: ignore[attr-defined]
    env = VecMonitor(VecFrameStack(DummyVecEnv([lambda: TinyEnv(image, spec.actions)] * 2), 2))
    normalized = VecNormalize(VecTransposeImage(env), norm_obs=False)
    normalized.seed(1)
    normalized.reset()
    steps(normalized, 6)
    twin = thaw(freeze(normalized))
    returns = normalized.ret_rms.mean.copy()
    assert not differences(steps(normalized, 12), steps(twin, 12))
    steps(twin, 12)
    assert normalized.ret_rms.mean != returns
    assert normalized.ret_rms is not twin.ret_rms  # type: ignore[attr-defined]
    assert twin.get_attr("length") == [5, 5], "attributes of the inner environments are still within reach"
    with pytest.raises(AttributeError):
        twin.get_attr("nothing")


def test_a_gymnasium_wrapper_is_thawed_too() -> None:
    spec = KINDS["discrete"]
    env = DummyVecEnv([lambda: TimeLimit(TinyEnv(spec.observations, spec.actions, length=50), 4)])
    env.seed(1)
    env.reset()
    steps(env, 3)
    assert not differences(steps(thaw(freeze(env)), 9), steps(env, 9))


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[DummyVecEnv]:
    spec = KINDS["discrete"]
    names = [str(tmp_path / "logs" / str(i)) for i in range(2)]
    env = DummyVecEnv([lambda n=n: Monitor(TinyEnv(spec.observations, spec.actions), n) for n in names])  # type: ignore[misc]
    env.seed(1)
    env.reset()
    yield env
    env.close()


def test_monitor_files_are_continued(monitored: DummyVecEnv, tmp_path: Path) -> None:
    steps(monitored, 12)
    files = sorted((tmp_path / "logs").iterdir())
    before = [file.read_text() for file in files]
    twin = thaw(freeze(monitored))
    steps(twin, 8)
    twin.close()
    for file, text in zip(files, before, strict=True):
        assert file.read_text().startswith(text), "the rows that were there stay"
        rows = file.read_text().splitlines()
        assert len(rows) == 2 + 4, "a header of two lines, then an episode for each five of the 20 steps"
        assert sum(row.startswith("#") for row in rows) == 1


def test_monitor_files_that_were_moved_away_are_made_anew(monitored: DummyVecEnv, tmp_path: Path) -> None:
    steps(monitored, 7)
    data = freeze(monitored)
    (tmp_path / "logs").rename(tmp_path / "elsewhere")
    twin = thaw(data)
    steps(twin, 8)
    twin.close()
    assert len(list((tmp_path / "logs").iterdir())) == 2


def test_worker_processes_are_out_of_reach_and_that_is_said() -> None:
    spec = KINDS["discrete"]
    env = SubprocVecEnv([lambda: TinyEnv(spec.observations, spec.actions)], start_method="forkserver")
    try:
        with pytest.raises(ValueError, match="live in worker processes"):
            freeze(env)
        with pytest.raises(ValueError, match="live in worker processes"):
            freeze(VecNormalize(env))
    finally:
        env.close()


class Unpicklable(TinyEnv):
    """An environment with something in it that no pickle can hold."""

    def __init__(self) -> None:
        super().__init__(KINDS["discrete"].observations, KINDS["discrete"].actions)
        self.lock = threading.Lock()


class Refuses(TinyEnv):
    """An environment that fails in a way of its own when it is pickled."""

    def __init__(self) -> None:
        super().__init__(KINDS["discrete"].observations, KINDS["discrete"].actions)

    def __getstate__(self) -> Any:
        raise ZeroDivisionError("no\nstate")


@pytest.mark.parametrize(
    ("env", "reason"), [(Unpicklable, "TypeError: .*lock"), (Refuses, "ZeroDivisionError: no state")]
)
def test_what_cannot_be_pickled_is_named(env: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"it cannot be pickled: {reason}") as caught:
        freeze(DummyVecEnv([env]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"nothing", b"\x80\x05"])
def test_data_that_is_damaged_is_a_valueerror(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        thaw(data)


class MadeFromArguments(TinyEnv, EzPickle):
    """As Gymnasium's MuJoCo and Box2D environments, by itself it is pickled as its constructor's arguments alone."""

    def __init__(self, keep: Any = None) -> None:
        EzPickle.__init__(self)
        super().__init__(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2))
        self.keep = keep


def test_an_environment_that_pickles_its_arguments_alone_keeps_its_state() -> None:
    env = DummyVecEnv([lambda: Monitor(MadeFromArguments())])
    env.seed(0)
    env.reset()
    steps(env, 3)
    thawed = thaw(freeze(env))
    assert not differences(steps(env, 20), steps(thawed, 20))


def test_where_its_state_cannot_be_read_it_is_refused_and_made_anew_for_who_resets_it() -> None:
    env = DummyVecEnv([lambda: Monitor(MadeFromArguments(threading.Lock()))])
    env.reset()
    with pytest.raises(ValueError, match="cannot be pickled"):
        freeze(env)
    made = thaw(freeze(env, to_reset=True))
    assert made.reset().shape == env.reset().shape


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_mujoco_goes_on_in_the_middle_of_an_episode(name: str) -> None:
    pytest.importorskip("mujoco")
    import gymnasium

    env = DummyVecEnv([lambda: Monitor(gymnasium.make(name))])
    env.seed(0)
    env.reset()
    steps(env, 10)
    thawed = thaw(freeze(env))
    assert not differences(steps(env, 10), steps(thawed, 10))


def test_box2d_which_nobody_can_read_is_refused() -> None:
    pytest.importorskip("Box2D")
    import gymnasium

    env = DummyVecEnv([lambda: Monitor(gymnasium.make("LunarLander-v3"))])
    env.reset()
    with pytest.raises(ValueError, match="SwigPyObject"):
        freeze(env)
    thaw(freeze(env, to_reset=True)).reset()
