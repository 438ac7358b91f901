import warnings

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from rlsd_envs import UnsupportedByBackend, make_vec_env

pytest.importorskip("envpool")


def make(env_id, n_envs=4, seed=3, **kwargs):
    return make_vec_env(env_id, n_envs, "envpool", seed=seed, env_kwargs=kwargs, vec_env_kwargs={"num_threads": 2})


def rollout(env, n_steps, seed=0):
    generator = np.random.default_rng(seed)
    for _ in range(n_steps):
        yield env.step(generator.integers(0, env.action_space.n, env.num_envs))


def test_episodes_go_over_in_the_same_step():
    env = make("CartPole-v1")
    observations = env.reset()
    state = observations.astype(np.float64)
    lengths = np.zeros(4, int)
    for observations, rewards, ends, infos in rollout(env, 100):
        lengths += 1
        state = observations.astype(np.float64)
        assert rewards.dtype == np.float32
        for index in np.flatnonzero(ends):
            assert np.abs(state[index]).max() <= 0.05, "the first observation of the next episode"
            assert np.abs(infos[index]["terminal_observation"]).max() > 0.05
            assert infos[index]["episode"]["l"] == lengths[index] == infos[index]["episode"]["r"]
            lengths[index] = 0
        assert all(not info for info, end in zip(infos, ends, strict=True) if not end)
    env.close()


def test_the_action_after_an_end_is_not_lost():
    env = make("CartPole-v1", n_envs=1)
    env.reset()
    previous = None
    for observations, _, ends, _ in rollout(env, 60):
        if previous is not None:
            assert not np.array_equal(observations, previous), "EnvPool itself would ignore this action"
        previous = observations.copy() if ends[0] else None
    env.close()


def test_time_limits_are_told_apart():
    env = make("Pendulum-v1", max_episode_steps=5)
    env.reset()
    for step in range(1, 11):
        _, _, ends, infos = env.step(np.zeros((4, 1), np.float32))
        assert ends.tolist() == [step % 5 == 0] * 4
        assert all(info.get("TimeLimit.truncated", False) == (step % 5 == 0) for info in infos)
    env.close()


def test_seeds_repeat_the_run_and_differ_between_environments():
    env = make("CartPole-v1", seed=3)
    first = env.reset()
    assert len(np.unique(first[:, 0])) == 4
    one_later = make("CartPole-v1", seed=4).reset()
    assert np.array_equal(first[1:], one_later[:-1]), "environment i has the seed + i"
    steps = [step[0].copy() for step in rollout(env, 20)]
    env.seed(3)
    assert np.array_equal(env.reset(), first)
    assert np.array_equal(steps, [step[0] for step in rollout(env, 20)])
    assert not np.array_equal(env.reset(), first), "a seed is used once"
    env.close()


def test_the_spaces_are_gymnasiums_where_the_environments_agree():
    env, single = make("Pendulum-v1"), make_vec_env("Pendulum-v1")
    assert env.observation_space == single.observation_space
    assert env.action_space == single.action_space
    assert "spaces and the episode limit of Gymnasium" in env.describe_backend()


def test_a_different_limit_is_reported():
    assert "77 steps at most instead of 200" in make("Pendulum-v1", max_episode_steps=77).describe_backend()


def test_dictionaries():
    env = make("MiniGrid-Empty-5x5-v0")
    assert env.reset()["image"].shape == (4, 7, 7, 3)
    last = list(rollout(env, 100))[-1]
    assert last[3][0]["terminal_observation"]["image"].shape == (7, 7, 3)
    env.close()


def test_a_lost_life_ends_the_episode_but_not_the_game():
    env = make("Breakout-v5", episodic_life=True, reward_clip=True)
    env.reset()
    lives_lost, games = 0, 0
    for _, _, ends, infos in rollout(env, 400):
        for index in np.flatnonzero(ends):
            lives_lost += 1
            if "episode" in infos[index]:
                games += 1
                assert infos[index]["lives"] == 0
            else:
                assert infos[index]["lives"] > 0
    assert lives_lost > games > 0
    env.close()


def test_pictures():
    env = make("CartPole-v1", render_mode="rgb_array")
    env.reset()
    assert np.array(env.get_images()).shape == (4, 400, 600, 3)
    env.close()


def test_ppo_trains_in_it_and_counts_its_episodes():
    agent = PPO("MlpPolicy", make("CartPole-v1", n_envs=8), n_steps=16, batch_size=64, device="cpu", seed=0)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    agent.learn(256)
    assert agent.num_timesteps == 256
    assert len(agent.ep_info_buffer) > 0, "no episode ended, or its return was lost"
    assert not all(torch.equal(value, before[name]) for name, value in agent.policy.state_dict().items())


def test_procgen_takes_its_levels():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = make("CoinrunEasy-v0", num_levels=1, start_level=7)
    except ImportError as error:
        pytest.skip(f"Procgen needs Debian's libqt5core5a and libqt5gui5: {error}")
    first = env.reset()
    assert all(np.array_equal(first[0], other) for other in first[1:]), "one level, one first picture"
    env.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("CartPol-v1", {}, "Unknown environment 'CartPol-v1' in EnvPool. Did you mean CartPole-v1"),
        ("CartPole-v1", {"moon": 1}, "does not take these settings"),
    ],
)
def test_what_envpool_lacks_is_said(env_id, kwargs, words):
    with pytest.raises(UnsupportedByBackend, match=words):
        make(env_id, **kwargs)


def test_options_of_a_reset_are_refused():
    env = make("CartPole-v1")
    env.set_options({"low": 0.0})
    with pytest.raises(UnsupportedByBackend, match="low"):
        env.reset()
