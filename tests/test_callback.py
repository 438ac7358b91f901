"""The third door: distillation by a callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agents import ALGORITHMS, KINDS, ROLLOUT, build, config, distilled, patches
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback

import rlsd
from rlsd.presets import resolve


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_the_callback_distils_any_agent_from_the_first_rollout_on(algorithm: type[BaseAlgorithm], kind: str) -> None:
    agent = build(algorithm, kind)
    agent.learn(3 * ROLLOUT, callback=rlsd.SelfDistillation(config()))
    assert type(agent) is rlsd.SelfDistilled(algorithm)
    assert agent.distiller.states.count == 3 * ROLLOUT
    assert agent.distiller.deposits > 0
    assert patches(agent) == []


def test_the_callback_used_again_goes_on_with_the_same_teacher() -> None:
    agent = build(PPO)
    agent.learn(3 * ROLLOUT, callback=rlsd.SelfDistillation(config()))
    distiller = agent.distiller
    agent.learn(3 * ROLLOUT, callback=rlsd.SelfDistillation(config()))
    assert agent.distiller is distiller
    callback = rlsd.SelfDistillation(config())
    for _ in range(2):
        agent.learn(ROLLOUT, callback=callback, reset_num_timesteps=False)
    assert agent.distiller is distiller
    assert distiller.states.seen == 8 * ROLLOUT


def test_the_same_callback_built_anew_is_compared_by_what_is_saved_of_it(tmp_path: Path) -> None:
    def callback() -> rlsd.SelfDistillation:
        frozen = rlsd.Frozen(agent=build(PPO, seed=8))
        return rlsd.SelfDistillation(config(teacher=frozen, strength=lambda remaining: remaining))

    agent = build(PPO)
    agent.learn(ROLLOUT, callback=callback())
    distiller = agent.distiller
    agent.learn(ROLLOUT, callback=callback())
    assert agent.distiller is distiller

    agent = build(PPO)
    agent.learn(ROLLOUT, callback=rlsd.SelfDistillation("kickstart", teacher=build(PPO, seed=8)))
    agent.save(tmp_path / "agent")
    again = rlsd.SelfDistilled(PPO).load(tmp_path / "agent", env=agent.get_env())
    deposits = again.distiller.deposits
    again.learn(2 * ROLLOUT, callback=rlsd.SelfDistillation("kickstart", teacher=build(PPO, seed=8)))
    assert again.distiller.deposits > deposits


def test_distillation_stays_on_without_the_callback() -> None:
    agent = build(PPO)
    agent.learn(3 * ROLLOUT, callback=rlsd.SelfDistillation(config()))
    before = agent.distiller.deposits
    agent.learn(ROLLOUT, reset_num_timesteps=False)
    assert agent.distiller.deposits > before


def test_another_config_on_a_distilled_agent_is_an_error() -> None:
    agent = distilled()
    distiller = agent.distiller
    with pytest.raises(ValueError, match=r"already, with strength.value 0.7, not 0.1: .*undistill"):
        agent.learn(ROLLOUT, callback=rlsd.SelfDistillation(config(strength=0.1)))
    assert agent.distiller is distiller
    with pytest.raises(ValueError, match=r"already, with teacher 'snapshot', not 'ema'; timing.stride 1, not 2: "):
        agent.learn(ROLLOUT, callback=rlsd.SelfDistillation(config(teacher="ema", timing=rlsd.EveryStep(stride=2))))
    agent.learn(ROLLOUT, callback=rlsd.SelfDistillation(config()))
    rlsd.undistill(agent).learn(ROLLOUT, callback=rlsd.SelfDistillation(config(strength=0.1)))
    assert agent.distiller.config == config(strength=0.1)


def test_an_agent_built_with_distillation_off_is_switched_on() -> None:
    agent = build(rlsd.SelfDistilled(A2C), distill=None)
    assert agent.distiller is None
    agent.learn(3 * ROLLOUT, callback=rlsd.SelfDistillation(config()))
    assert agent.distiller.deposits > 0


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({}, resolve(True)),
        ({"recipe": "snapshot"}, rlsd.recipe("snapshot")),
        ({"recipe": "snapshot", "strength": 0.3}, rlsd.recipe("snapshot", strength=0.3)),
        ({"recipe": "snapshot", "teacher.every": 7}, rlsd.recipe("snapshot", **{"teacher.every": 7})),
        ({"recipe": config(), "strength": 0.3}, config(strength=0.3)),
        ({"strength": 0.3}, resolve(True, changes={"strength": 0.3})),
        ({"recipe": config().to_dict()}, config()),
    ],
)
def test_what_is_wanted_is_said_as_everywhere(arguments: dict[str, Any], wanted: Any) -> None:
    assert rlsd.SelfDistillation(**arguments).config == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "snapshto"}, "unknown recipe 'snapshto'; did you mean 'snapshot'"),
        ({"recipe": None}, "got None"),
        ({"recipe": False}, "got None"),
        ({"recipe": 3}, "got 3"),
        ({"recipe": "snapshot", "strenght": 0.3}, "unknown key strenght"),
        ({"recipe": "snapshot", "teacher.every": 0}, r"teacher.every must be a whole number >= 1, got 0"),
    ],
)
def test_what_is_wrong_is_said_before_training(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rlsd.SelfDistillation(**arguments)


def test_an_agent_without_such_states_is_an_error_before_training() -> None:
    agent = build(PPO)
    with pytest.raises(TypeError, match="needs an agent with a replay buffer, and a PPO has none: use 'reservoir'"):
        agent.learn(ROLLOUT, callback=rlsd.SelfDistillation(config(states=rlsd.ReplayBuffer())))
    assert type(agent) is PPO
    assert agent.num_timesteps == 0


def test_it_takes_its_place_among_other_callbacks(tmp_path: Any) -> None:
    class Steps(BaseCallback):
        def _on_step(self) -> bool:
            return True

    steps = Steps()
    agent = build(PPO, "normalized")
    callbacks = [steps, rlsd.SelfDistillation(config()), CheckpointCallback(10, str(tmp_path))]
    agent.learn(3 * ROLLOUT, callback=CallbackList(callbacks))
    assert steps.n_calls == 3 * ROLLOUT / 2
    assert agent.distiller.deposits > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rl_model_20_steps.zip", "rl_model_40_steps.zip"]
    resumed = rlsd.SelfDistilled(PPO).load(tmp_path / "rl_model_40_steps.zip")
    assert resumed.distiller.config == config()
