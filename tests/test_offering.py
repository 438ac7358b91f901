"""Evaluations by SB3's callback decide which policy teaches."""

from __future__ import annotations

import pytest
from agents import ROLLOUT, build, config, distilled
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback, EveryNTimesteps
from torch.testing import assert_close

import rlsd

BY_EVALUATION = config(teacher=rlsd.Best(by="evaluation"))


def evaluations(**kwargs) -> EvalCallback:
    env = build(PPO).get_env()
    return EvalCallback(
        env,
        callback_after_eval=rlsd.OfferEvaluation(),
        n_eval_episodes=2,
        eval_freq=ROLLOUT // env.num_envs,
        verbose=0,
        warn=False,
        **kwargs,
    )


def test_each_evaluation_is_handed_in_and_the_best_teaches() -> None:
    agent = distilled(PPO, distill=BY_EVALUATION)
    callback = evaluations()
    agent.learn(6 * ROLLOUT, callback=callback)
    teacher = agent.distiller.teacher
    assert teacher.mark == callback.best_mean_reward
    assert 1 <= teacher.version <= 6
    assert agent.distiller.deposits > 0


def test_a_policy_teaches_from_the_evaluation_on_in_which_it_is_the_best() -> None:
    agent = distilled(PPO, distill=BY_EVALUATION)
    callback = evaluations()
    agent.learn(ROLLOUT, callback=callback)
    teacher = agent.distiller.teacher
    first = {name: tensor.clone() for name, tensor in teacher.tensors().items()}
    callback.best_mean_reward = teacher.mark = 1e9
    agent.learn(2 * ROLLOUT, callback=callback, reset_num_timesteps=False)
    assert_close(teacher.tensors(), first, rtol=0, atol=0)
    assert teacher.version == 1


@pytest.mark.parametrize(
    ("agent", "found"),
    [
        (lambda: build(PPO), "no distillation"),
        (lambda: distilled(PPO), "teacher 'snapshot'"),
        (lambda: distilled(PPO, distill=config(teacher=rlsd.Best())), "teacher 'best'"),
    ],
    ids=["plain", "another teacher", "by training returns"],
)
def test_without_a_best_by_evaluation_the_callback_is_refused(agent, found: str) -> None:
    with pytest.raises(TypeError, match=f"by: evaluation.*the agent has {found}: leave it out"):
        agent().learn(2 * ROLLOUT, callback=evaluations())


def test_outside_an_evaluation_callback_it_is_refused() -> None:
    agent = distilled(PPO, distill=BY_EVALUATION)
    for callback in (rlsd.OfferEvaluation(), EveryNTimesteps(1, rlsd.OfferEvaluation())):
        with pytest.raises(TypeError, match="goes into SB3's EvalCallback, as its callback_after_eval"):
            agent.learn(ROLLOUT, callback=callback)


def test_the_answer_is_kept_in_the_config() -> None:
    assert BY_EVALUATION.to_dict()["teacher"]["by"] == "evaluation"
    with pytest.raises(ValueError, match="by must be one of 'training', 'evaluation', got 'luck'"):
        rlsd.Best(by="luck")
