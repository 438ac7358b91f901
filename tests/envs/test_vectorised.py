import gymnasium as gym
import pytest
from toy_environments import Counter

from rlsd_envs import UnsupportedByBackend
from rlsd_envs.cartpole import SeededCartPole
from rlsd_envs.vectorised import has_exact_twin, make_gymnasium


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "exact"),
    [
        ("CartPole-v1", {}, True),
        ("CartPole-v1", {"sutton_barto_reward": True, "max_episode_steps": 9, "render_mode": "rgb_array"}, True),
        ("CartPole-v1", {"render_mode": "human"}, False),
        ("CartPole-v1", {"max_episode_steps": -1}, False),
        ("CartPole-v1", {"disable_env_checker": True}, False),
        ("phys2d/CartPole-v1", {}, False),
        ("Acrobot-v1", {}, False),
    ],
)
def test_only_what_is_proven_counts_as_exact(env_id, env_kwargs, exact):
    assert has_exact_twin(gym.spec(env_id), env_kwargs) is exact


def test_an_environment_registered_under_a_known_id_is_not_taken_for_it():
    spec = gym.spec("CartPole-v1")
    spec = gym.envs.registration.EnvSpec(spec.id, Counter, vector_entry_point=spec.vector_entry_point)
    assert not has_exact_twin(spec, {})


def test_settings_reach_the_vectorised_version():
    env, reason = make_gymnasium(gym.spec("CartPole-v0"), 3, {"sutton_barto_reward": True})
    assert isinstance(env, SeededCartPole)
    assert env.max_episode_steps == 200
    assert env._sutton_barto_reward
    assert "same trajectories" in reason


def test_without_a_vectorised_version_it_is_a_loop():
    env, reason = make_gymnasium(Counter, 2, {"kind": "dict"})
    assert env.num_envs == 2
    assert "loops" in reason


def test_settings_that_a_vectorised_version_lacks_are_refused():
    with pytest.raises(UnsupportedByBackend, match="moon"):
        make_gymnasium(gym.spec("CartPole-v1"), 2, {"moon": True})
