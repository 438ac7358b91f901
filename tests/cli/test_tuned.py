"""Hyperparameters: looked up, changed, checked, and made into objects without evaluating anything."""

import numpy as np
import pytest
import sb3_contrib
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


def test_whole_numbers_written_as_floats_are_whole_numbers():
    checked = check({"n_timesteps": 1e5, "n_steps": 8.0}, stable_baselines3.PPO)
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
        ({"policy_kwargs": {"features_extractor_class": "os"}}, "unknown features_extractor_class 'os'"),
        ({"policy_kwargs": {"optimizer_class": "os"}}, "unknown policy_kwargs"),
        ({"policy_kwargs": {"activation_fn": "Module"}}, "unknown activation_fn 'Module'"),
        ({"normalize": 3}, "normalize must be"),
        ({"normalize": {"norm": True}}, "unknown key 'norm' in normalize"),
    ],
)
def test_a_wrong_hyperparameter_is_named(values, message):
    with pytest.raises(UserError, match=message):
        check(values, stable_baselines3.PPO)


RIGHT = [
    (stable_baselines3.SAC, {"ent_coef": "auto"}),
    (stable_baselines3.SAC, {"ent_coef": "auto_0.1"}),
    (stable_baselines3.SAC, {"ent_coef": 0.1, "target_entropy": -3, "use_sde": True, "sde_sample_freq": -1}),
    (stable_baselines3.SAC, {"policy_kwargs": {"log_std_init": -3, "use_expln": True, "n_critics": 1}}),
    (stable_baselines3.DQN, {"gradient_steps": -1, "learning_starts": 0, "exploration_fraction": 0.5}),
    (sb3_contrib.ARS, {"n_top": None, "delta_std": "lin_0.1", "alive_bonus_offset": -1}),
    (sb3_contrib.TQC, {"policy_kwargs": {"n_quantiles": 10}, "top_quantiles_to_drop_per_net": 0}),
    (sb3_contrib.RecurrentPPO, {"policy_kwargs": {"lstm_hidden_size": 8, "enable_critic_lstm": False}}),
]


@pytest.mark.parametrize(("algorithm", "values"), RIGHT)
def test_what_an_algorithm_takes_is_taken(algorithm, values):
    assert check(values, algorithm) == values, "a value was changed"


@pytest.mark.parametrize(
    ("algorithm", "values", "message"),
    [
        (stable_baselines3.DQN, {"exploration_fracton": 0.1}, "did you mean exploration_fraction"),
        (stable_baselines3.DQN, {"noise_std": 0.1}, "unknown hyperparameter 'noise_std' for DQN"),
        (stable_baselines3.TD3, {"action_noise": 1}, "unknown hyperparameter 'action_noise'"),
        (stable_baselines3.TD3, {"noise_typ": "normal"}, "did you mean noise_type"),
        (stable_baselines3.TD3, {"noise_type": "norml"}, "unknown noise_type 'norml'; did you mean normal"),
        (stable_baselines3.TD3, {"noise_std": -1}, "noise_std must be a number >= 0, got -1"),
        (stable_baselines3.TD3, {"policy_kwargs": {"log_std_init": 0}}, "unknown policy_kwargs 'log_std_init' for TD3"),
        (stable_baselines3.SAC, {"train_freq": 0}, r"train_freq must be a whole number >= 1, \[n, step\]"),
        (stable_baselines3.SAC, {"train_freq": [1, "epoch"]}, "train_freq must be"),
        (stable_baselines3.SAC, {"train_freq": "[1"}, "train_freq must be"),
        (stable_baselines3.SAC, {"gradient_steps": 0}, "gradient_steps must be -1 or a whole number >= 1, got 0"),
        (stable_baselines3.SAC, {"buffer_size": 0}, "buffer_size must be"),
        (stable_baselines3.SAC, {"n_envs": None}, "n_envs must be a whole number >= 1, got None"),
        (stable_baselines3.SAC, {"learning_starts": -1}, "learning_starts must be a whole number >= 0"),
        (stable_baselines3.SAC, {"ent_coef": "aut"}, "ent_coef must be a number >= 0 or auto or auto_NUMBER"),
        (stable_baselines3.SAC, {"ent_coef": "auto_0"}, "ent_coef must be"),
        (stable_baselines3.SAC, {"target_entropy": "auto_1"}, "target_entropy must be a number or auto, got"),
        (stable_baselines3.SAC, {"use_sde": 1}, "use_sde must be true or false, got 1"),
        (stable_baselines3.SAC, {"policy": "LinearPolicy"}, "SAC has no policy 'LinearPolicy'; known: MlpPolicy"),
        (stable_baselines3.SAC, {"replay_buffer_class": "os"}, "unknown hyperparameter 'replay_buffer_class'"),
        (stable_baselines3.PPO, {"ent_coef": "auto"}, "ent_coef must be a number >= 0, got 'auto'"),
        (sb3_contrib.ARS, {"n_delta": 0}, "n_delta must be a whole number >= 1"),
        (sb3_contrib.ARS, {"gamma": 0.9}, "unknown hyperparameter 'gamma' for ARS"),
        (sb3_contrib.RecurrentPPO, {"policy": "MlpPolicy"}, "RecurrentPPO has no policy 'MlpPolicy'"),
        (sb3_contrib.CrossQ, {"policy": "CnnPolicy"}, "CrossQ has no policy 'CnnPolicy'; known: MlpPolicy"),
    ],
)
def test_what_an_algorithm_does_not_take_is_named(algorithm, values, message):
    with pytest.raises(UserError, match=message):
        check(values, algorithm)


def test_values_that_contradict_each_other_are_found_before_training():
    with pytest.raises(UserError, match="needs n_envs 1"):
        check_together({"train_freq": [1, "episode"], "n_envs": 2})
    with pytest.raises(UserError, match="n_top 4 is more than the n_delta 2"):
        check_together({"n_delta": 2, "n_top": 4})
    check_together({"train_freq": [1, "episode"], "n_envs": 1, "n_delta": 2, "n_top": None})
