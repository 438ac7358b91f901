import cloudpickle
import gymnasium as gym
import pytest
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from toy_environments import Bonus, Counter

from rlsd_envs.single import SingleEnv


def test_it_is_monitored_and_wrapped():
    env = SingleEnv(Counter, wrappers=[Bonus])()
    assert isinstance(env, Bonus)
    assert isinstance(env.env, Monitor)
    assert not is_wrapped(SingleEnv(Counter).bare(), Monitor)


def test_pictures_can_be_made_unless_the_user_says_otherwise():
    spec = gym.spec("CartPole-v1")
    assert SingleEnv(spec)().render_mode == "rgb_array"
    assert SingleEnv(spec, {"render_mode": None})().render_mode is None


def test_the_action_space_has_its_own_seed():
    spaces = [SingleEnv(Counter, action_seed=seed)().action_space for seed in (1, 1, 2)]
    samples = [[space.sample() for _ in range(20)] for space in spaces]
    assert samples[0] == samples[1] != samples[2]


def test_another_process_needs_no_registry():
    gym.register("Fleeting-v0", entry_point="toy_environments:Counter", max_episode_steps=4)
    sent = cloudpickle.dumps(SingleEnv(gym.spec("Fleeting-v0")))
    del gym.registry["Fleeting-v0"]
    env = cloudpickle.loads(sent)()
    assert env.spec.id == "Fleeting-v0"
    assert env.spec.max_episode_steps == 4


def test_minigrids_observations_are_vectors_as_in_rl_zoo3_unless_the_user_wraps_them():
    wrappers = pytest.importorskip("minigrid.wrappers", reason="pip install 'rlsd[envs]' brings minigrid")
    spec = gym.spec("MiniGrid-Empty-5x5-v0")
    env = SingleEnv(spec)()
    assert isinstance(env, wrappers.FlatObsWrapper) and len(env.observation_space.shape) == 1
    assert env.observation_space.contains(env.reset(seed=0)[0])
    assert SingleEnv(spec, wrappers=[wrappers.ImgObsWrapper])().observation_space.shape == (7, 7, 3)
