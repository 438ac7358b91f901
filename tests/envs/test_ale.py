import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from stable_baselines3.common.preprocessing import is_image_space_channels_first

from rlsd_envs import UnsupportedByBackend, make_vec_env

pytest.importorskip("ale_py")


def make(env_id="ALE/Breakout-v5", n_envs=4, seed=3, **kwargs):
    return make_vec_env(env_id, n_envs, "ale", seed=seed, env_kwargs=kwargs, vec_env_kwargs={"num_threads": 2})


def rollout(env, n_steps):
    generator = np.random.default_rng(0)
    for _ in range(n_steps):
        yield env.step(generator.integers(0, env.action_space.n, env.num_envs))


def test_the_spaces_are_those_sb3s_cnn_expects():
    env = make()
    assert env.reset().shape == (4, 4, 84, 84)
    assert env.observation_space.dtype == np.uint8
    assert is_image_space_channels_first(env.observation_space)
    env.close()


def test_training_sees_signs_and_statistics_see_scores():
    env = make("ALE/SpaceInvaders-v5")
    env.reset()
    sums, checked = np.zeros(4), 0
    for _, rewards, ends, infos in rollout(env, 1000):
        assert set(np.unique(rewards)) <= {-1.0, 0.0, 1.0}
        sums += rewards
        for index in np.flatnonzero(ends):
            assert infos[index]["episode"]["r"] > sums[index]
            sums[index], checked = 0.0, checked + 1
    assert checked > 0
    env.close()


def test_a_lost_life_ends_the_episode_but_not_the_game():
    env = make(life_loss_info=True)
    env.reset()
    ended, games = 0, 0
    for observations, _, ends, infos in rollout(env, 400):
        for index in np.flatnonzero(ends):
            ended += 1
            games += "episode" in infos[index]
            if "episode" not in infos[index]:
                assert np.array_equal(infos[index]["terminal_observation"], observations[index])
    assert ended > games > 0
    env.close()


def test_seeds_repeat_the_run():
    runs = []
    for _ in range(2):
        env = make()
        runs.append([env.reset(), *(step[0] for step in rollout(env, 30))])
        env.close()
    assert np.array_equal(*runs)


def test_gymnasiums_own_classes_are_left_alone():
    before = dict(VectorEnv.metadata)
    make().close()
    assert VectorEnv.metadata == before


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("CartPole-v1", {}, "'CartPole-v1' is not an Atari game"),
        ("ALE/Breakout-v5", {"episodic_life": True}, "life_loss_info=True"),
        ("ALE/Breakout-v5", {"render_mode": "human"}, "draws no pictures"),
        ("ALE/Breakout-v5", {"difficulty": 1}, "cannot set 'difficulty'"),
    ],
)
def test_what_it_cannot_do_is_said(env_id, kwargs, words):
    with pytest.raises(UnsupportedByBackend, match=words):
        make(env_id, **kwargs)


def test_gymnasium_sends_atari_here():
    with pytest.raises(UnsupportedByBackend, match="run by backend='ale'"):
        make_vec_env("ALE/Breakout-v5", 2, "gymnasium")
