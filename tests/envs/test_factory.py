import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from toy_environments import Bonus, Counter

from rlsd_envs import BackendNotInstalled, UnknownEnvironment, UnsupportedByBackend, make_vec_env


def run(env, n_steps=300):
    """Return every number of a run with fixed actions."""
    generator = np.random.default_rng(0)
    history = [env.reset()]
    for _ in range(n_steps):
        observations, rewards, ends, infos = env.step(generator.integers(0, 2, env.num_envs))
        episodes = [(i["episode"]["r"], i["episode"]["l"]) for i in infos if "episode" in i]
        history += [observations, rewards, ends, np.array(episodes)]
    env.close()
    return history


def assert_same_runs(left, right):
    for mine, theirs in zip(left, right, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "dummy", "gymnasium"])
@pytest.mark.parametrize("n_envs", [1, 8])
def test_the_same_seed_gives_sb3s_run_with_every_exact_backend(backend, n_envs):
    env = make_vec_env("CartPole-v1", n_envs, backend, seed=5)
    assert isinstance(env, VecEnv)
    assert_same_runs(run(env), run(sb3_make_vec_env("CartPole-v1", n_envs, seed=5)))


def test_without_a_seed_numpys_global_generator_decides_as_in_sb3():
    np.random.seed(1)  # noqa: NPY002  (SB3 itself draws from it)
    mine = make_vec_env("CartPole-v1", 8).reset()
    np.random.seed(1)  # noqa: NPY002  (SB3 itself draws from it)
    assert np.array_equal(mine, sb3_make_vec_env("CartPole-v1", 8).reset())


def test_a_seed_may_be_numpys():
    assert np.array_equal(
        make_vec_env("CartPole-v1", 2, seed=np.int64(4)).reset(), make_vec_env("CartPole-v1", 2, seed=4).reset()
    )


def test_seeds_one_by_one():
    observations = make_vec_env("CartPole-v1", 8, seed=[4] * 7 + [9]).reset()
    assert np.array_equal(observations[0], observations[6])
    assert not np.array_equal(observations[0], observations[7])


@pytest.mark.parametrize(
    ("kwargs", "backend", "why"),
    [
        ({"id": "CartPole-v1", "n_envs": 8}, "gymnasium", "same trajectories"),
        ({"id": "CartPole-v0", "n_envs": 64}, "gymnasium", "same trajectories"),
        ({"id": "CartPole-v1", "n_envs": 8, "env_kwargs": {"max_episode_steps": 50}}, "gymnasium", "same"),
        ({"id": "CartPole-v1", "n_envs": 1}, "dummy", "fewer than"),
        ({"id": "Acrobot-v1", "n_envs": 8}, "dummy", "no faster backend is known to run exactly Acrobot-v1"),
        ({"id": "CartPole-v1", "n_envs": 8, "wrappers": [Bonus]}, "dummy", "wrappers"),
        ({"id": Counter, "n_envs": 8}, "dummy", "function"),
    ],
)
def test_auto_says_what_it_chose_and_why(kwargs, backend, why):
    env = make_vec_env(**kwargs)
    assert env.backend == backend
    assert why in env.backend_reason
    assert VecNormalize(env).backend == backend, "reachable through SB3's wrappers"
    assert backend in env.describe_backend()
    env.close()


@pytest.mark.parametrize("limit", [None, 30])
def test_auto_keeps_the_episode_limit(limit):
    kwargs = {} if limit is None else {"max_episode_steps": limit}
    env = make_vec_env("CartPole-v1", 8, seed=0, env_kwargs=kwargs)
    assert env.env.max_episode_steps == (limit or 500)
    env.close()


def test_wrappers_go_around_the_monitored_environment_in_order():
    env = make_vec_env(Counter, 1, seed=0, wrappers=[Bonus, lambda e: TimeLimit(e, 2)])
    plain = make_vec_env(Counter, 1, seed=0)
    env.reset(), plain.reset()
    assert env.step(np.array([1]))[1] == pytest.approx(plain.step(np.array([1]))[1] + 1)
    assert env.step(np.array([1]))[3][0]["TimeLimit.truncated"]
    assert make_vec_env(Counter, 1, wrappers=Bonus).env_is_wrapped(Bonus) == [True], "a single one needs no list"


@pytest.mark.parametrize("backend", ["dummy", "gymnasium"])
def test_monitor_files(tmp_path, backend):
    env = make_vec_env("CartPole-v1", 8, backend, seed=0, monitor_dir=tmp_path / "logs")
    episodes = sum(len(e) for e in run(env, 100)[4::4])
    lines = [f.read_text().splitlines() for f in (tmp_path / "logs").glob("*.monitor.csv")]
    assert len(lines) == (8 if backend == "dummy" else 1)
    assert all('"env_id": "CartPole-v1"' in file[0] for file in lines)
    assert sum(len(file) - 2 for file in lines) == episodes > 0


def test_render_modes():
    for backend in ("dummy", "gymnasium"):
        assert make_vec_env("CartPole-v1", 8, backend).render_mode == "rgb_array"
        env = make_vec_env("CartPole-v1", 8, backend, env_kwargs={"render_mode": None})
        assert env.render_mode is None


def test_step_infos_can_be_left_out():
    env = make_vec_env(Counter, 2, "gymnasium", seed=0, step_infos=False)
    env.reset()
    assert env.step(np.array([0, 0]))[3] == [{}, {}]


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"id": "CartPol-v1"}, UnknownEnvironment, "Did you mean CartPole-v1"),
        ({"id": "CartPole-v1", "backend": "gpu"}, ValueError, "Unknown backend 'gpu'; there are auto, dummy"),
        ({"id": "CartPole-v1", "n_envs": 0}, ValueError, "n_envs=0"),
        ({"id": "CartPole-v1", "n_envs": 3, "seed": [1, 2]}, ValueError, "2 seeds given for 3 environments"),
        ({"id": "CartPole-v1", "backend": "gymnasium", "wrappers": [Bonus]}, UnsupportedByBackend, "wrappers"),
        ({"id": "CartPole-v1", "backend": "gymnasium", "vec_env_kwargs": {"a": 1}}, UnsupportedByBackend, "'a'"),
        ({"id": "CartPole-v1", "backend": "dummy", "vec_env_kwargs": {"a": 1}}, UnsupportedByBackend, "no settings"),
        ({"id": "CartPole-v1", "vec_env_kwargs": {"timeout": 1}}, ValueError, "name the backend"),
        ({"id": Counter, "backend": "ale"}, (BackendNotInstalled, UnsupportedByBackend), "ale"),
        ({"id": "CartPole-v1", "backend": "gymnasium", "env_kwargs": {"moon": 1}}, UnsupportedByBackend, "moon"),
    ],
)
def test_what_cannot_be_made_is_refused(kwargs, error, words):
    with pytest.raises(error, match=words):
        make_vec_env(**kwargs)


@pytest.mark.parametrize(("backend", "module"), [("envpool", "rlsd_envs.pool"), ("ale", "rlsd_envs.ale")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, backend, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(BackendNotInstalled, match=r"pip install 'rlsd\[fast\]'"):
        make_vec_env("CartPole-v1", backend=backend)
