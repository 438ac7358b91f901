"""Hyperparameters: looked up, changed, checked, and made into objects without evaluating anything."""

import numpy as np
import pytest
import stable_baselines3
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.utils import LinearSchedule

from rlsd.cli import tuned
from rlsd.cli.errors import UserError
from rlsd.cli.plan import ALGORITHMS

VECTOR = spaces.Box(-1, 1, (3,))


def entries():
    for algo in ALGORITHMS:
        table = yaml.safe_load((tuned.TABLES / f"{algo}.yml").read_text())
        yield from ((algo, key) for key in table)


@pytest.mark.parametrize(("algo", "key"), list(entries()))
def test_every_entry_of_the_tables_is_valid(algo, key):
    found = tuned.look_up(algo, key, VECTOR, {})
    values = tuned.check(found.values, getattr(stable_baselines3, ALGORITHMS[algo]))
    params = tuned.Hyperparams(values, found.source)
    assert params.n_envs >= 1, "no environments"
    assert params.n_timesteps >= 10_000, "no training"
    assert params.agent_kwargs().keys().isdisjoint({"n_envs", "n_timesteps", "normalize", "policy"}), "ours leak out"


def test_cartpole_has_rl_zoo3s_figures():
    params = tuned.look_up("ppo", "CartPole-v1", VECTOR, {})
    kwargs = params.agent_kwargs()
    assert (params.n_envs, params.n_timesteps) == (8, 100_000), "run"
    assert (kwargs["n_steps"], kwargs["batch_size"], kwargs["n_epochs"], kwargs["gamma"]) == (32, 256, 20, 0.98), "PPO"
    assert isinstance(kwargs["learning_rate"], LinearSchedule), "SB3's own class unpickles where rlsd is missing"
    assert kwargs["learning_rate"](0.5) == pytest.approx(0.0005), "half way down"


def test_another_version_of_an_environment_gets_the_same_figures():
    assert tuned.look_up("ppo", "Hopper-v4", VECTOR, {}).source == "tuned for Hopper-v5", "Hopper-v4 is as Hopper-v5"
    assert tuned.look_up("ppo", "Own-v0", VECTOR, {}).source == "PPO defaults", "unknown environments get the defaults"


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (VECTOR, "MlpPolicy"),
        (spaces.Discrete(4), "MlpPolicy"),
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), "CnnPolicy"),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), "CnnPolicy"),
        (spaces.Box(0, 255, (10, 10, 3), np.uint8), "MlpPolicy"),
        (spaces.Dict({"a": VECTOR}), "MultiInputPolicy"),
    ],
)
def test_the_policy_follows_from_what_is_observed(space, policy):
    assert tuned.look_up("ppo", "Own-v0", space, {}).policy == policy, f"for {space}"
    assert tuned.look_up("ppo", "Own-v0", space, {"policy": "X"}).policy == "X", "a policy that is named wins"


def test_normalisation_uses_the_agents_discount():
    values = {"normalize": True, "gamma": 0.9}
    assert tuned.Hyperparams(values, "").normalize == {"gamma": 0.9}, "discount"
    values = {"normalize": {"norm_reward": False}, "gamma": 0.9}
    assert tuned.Hyperparams(values, "").normalize == {"gamma": 0.9, "norm_reward": False}, "mapping"
    assert tuned.Hyperparams({"normalize": False}, "").normalize is None, "none was wanted"


def test_policy_kwargs_name_their_activation():
    params = tuned.Hyperparams({"policy_kwargs": {"activation_fn": "nn.ReLU", "net_arch": [8]}}, "")
    assert params.agent_kwargs()["policy_kwargs"] == {"activation_fn": torch.nn.ReLU, "net_arch": [8]}, "activation"


def test_whole_numbers_written_as_floats_are_whole_numbers():
    checked = tuned.check({"n_timesteps": 1e5, "n_steps": 8.0}, stable_baselines3.PPO)
    assert all(type(value) is int for value in checked.values()), "range() would refuse them"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gama": 0.9}, "unknown hyperparameter 'gama' for PPO; did you mean gamma"),
        ({"seed": 3}, "unknown hyperparameter 'seed'"),
        ({"n_steps": -1}, "n_steps must be a whole number >= 1, got -1"),
        ({"n_steps": 1.5}, "n_steps must be a whole number"),
        ({"n_steps": True}, "n_steps must be a whole number"),
        ({"gamma": 1.5}, r"gamma must be a number in \[0, 1\], got 1.5"),
        ({"gamma": float("nan")}, "gamma must be"),
        ({"learning_rate": -0.1}, "learning_rate must be a number >= 0 or lin_NUMBER, got -0.1"),
        ({"learning_rate": "lin_x"}, "learning_rate must be"),
        ({"policy_kwargs": 3}, "policy_kwargs must be a mapping"),
        ({"policy_kwargs": {"features_extractor_class": "os"}}, "unknown policy_kwargs"),
        ({"policy_kwargs": {"activation_fn": "Module"}}, "unknown activation_fn 'Module'"),
        ({"normalize": 3}, "normalize must be"),
        ({"normalize": {"norm": True}}, "unknown key 'norm' in normalize"),
    ],
)
def test_a_wrong_hyperparameter_is_named(values, message):
    with pytest.raises(UserError, match=message):
        tuned.check(values, stable_baselines3.PPO)
