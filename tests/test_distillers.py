"""Several distillations at once: their gradients add up, and each is saved, resumed and logged as if alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from agents import (
    ALL_ALGORITHMS,
    ROLLOUT,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    logged,
    patches,
    scramble,
    training_state,
)
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import EvalCallback

import rlsd

BOXES = {"SAC", "TQC", "CrossQ", "TD3", "DDPG"}


def kind_of(name: str) -> str:
    return "box" if name in BOXES else "discrete"


def named(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, **config(**changes).to_dict()}


PAIR = [named("slow"), named("mean", teacher=rlsd.Ema(decay=0.5), states=rlsd.Recent(capacity=48, batch_size=8))]


@pytest.mark.parametrize("name", ALL_ALGORITHMS)
def test_two_pull_as_one_of_their_summed_strength(name: str) -> None:
    """Both draw the same minibatches: they have the same seed, and the same states in a store each."""
    one, another = (rlsd.Reservoir(capacity=number, batch_size=8) for number in (1000, 1001))
    two = [
        named("a", strength=rlsd.Constant(0.3, bound=1e9), states=one),
        named("b", strength=rlsd.Constant(0.4, bound=1e9), states=another),
    ]
    policies = []
    for distill in (two, config(strength=rlsd.Constant(0.7, bound=1e9), states=one)):
        agent = distilled(ALL_ALGORITHMS[name], kind_of(name), distill)
        agent.learn((10 if name == "ARS" else 5) * ROLLOUT)
        assert agent.distiller.deposits > 0
        assert patches(agent) == []
        policies.append(agent.policy.state_dict())
    plain = build(ALL_ALGORITHMS[name], kind_of(name))
    plain.learn((10 if name == "ARS" else 5) * ROLLOUT)
    assert differences(dict(policies[0]), dict(plain.policy.state_dict())), "nothing was pulled"
    for key in policies[0]:
        torch.testing.assert_close(policies[0][key], policies[1][key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["PPO", "SAC", "TRPO"])
def test_one_of_a_list_is_to_the_bit_what_it_is_alone(name: str) -> None:
    found = []
    for distill in ([named("only")], config()):
        scramble()
        agent = distilled(ALL_ALGORITHMS[name], kind_of(name), distill)
        agent.learn(5 * ROLLOUT)
        found.append(copied(training_state(agent)))
    assert not differences(*found)


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_at_strength_0_the_agent_trains_as_plain_sb3s_to_the_bit(name: str) -> None:
    off = [named("a", strength=0.0), named("b", teacher="ema", strength=0.0)]
    found = []
    for make in (lambda cls: build(cls), lambda cls: distilled(cls, distill=off)):
        scramble()
        agent = make(ALL_ALGORITHMS[name])
        agent.learn(5 * ROLLOUT)
        found.append((copied(training_state(agent)), logged(agent)))
    assert not differences(*found)


def test_the_recipes_that_are_idle_are_so_together() -> None:
    found = []
    for make in (lambda: build(PPO), lambda: distilled(PPO, distill=["remember", "guard"])):
        scramble()
        agent = make()
        agent.learn(5 * ROLLOUT)
        found.append(copied(training_state(agent)))
    assert not differences(*found)
    assert str(agent.distiller.activity) == "idle in all 5 updates"


@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "normalized"), (SAC, "box"), (DQN, "discrete")])
def test_stopped_and_resumed_they_are_as_if_never_stopped(algorithm: Any, kind: str, tmp_path: Any) -> None:
    whole = distilled(algorithm, kind, PAIR)
    whole.learn(8 * ROLLOUT, callback=rlsd.Checkpoints(tmp_path, every=4 * ROLLOUT, keep=9))
    expected = copied((training_state(whole), distillation_state(whole)))
    scramble()
    resumed = rlsd.resume(tmp_path / str(4 * ROLLOUT))
    assert [*resumed.distiller.members] == ["slow", "mean"]
    resumed.learn(4 * ROLLOUT, reset_num_timesteps=False)
    assert not differences(expected, copied((training_state(resumed), distillation_state(resumed))))
    assert resumed.distiller.deposits > 0


def test_each_is_logged_under_its_name_and_the_time_of_all_together() -> None:
    agent = distilled(PPO, distill=PAIR)
    agent.learn(6 * ROLLOUT)
    logged = agent.distiller.logged
    assert {"distill/slow/kl", "distill/mean/kl", "distill/slow/grad_ratio", "distill/mean/grad_ratio"} <= set(logged)
    assert "distill/kl" not in logged
    assert 0.0 < logged["time/distill_fraction"] <= 1.0
    (record,) = agent.logger.output_formats
    assert "distill/mean/loss" in record.dumps[-1]
    slow, mean = agent.distiller.members.values()
    assert slow.clock is mean.clock is agent.distiller.clock
    assert slow.deposits > 0 and mean.deposits > 0


def test_they_are_switched_on_and_off_in_place_and_replaced() -> None:
    agent = build(PPO)
    rlsd.distill(agent, PAIR)
    agent.learn(3 * ROLLOUT)
    with pytest.warns(UserWarning, match="with teacher 'snapshot': its teacher 'snapshot' and 'ema' and 96 states"):
        rlsd.distill(agent, "snapshot")
    agent.learn(ROLLOUT, reset_num_timesteps=False)
    agent.learn(ROLLOUT, callback=rlsd.SelfDistillation("snapshot"), reset_num_timesteps=False)
    with pytest.raises(ValueError, match="the agent is distilled already, with other distillations at once"):
        agent.learn(ROLLOUT, callback=rlsd.SelfDistillation("remember+guard"), reset_num_timesteps=False)
    rlsd.undistill(agent)
    assert type(agent) is PPO
    agent.learn(ROLLOUT, callback=rlsd.SelfDistillation(["snapshot", "ema"]))
    agent.learn(ROLLOUT, callback=rlsd.SelfDistillation("snapshot+ema"), reset_num_timesteps=False)
    assert [*agent.distiller.members] == ["snapshot", "ema"]


def test_evaluations_reach_the_one_that_asks_for_them() -> None:
    agent = distilled(PPO, distill=[named("slow"), named("best", teacher=rlsd.Best(by="evaluation"))])
    evaluate = EvalCallback(
        build(PPO).get_env(), callback_after_eval=rlsd.OfferEvaluation(), n_eval_episodes=1, eval_freq=8, warn=False
    )
    agent.learn(3 * ROLLOUT, callback=evaluate)
    assert agent.distiller.members["best"].teacher.mark == evaluate.best_mean_reward


def test_a_student_that_takes_over_lets_all_averages_begin_anew() -> None:
    reborn = named("reborn", timing=rlsd.Reborn(every=4 * ROLLOUT, steps=1, kl_bound=1e9), strength=1.0)
    agent = distilled(PPO, distill=[reborn, named("mean", teacher=rlsd.Ema(decay=0.9))])
    agent.learn(4 * ROLLOUT)
    assert agent.distiller.members["reborn"].auxiliary.rebirths == 1
    assert agent.distiller.members["mean"].teacher.weight == 1.0


def test_what_one_of_them_cannot_have_is_said_with_its_name() -> None:
    with pytest.raises(TypeError, match="distillation 'valued': a value term or value gate needs"):
        distilled(SAC, "box", [named("slow"), named("valued", divergence=rlsd.KL(value_weight=1.0))])


def test_a_saved_state_that_lacks_one_is_refused(tmp_path: Any) -> None:
    agent = distilled(A2C, distill=PAIR)
    agent.learn(2 * ROLLOUT)
    state = agent.distiller.state()
    del state["members"]["mean"]
    with pytest.raises(ValueError, match="does not fit this agent: 'mean' is missing"):
        agent.distiller.load(agent, agent.distiller.tensors(), state)


def test_each_is_shown_with_its_name() -> None:
    agent = distilled(PPO, "discrete", PAIR)
    lines = repr(agent.distiller).splitlines()
    assert [line.partition(":")[0] for line in lines if ": Distiller" in line] == [*agent.distiller.members]
    assert agent.distiller._repr_html_().count("<table>") == 2


def test_those_that_keep_the_same_states_share_a_store_and_are_shown_each_state_once() -> None:
    """Also one that would keep a reservoir beside one that keeps its episodes."""
    agent = distilled(PPO, distill=["remember", "guard", "ema"])
    agent.learn(3 * ROLLOUT)
    first, *others = agent.distiller.members.values()
    assert isinstance(first.config.states, rlsd.Episodes)
    assert all(one.states is first.states for one in others)
    assert first.states.count == first.states.seen == 3 * ROLLOUT
    names = [name for name in agent.distiller.tensors() if "/replay/states/" in name]
    assert names and all(name.startswith("remember/") for name in names)


def test_targets_of_a_shared_store_are_those_of_its_states() -> None:
    """A slot that holds another state is asked of each teacher anew."""
    states = rlsd.Reservoir(capacity=40, batch_size=8)
    pair = [named("slow", states=states), named("mean", teacher=rlsd.Ema(decay=0.5), states=states)]
    agent = distilled(PPO, distill=pair)
    agent.learn(8 * ROLLOUT)
    for member in agent.distiller.members.values():
        cache = member.cache
        made = np.flatnonzero(cache.versions == member.teacher.version)
        assert len(made) > 8
        expected = member.teacher.targets(cache.store.pick(made))
        torch.testing.assert_close(cache.targets[torch.from_numpy(made)][:, : cache.size], expected)
