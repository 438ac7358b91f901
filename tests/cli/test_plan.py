"""What a run does is settled before anything is made."""

import pytest

import rlsd
from rlsd.cli.errors import UserError
from rlsd.cli.options import TrainOptions
from rlsd.cli.plan import plan_new


def planned(tmp_path, **flags):
    return plan_new(TrainOptions(**{"env": "CartPole-v1", "log_folder": str(tmp_path), **flags}))


def test_a_flag_wins_over_a_hyperparameter_and_that_over_the_table(tmp_path):
    assert planned(tmp_path).hyperparams.n_envs == 8, "rl_zoo3's"
    assert planned(tmp_path, hyperparams=("n_envs:3", "gamma:0.5")).hyperparams.n_envs == 3
    plan = planned(tmp_path, hyperparams=("n_envs:3", "gamma:0.5"), n_envs=2, n_timesteps=64)
    assert (plan.hyperparams.n_envs, plan.n_timesteps, plan.hyperparams.values["gamma"]) == (2, 64, 0.5)


def test_what_distils_is_the_recipe_with_its_changes_or_none(tmp_path):
    assert planned(tmp_path).distill == rlsd.presets.resolve(True)
    changed = planned(tmp_path, recipe="snapshot", distill=("strength.value=0.3",))
    assert changed.distill == rlsd.recipe("snapshot", **{"strength.value": 0.3}) and changed.recipe == "snapshot"
    plain = planned(tmp_path, baseline=True)
    assert (plain.distill, plain.recipe) == (None, "plain SB3")


def test_evaluations_are_ten_unless_said_otherwise(tmp_path):
    assert planned(tmp_path, n_timesteps=1000).eval_freq == 100
    assert planned(tmp_path, n_timesteps=1000, eval_freq=7).eval_freq == 7
    assert planned(tmp_path, n_timesteps=1000, eval_freq=7, eval_episodes=0).eval_freq == 0


def test_small_networks_train_on_one_thread_of_the_cpu(tmp_path):
    plan = planned(tmp_path, hyperparams=("policy_kwargs:{net_arch: [8]}",))
    assert (plan.device, plan.num_threads) == ("cpu", 1)
    assert planned(tmp_path, num_threads=3).num_threads == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"algo": "pro"}, "did you mean ppo"),
        ({"device": "gpu9"}, "--device"),
        (
            {"recipe": "best", "distill": ("teacher.by=evaluation",), "eval_freq": 0},
            "needs evaluations during training",
        ),
        ({"trained_agent": "nowhere.zip"}, "--trained-agent nowhere.zip: there is no such file"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, flags, said):
    with pytest.raises(UserError, match=said) as caught:
        planned(tmp_path, **flags)
    assert "\n" not in str(caught.value)
