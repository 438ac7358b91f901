import multiprocessing as mp

import numpy as np
import pytest
from stable_baselines3 import PPO
from toy_environments import Counter, Faulty

from rlsd_envs import EnvironmentTimeout, EnvironmentWorkerError, InvalidAction, make_vec_env
from rlsd_envs.workers import _Remote

GOOD, BAD = np.array([0, 1]), np.array([1, 2])


def make(cls, **kwargs):
    timeout = kwargs.pop("timeout", 60.0)
    return make_vec_env(cls, 2, "subproc", seed=3, env_kwargs=kwargs, vec_env_kwargs={"timeout": timeout})


def test_it_runs_what_the_dummy_runs():
    env, expected = make(Counter, kind="dict"), make_vec_env(Counter, 2, "dummy", seed=3, env_kwargs={"kind": "dict"})
    try:
        assert np.array_equal(env.reset()["vector"], expected.reset()["vector"])
        for _ in range(20):
            step, known = env.step(GOOD), expected.step(GOOD)
            assert np.array_equal(step[0]["picture"], known[0]["picture"])
            assert np.array_equal(step[1].astype(np.float32), known[1])
            assert np.array_equal(step[2], known[2])
            for info, other in zip(step[3], known[3], strict=True):
                assert info.get("episode", {}).get("r") == other.get("episode", {}).get("r")
        assert env.get_attr("kind") == ["dict", "dict"]
        assert env.env_method("shifted", 1) == [start + 1 for start in env.get_attr("start")]
        with pytest.raises(InvalidAction, match="environment 1"):
            env.step(np.array([0, 9]))
        env.step(GOOD)
    finally:
        env.close()
    env.close()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("raise", EnvironmentWorkerError, r"raised KeyError\('the pole is gone'\) in step; its last action was 2"),
        ("die", EnvironmentWorkerError, "died with exit code 7 in step; its last action was 2"),
        ("hang", EnvironmentTimeout, "did not answer within 2 s in step; its last action was 2"),
    ],
)
def test_a_failure_names_the_environment_and_ends_cleanly(fault, error, words):
    env = make(Faulty, fault=fault, timeout=2.0 if fault == "hang" else 60.0)
    processes = list(env.processes)
    env.reset()
    env.step(GOOD)
    with pytest.raises(error, match=f"^Environment 1 {words}") as caught:
        env.step(BAD)
    assert caught.value.env_index == 1
    assert caught.value.last_action == 2
    if fault != "die":
        assert "toy_environments.py" in str(caught.value), "where it happened"
    env.close()
    for process in processes:
        with pytest.raises(ValueError, match="closed"):
            process.is_alive()
    assert not mp.active_children()


def test_training_stops_with_the_environments_error():
    env = make(Faulty, fault="raise")
    model = PPO("MlpPolicy", env, n_steps=32, device="cpu", seed=0)
    with pytest.raises(EnvironmentWorkerError, match="the pole is gone"):
        model.learn(1000)
    env.close()
    assert not mp.active_children()


def test_one_that_cannot_be_made_leaves_no_process():
    before = set(mp.active_children())  # of tests before this one, in the same process
    with pytest.raises(EnvironmentWorkerError, match=r"Environment 0 raised OSError.* while it was made; .* no action"):
        make(Faulty, fault="unmade")
    assert set(mp.active_children()) <= before


def test_one_that_died_before_it_was_asked_anything_is_heard_all_the_same(monkeypatch):
    send = _Remote.send

    def late(remote, message):
        remote.process.join(30)
        send(remote, message)

    monkeypatch.setattr(_Remote, "send", late)
    with pytest.raises(EnvironmentWorkerError, match=r"Environment 0 raised OSError.*no simulator here"):
        make(Faulty, fault="unmade")
