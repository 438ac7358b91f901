"""The numbers of a saved VecNormalize: the same as unpickling gives, and nothing run."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from helpers import normalized_env, vec_env
from stable_baselines3.common.vec_env import VecNormalize

from rlsd.io.statistics_file import read_statistics


@pytest.fixture
def saved(tmp_path):
    env = normalized_env()
    env.obs_rms.update(np.random.default_rng(0).normal(size=(9, *env.observation_space.shape)))
    env.ret_rms.update(np.arange(5.0))
    env.save(str(tmp_path / "vecnormalize.pkl"))
    return env, tmp_path / "vecnormalize.pkl"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_numbers_are_those_that_were_saved(protocol, saved):
    env, file = saved
    file.write_bytes(pickle.dumps(VecNormalize.load(str(file), vec_env()), protocol))
    found = read_statistics(file)
    for mine, theirs in ((found.obs_rms, env.obs_rms), (found.ret_rms, env.ret_rms)):
        assert np.array_equal(mine.mean, theirs.mean)
        assert np.array_equal(mine.var, theirs.var)
        assert mine.count == theirs.count
    assert (found.clip_obs, found.epsilon, found.norm_obs) == (env.clip_obs, env.epsilon, env.norm_obs)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "change",
    [
        lambda env: Evil(),
        lambda env: [1],
        lambda env: setattr(env.obs_rms, "mean", env.obs_rms.mean * np.nan),
        lambda env: setattr(env.obs_rms, "var", -env.obs_rms.var),
        lambda env: setattr(env.obs_rms, "var", np.ones(7)),
        lambda env: setattr(env.obs_rms, "mean", np.asarray([Evil()])),
        lambda env: setattr(env, "obs_rms", Evil()),
        lambda env: setattr(env, "clip_obs", float("inf")),
        lambda env: setattr(env, "epsilon", Evil()),
    ],
)
def test_what_no_training_leaves_is_refused_and_nothing_is_run(change, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env, file = saved
    file.write_bytes(pickle.dumps(change(env) or env))
    with pytest.raises(ValueError, match=r"^it |^its |^one of its"):
        read_statistics(file)
    assert not (tmp_path / "ran").exists()


def test_code_in_what_is_not_read_is_not_run(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env, file = saved
    env.note = Evil()
    env.save(str(file))
    assert read_statistics(file).norm_obs
    assert not (tmp_path / "ran").exists()
