import gymnasium as gym
import numpy as np
import pytest

from rlsd_envs.cartpole import SeededCartPole


def balancing(observations, generator):
    """Return actions that keep the pole up for hundreds of steps, with some noise."""
    actions = (observations[:, 2] + 0.5 * observations[:, 3] > 0).astype(np.int64)
    return np.where(generator.random(len(actions)) < 0.1, 1 - actions, actions)


@pytest.mark.parametrize("kwargs", [{}, {"sutton_barto_reward": True}])
def test_trajectories_are_those_of_single_environments(kwargs):
    n_envs, generator, ends = 5, np.random.default_rng(0), {"terminated": 0, "truncated": 0}
    vector = SeededCartPole(n_envs, max_episode_steps=500, **kwargs)
    singles = [gym.make("CartPole-v1", **kwargs) for _ in range(n_envs)]
    observations, _ = vector.reset(seed=7)
    assert np.array_equal(observations, [env.reset(seed=7 + i)[0] for i, env in enumerate(singles)])
    for _ in range(1200):
        actions = balancing(observations, generator)
        observations, rewards, terminated, truncated, _ = vector.step(actions)
        steps = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        # The two may differ in the last bit where NumPy computes cosines of arrays in another way than of numbers.
        np.testing.assert_allclose(observations, [step[0] for step in steps], rtol=1e-5, atol=1e-6)
        assert rewards.tolist() == [step[1] for step in steps]
        assert terminated.tolist() == [step[2] for step in steps]
        assert truncated.tolist() == [step[3] for step in steps]
        ends["terminated"] += terminated.sum()
        ends["truncated"] += truncated.sum()
        ended = terminated | truncated
        if ended.any():
            observations, _ = vector.reset(options={"reset_mask": ended})
            for index in np.flatnonzero(ended):
                assert np.array_equal(observations[index], singles[index].reset()[0])
    assert ends["terminated"] > 0
    assert ends["truncated"] > 0


def test_a_partial_reset_leaves_the_others_alone():
    env = SeededCartPole(3)
    env.reset(seed=0)
    before = env.step(np.array([0, 1, 0]))[0]
    after, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert np.array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])
    assert env.steps.tolist() == [1, 0, 1]


def test_seeds_may_be_given_one_by_one():
    env = SeededCartPole(2)
    both, _ = env.reset(seed=[5, 5])
    assert np.array_equal(both[0], both[1])
    one, _ = env.reset(seed=[5, None])
    assert np.array_equal(one[0], both[0])
    assert not np.array_equal(one[1], both[1])


def test_the_bounds_of_the_start_may_be_set_as_in_gymnasium():
    observations, _ = SeededCartPole(4).reset(seed=0, options={"low": 0.01, "high": 0.02})
    assert ((observations >= 0.01) & (observations <= 0.02)).all()
