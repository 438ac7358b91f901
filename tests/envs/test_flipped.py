import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env

from rlsd_envs import Flipped, make_vec_env

TASKS = [("rlsd_envs/CartPoleFlip-v1", "CartPole-v1"), ("rlsd_envs/PendulumFlip-v1", "Pendulum-v1")]


class Free(gym.Env):
    """An environment with the spaces it is given."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


def vector(n=2):
    return spaces.Box(-1, 1, (n,))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("task", "plain"), TASKS)
def test_the_task_is_the_environment_with_its_actions_inverted_and_a_bit(task, plain, flipped):
    ours, theirs = gym.make(task, flipped=flipped), gym.make(plain)
    ours.action_space.seed(0)
    seen, _ = ours.reset(seed=3)
    expected, _ = theirs.reset(seed=3)
    for _ in range(300):
        assert seen.tolist() == [*expected.tolist(), float(flipped)], "observation"
        assert seen.dtype == ours.observation_space.dtype, "type"
        assert ours.observation_space.contains(seen), "outside of its space"
        action = ours.action_space.sample()
        opposite = 1 - action if plain == "CartPole-v1" else -action
        seen, *rest, _ = ours.step(action)
        expected, *same, _ = theirs.step(opposite if flipped else action)
        assert rest == same, "reward or end"
        if rest[1] or rest[2]:
            (seen, _), (expected, _) = ours.reset(), theirs.reset()


@pytest.mark.parametrize(("task", "plain"), TASKS)
def test_it_passes_sb3s_checks(task, plain):
    check_env(gym.make(task, flipped=True), warn=False)
    check_env(Flipped(gym.make(plain), flipped=True), warn=False)


@pytest.mark.parametrize(
    ("space", "action", "inverse"),
    [
        (spaces.Discrete(3), 0, 2),
        (spaces.Discrete(3, start=5), 6, 6),
        (spaces.Discrete(2, start=-1), -1, 0),
        (spaces.Box(-2, 2, (1,)), [0.5], [-0.5]),
        (spaces.Box(np.float32([0, -1]), np.float32([1, 1])), [0.25, 1.0], [0.75, -1.0]),
    ],
)
def test_the_inverse_stays_in_the_space_and_undoes_itself(space, action, inverse):
    env = Flipped(Free(vector(), space), flipped=True)
    given = space.dtype.type(action) if np.isscalar(action) else np.asarray(action, space.dtype)
    assert np.array_equal(env.inverse(given), inverse), "inverse"
    assert space.contains(env.inverse(given)), "outside of the space"
    assert np.array_equal(env.inverse(env.inverse(given)), given), "twice is not once"


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Discrete(4), spaces.Discrete(2), "observations that are vectors, not to Discrete"),
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2), "vectors"),
        (vector(), spaces.Box(-np.inf, np.inf, (1,)), "bounds"),
        (vector(), spaces.MultiBinary(2), "discrete actions"),
    ],
)
def test_spaces_it_cannot_do_are_named(observation, action, message):
    with pytest.raises(ValueError, match=message):
        Flipped(Free(observation, action), flipped=True)


def test_a_flag_that_is_no_flag_is_an_error():
    with pytest.raises(ValueError, match="flipped must be true or false, got 'no'"):
        Flipped(gym.make("CartPole-v1"), flipped="no")


@pytest.mark.parametrize(("task", "plain"), TASKS)
def test_every_way_of_making_it_takes_the_flag(task, plain):
    settings = {"flipped": True}
    for env in (
        make_vec_env(task, 2, seed=0, env_kwargs=settings),
        make_vec_env(task, 2, seed=0, env_kwargs=settings, backend="gymnasium"),
        make_vec_env(task, 2, seed=0, env_kwargs=settings, backend="subproc"),
        make_vec_env("rlsd_envs/Flip-v1", 2, seed=0, env_kwargs={"env_id": plain, **settings}),
        sb3_make_vec_env(task, 2, seed=0, env_kwargs=settings),
    ):
        assert env.reset()[:, -1].tolist() == [1.0, 1.0], f"bit of {env}"
        env.close()
    env = gym.make_vec(task, 2, **settings)
    assert env.reset()[0][:, -1].tolist() == [1.0, 1.0], "bit of Gymnasium's own"
    env.close()


def test_the_environments_own_settings_and_limit_are_kept():
    env = make_vec_env("rlsd_envs/PendulumFlip-v1", env_kwargs={"g": 0.0, "flipped": True})
    assert env.get_attr("unwrapped")[0].g == 0.0, "gravity"
    env.reset()
    infos = [env.step(np.zeros((1, 1), np.float32))[2:] for _ in range(200)]
    assert infos[-1][0].all() and infos[-1][1][0]["TimeLimit.truncated"], "the limit of 200 steps"
    env.close()
