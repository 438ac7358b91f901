"""The door to an average, and SB3's callback that judges it."""

from __future__ import annotations

from typing import Any

import pytest
from agents import ROLLOUT, Record, build, copied, differences, distilled, training_state
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnNoModelImprovement

import rlsd
from rlsd.teachers.frozen_policy import named_tensors


def evaluation(kind: str = "discrete", **kwargs: Any) -> EvalCallback:
    env = build(PPO, kind).get_env()
    return EvalCallback(env, n_eval_episodes=2, eval_freq=ROLLOUT // env.num_envs, verbose=0, warn=False, **kwargs)


def test_an_agent_keeps_one_average_and_its_horizon_until_told_otherwise() -> None:
    agent = build(PPO)
    average = rlsd.average(agent, 500)
    assert rlsd.average(agent) is average
    assert average.horizon == 500
    assert rlsd.average(agent, 70).horizon == 70
    assert isinstance(average, rlsd.WeightAverage)


def test_undistill_ends_it_and_the_way_back_from_acceleration_does_not() -> None:
    agent = build(PPO)
    rlsd.average(agent)
    rlsd.accelerate(agent)
    rlsd.accelerate(agent, None)
    assert agent.weight_average is not None
    rlsd.distill(agent, "snapshot")
    assert agent.weight_average is not None
    rlsd.undistill(agent)
    assert type(agent) is PPO
    assert "weight_average" not in vars(agent)
    agent.learn(ROLLOUT)


@pytest.mark.parametrize("horizon", [0, -1, 2.5, True, "long"])
def test_a_horizon_that_is_none_is_refused(horizon: Any) -> None:
    for refuse in (lambda: rlsd.average(build(PPO), horizon), lambda: rlsd.EvaluateAverage(evaluation(), horizon)):
        with pytest.raises(ValueError, match="horizon must be a whole number of environment steps, 1 or more"):
            refuse()


def test_only_an_agent_has_an_average_and_only_an_evaluation_judges_it() -> None:
    with pytest.raises(TypeError, match="average takes an SB3 agent, got 'PPO'"):
        rlsd.average("PPO")
    with pytest.raises(TypeError, match="EvaluateAverage takes SB3's EvalCallback, got"):
        rlsd.EvaluateAverage(StopTrainingOnNoModelImprovement(3))


@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "discrete"), (PPO, "normalized"), (SAC, "box")])
def test_an_evaluation_of_the_average_leaves_the_training_and_that_of_the_agent_alone(
    algorithm: Any, kind: str, tmp_path: Any
) -> None:
    alone = build(algorithm, kind)
    live = evaluation(kind)
    alone.learn(6 * ROLLOUT, callback=[live])
    expected, steps = copied(training_state(alone)), live.n_calls
    agent = build(algorithm, kind)
    judge = evaluation(kind, best_model_save_path=str(tmp_path), log_path=str(tmp_path / "log"))
    agent.learn(6 * ROLLOUT, callback=[evaluation(kind), rlsd.EvaluateAverage(judge, horizon=3 * ROLLOUT)])
    assert not differences(expected, training_state(agent))
    assert judge.n_calls == steps
    assert judge.evaluations_timesteps[-1] <= 6 * ROLLOUT
    (record,) = agent.logger.output_formats
    assert isinstance(record, Record)
    keys = {key for dump in record.dumps for key in dump}
    assert {"eval/mean_reward", "average/mean_reward", "average/mean_ep_length"} <= keys
    assert type(algorithm.load(tmp_path / "best_model.zip")) is algorithm
    assert judge.model is agent


def test_what_is_judged_and_saved_is_the_average(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = distilled(PPO)
    judge = evaluation(best_model_save_path=str(tmp_path))
    seen = []
    on_step = EvalCallback._on_step

    def look(self: EvalCallback) -> bool:
        if self.n_calls % self.eval_freq == 0:
            seen.append((type(self.model), copied(dict(named_tensors(self.model.policy)))))
            assert self.num_timesteps == agent.num_timesteps
            assert not differences(seen[-1][1], dict(named_tensors(agent.weight_average.agent().policy)))
        return on_step(self)

    monkeypatch.setattr(EvalCallback, "_on_step", look)
    agent.learn(3 * ROLLOUT, callback=rlsd.EvaluateAverage(judge))
    assert [kind for kind, _ in seen] == [PPO] * 3
    assert differences(seen[-1][1], dict(named_tensors(agent.policy)))
