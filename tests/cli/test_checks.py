"""Hyperparameters are checked before anything is made of them."""

import pytest
import sb3_contrib
import stable_baselines3

from rlsd.cli.checks import check, check_together
from rlsd.cli.errors import UserError


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
