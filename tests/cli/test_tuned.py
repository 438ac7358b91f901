"""Hyperparameters: looked up, changed, checked, and made into objects without evaluating anything."""

import numpy as np
import pytest
import stable_baselines3
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import LinearSchedule

import rlsd_envs
from rlsd.cli import tuned
from rlsd.cli.checks import check, check_together
from rlsd.cli.errors import UserError
from rlsd.cli.plan import ALGORITHMS, algorithm_class

VECTOR = spaces.Box(-1, 1, (3,))
ACTIONS = spaces.Box(-1, 1, (2,))


def entries():
    for algo in ALGORITHMS:
        table = yaml.safe_load((tuned.TABLES / f"{algo}.yml").read_text())
        yield from ((algo, key) for key in table)


@pytest.mark.parametrize(("algo", "key"), list(entries()))
def test_every_entry_of_the_tables_is_valid(algo, key):
    found = tuned.look_up(algo, key, VECTOR, {})
    values = check(found.values, algorithm_class(algo))
    check_together(values)
    params = tuned.Hyperparams(values, found.source)
    assert params.n_envs >= 1, "no environments"
    assert params.n_timesteps >= 10_000, "no training"
    leaked = {"n_envs", "n_timesteps", "normalize", "policy", "noise_type", "noise_std"}
    assert params.agent_kwargs(ACTIONS).keys().isdisjoint(leaked), "ours leak out"


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


def test_grids_get_their_network_and_atari_games_the_values_of_all_of_them():
    grid = spaces.Box(0, 1, (10, 10, 4), bool)
    found = tuned.look_up("ppo", "MinAtar/Breakout-v1", grid, {}).values["policy_kwargs"]
    assert found == {"features_extractor_class": "GridCnn"}
    own = tuned.look_up("ppo", "MinAtar/Breakout-v1", grid, {"policy_kwargs": {"net_arch": [8]}})
    assert own.values["policy_kwargs"] == {"net_arch": [8]}, "the command line's"
    pictures = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    assert tuned.look_up("ppo", "ALE/Pong-v5", pictures, {}).values["batch_size"] == 256
    assert tuned.look_up("sac", "ALE/Pong-v5", pictures, {}).source == "SAC defaults"


def test_a_memory_follows_from_the_algorithm():
    image = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    for space, policy in ((VECTOR, "MlpLstmPolicy"), (image, "CnnLstmPolicy")):
        assert tuned.look_up("ppo_lstm", "Own-v0", space, {}).policy == policy, f"for {space}"


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


def test_policy_kwargs_name_their_features_extractor():
    values = check({"policy_kwargs": {"features_extractor_class": "GridCnn"}}, stable_baselines3.PPO)
    built = tuned.Hyperparams(values, "").agent_kwargs()["policy_kwargs"]
    assert built == {"features_extractor_class": rlsd_envs.GridCnn}, "class"
    with pytest.raises(UserError, match=r"features_extractor_class 'os.system'; known: GridCnn"):
        check({"policy_kwargs": {"features_extractor_class": "os.system"}}, stable_baselines3.PPO)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"noise_type": "normal", "noise_std": 0.2}, NormalActionNoise),
        ({"noise_std": 0.2}, NormalActionNoise),
        ({"noise_type": "ornstein-uhlenbeck", "noise_std": 0.2}, OrnsteinUhlenbeckActionNoise),
        ({"noise_type": "none", "noise_std": 0.2}, type(None)),
        ({"noise_type": "normal", "noise_std": 0}, type(None)),
    ],
)
def test_noise_has_rl_zoo3s_names(values, expected):
    noise = tuned.Hyperparams(values, "").agent_kwargs(ACTIONS)["action_noise"]
    assert type(noise) is expected, f"for {values}"
    assert noise is None or noise().shape == ACTIONS.shape, "one number per action"


def test_noise_nobody_asked_for_is_left_out():
    assert "action_noise" not in tuned.Hyperparams({"gamma": 0.9}, "").agent_kwargs(ACTIONS), "SB3's default holds"


@pytest.mark.parametrize(
    ("values", "small"),
    [
        ({"policy": "MlpPolicy"}, True),
        ({"policy": "LinearPolicy"}, True),
        ({"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [400, 300]}}, True),
        ({"policy": "MlpPolicy", "policy_kwargs": {"net_arch": {"pi": [256], "qf": [2048, 2048]}}}, False),
        ({"policy": "CnnPolicy"}, False),
    ],
)
def test_small_networks_are_told_from_large_ones(values, small):
    assert tuned.Hyperparams(values, "").small is small, f"for {values}"


@pytest.mark.parametrize(
    ("given", "checked", "built"),
    [(4.0, 4, 4), ([2.0, "step"], [2, "step"], (2, "step")), ((1, "episode"), [1, "episode"], (1, "episode"))],
)
def test_train_freq_is_a_number_or_a_number_of_something(given, checked, built):
    values = check({"train_freq": given}, stable_baselines3.SAC)
    assert values == {"train_freq": checked}, "as it stands in config.yml"
    assert tuned.Hyperparams(values, "").agent_kwargs()["train_freq"] == built, "as SB3 takes it"
