"""Phases of policy distillation between updates (PPG)."""

from __future__ import annotations

import copy
from pathlib import Path
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
    make_env,
    patches,
    scramble,
    training_state,
    untouched_generators,
)
from helpers import disturb
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from torch.distributions import kl_divergence

import rlsd
from rlsd.observations import Beside
from rlsd.students import Phase
from rlsd.students.rollouts import Rollouts

ON_POLICY = ("PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO")
CASES = [
    ("PPO", "discrete"),
    ("PPO", "gsde"),
    ("PPO", "normalized_dict"),
    ("PPO", "separate_extractors"),
    ("A2C", "box"),
    ("TRPO", "box"),
    ("MaskablePPO", "multidiscrete"),
    ("RecurrentPPO", "box"),
]


def phasic(name: str = "PPO", kind: str = "discrete", every: int = 2, answers: Any = None, **changes: Any) -> Any:
    timing = Phase(every_rollouts=every, epochs=2, batch_size=8, learning_rate=0.01)
    return distilled(ALL_ALGORITHMS[name], kind, distill=config(timing=timing, **(answers or {})), **changes)


@pytest.mark.parametrize("kind", ["discrete", "box", "separate_extractors"])
def test_the_gradient_of_a_phase_is_that_of_the_joint_loss(kind: str) -> None:
    timing = Phase(every_rollouts=1, epochs=2, batch_size=10**6)
    agent = distilled(PPO, kind, distill=config(timing=timing, strength=0.7), max_grad_norm=1e9)
    lesson, policy, seen = agent.distiller.auxiliary, agent.policy, []

    def step() -> None:
        """Keep the gradients, and walk so far away that the next step has something to be held to."""
        gradients = [None if p.grad is None else p.grad.clone() for p in lesson._parameters]
        frozen = agent.distiller.actor.frozen(policy).requires_grad_(True)
        seen.append((frozen, copy.deepcopy(lesson.head), gradients))
        disturb(policy, 0.3)

    lesson.optimizer.step = step
    agent.learn(ROLLOUT)
    (old, _, _), (now, head, gradients) = seen
    buffer = agent.rollout_buffer
    states, returns = torch.as_tensor(buffer.observations), torch.as_tensor(buffer.returns).flatten()
    for module in (old, now):
        module.train(False)
    p, q = (module.get_distribution(states).distribution for module in (old, now))
    held = kl_divergence(p, q).reshape(len(states), -1).sum(1).mean()
    values = now.predict_values(states).flatten()
    features = now.pi_features_extractor(states)
    aux = head(now.mlp_extractor.forward_actor(features)).flatten()
    loss = 0.5 * ((aux - returns) ** 2).mean() + 0.7 * held + 0.5 * ((values - returns) ** 2).mean()
    expected = torch.autograd.grad(loss, [*now.parameters(), *head.parameters()], allow_unused=True)
    assert held > 0.01
    for found, wanted in zip(gradients, expected, strict=True):
        wanted = torch.zeros_like(found) if wanted is None and found is not None else wanted
        assert (found is None) == (wanted is None)
        if found is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_before_the_first_phase_training_is_plain_sb3s(name: str, kind: str) -> None:
    plain = build(ALL_ALGORITHMS[name], kind).learn(3 * ROLLOUT)
    agent = phasic(name, kind, every=4).learn(3 * ROLLOUT)
    assert not differences(training_state(plain), training_state(agent))
    assert logged(plain) == logged(agent)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_phase_changes_the_policy_and_no_global_generator(name: str, kind: str) -> None:
    agent = phasic(name, kind, every=2).learn(ROLLOUT)
    lesson = agent.distiller.auxiliary
    agent.collect_rollouts(agent.env, Quiet(agent), agent.rollout_buffer, n_rollout_steps=agent.n_steps)
    lesson.observe_states(agent, next(agent.distiller.source.new(agent)).states)
    before, moments = copied(dict(agent.policy.state_dict())), copied(agent.policy.optimizer.state_dict())
    with untouched_generators():
        lesson.after(agent, lambda: None)
    assert lesson.phases == 1
    assert differences(before, dict(agent.policy.state_dict()))
    assert not differences(moments, agent.policy.optimizer.state_dict()), "the agent's own optimizer took part"
    assert not patches(agent)


class Quiet(BaseCallback):
    """A callback for rollouts outside ``learn``; with VecNormalize it is the source's recorder."""

    def __new__(cls, agent: Any) -> Any:
        for recorder in agent.distiller.recorders(agent):
            recorder.model, recorder.locals, recorder.globals = agent, {}, {}
            return recorder
        return super().__new__(cls)

    def __init__(self, agent: Any) -> None:
        super().__init__()
        self.init_callback(agent)

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("name", "kind", "at"),
    [(*CASES[0], 3), (*CASES[0], 4), *((*case, 5) for case in CASES)],  # before, just after and in the next interval
)
def test_resumed_between_phases_is_as_never_stopped(name: str, kind: str, at: int, tmp_path: Path) -> None:
    total = 7 * ROLLOUT
    expected = copied(whole(phasic(name, kind, every=4).learn(total)))
    checkpoints = rlsd.Checkpoints(tmp_path, every=at * ROLLOUT)
    phasic(name, kind, every=4).learn(total, callback=checkpoints)
    scramble()
    again = rlsd.resume(tmp_path / str(at * ROLLOUT))
    again.learn(total - again.num_timesteps, reset_num_timesteps=False)
    assert not differences(expected, whole(again))


def whole(agent: Any) -> Any:
    return training_state(agent), distillation_state(agent)


def test_the_value_is_learned_and_the_actions_stay() -> None:
    timing = Phase(every_rollouts=2, epochs=60, batch_size=8, learning_rate=0.01)
    first = distilled(PPO, distill=config(timing=Phase(every_rollouts=2, epochs=1, batch_size=8)), gamma=0.5)
    agent = distilled(PPO, distill=config(timing=timing, strength=5.0), gamma=0.5)
    short, long = (a.learn(2 * ROLLOUT).distiller.auxiliary.metrics() for a in (first, agent))
    assert long["phase_aux_loss"] < short["phase_aux_loss"]
    assert long["phase_value_loss"] < short["phase_value_loss"]
    assert 0.0 < long["phase_kl"] < 0.02


def test_strength_zero_is_plain_sb3() -> None:
    plain = build(PPO).learn(4 * ROLLOUT)
    agent = phasic(every=2, answers={"strength": 0.0}).learn(4 * ROLLOUT)
    assert not differences(training_state(plain), training_state(agent))
    assert agent.distiller.auxiliary.rollouts.count == 0


def test_a_closed_gate_leaves_the_phase_out_and_forgets_the_rollouts() -> None:
    gated = rlsd.Constant(1.0, gates=rlsd.ReturnGate())  # before 20 episodes it is closed
    agent = phasic(every=2, answers={"strength": gated}).learn(2 * ROLLOUT)
    assert agent.distiller.auxiliary.phases == 0
    assert agent.distiller.auxiliary.rollouts.count == 0


def test_the_snapshot_is_taken_just_before_the_phase() -> None:
    agent = phasic(every=2, answers={"teacher": rlsd.Snapshot(every=10**6)}).learn(4 * ROLLOUT)
    assert agent.distiller.teacher.version == 2
    assert agent.distiller.auxiliary.phases == 2


@pytest.mark.parametrize("name", ["TD3", "SAC", "DQN", "ARS"])
def test_algorithms_without_rollouts_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^a phase needs rollouts .* {name} keeps none: use timing 'every_step'.*$"):
        phasic(name, "box" if name != "DQN" else "discrete")


def test_rollouts_keep_what_is_finite_up_to_their_room() -> None:
    rollouts = Rollouts(3, torch.device("cpu"))
    states = np.array([[0.0], [np.nan], [1e300], [3.0], [4.0], [5.0]])
    assert rollouts.add({Beside("@observation"): states}, np.array([0.0, 1.0, 2.0, np.inf, 4.0, 5.0])) == 3
    assert rollouts.count == 3
    assert rollouts.states(slice(0, 3)).flatten().tolist() == [0.0, 4.0, 5.0]
    assert rollouts.returns(slice(0, 3)).tolist() == [0.0, 4.0, 5.0]
    other = Rollouts(3, torch.device("cpu"))
    other.load(rollouts.tensors(), 3)
    assert not differences(other.tensors(), rollouts.tensors())
    other.load(rollouts.tensors(), 2)
    assert other.states(slice(0, 2)).flatten().tolist() == [4.0, 5.0], "the newest"
    for name in ("returns", "states/@observation"):
        fewer = rollouts.tensors() | {name: rollouts.tensors()[name][1:]}
        with pytest.raises(ValueError, match=r"do not fit: \[\d\] states and \d returns found"):
            other.load(fewer, 3)


@pytest.mark.parametrize(
    ("n_envs", "n_steps", "kept"), [(1, 8, 3 * 8), (2, 4, 3 * 8), (2, 8, 48), (3, 8, 48), (2, 9, 48)]
)
def test_loaded_with_rollouts_of_another_size_the_newest_that_leave_room_are_kept(
    n_envs: int, n_steps: int, kept: int, tmp_path: Path
) -> None:
    agent = phasic(every=5).learn(3 * ROLLOUT)
    agent.save(tmp_path / "agent")
    rollouts = agent.distiller.auxiliary.rollouts
    again = type(agent).load(tmp_path / "agent", env=make_env(n_envs=n_envs), n_steps=n_steps)
    lesson = again.distiller.auxiliary
    assert (rollouts.count, lesson.rollouts.count, lesson.updates) == (48, kept, 3)
    assert torch.equal(lesson.rollouts.states(slice(kept)), rollouts.states(slice(48 - kept, 48)))
    assert torch.equal(lesson.rollouts.returns(slice(kept)), rollouts.returns(slice(48 - kept, 48)))
    seen, met = [], lesson.rollouts.add

    def add(*args: Any) -> int:
        refused = met(*args)
        seen.append(lesson.rollouts.count)
        return refused

    lesson.rollouts.add = add
    again.learn(2 * n_envs * n_steps, reset_num_timesteps=False)
    assert seen == [kept + n_envs * n_steps, kept + 2 * n_envs * n_steps], "none of the new ones was left out"
    assert lesson.phases == 1


@pytest.mark.parametrize("teacher", ["snapshot", "ema", "stored", "ensemble", "selective", "cascade"])
@pytest.mark.parametrize("kind", ["discrete", "normalized_dict"])
def test_no_states_are_stored_beside_the_rollouts_unless_the_teacher_looks_at_them(
    kind: str, teacher: str, tmp_path: Path
) -> None:
    agent = phasic(kind=kind, every=4, answers={"teacher": teacher}).learn(6 * ROLLOUT)
    looks = teacher in ("selective", "cascade")
    store = agent.distiller.states
    assert (store.count, store.nbytes > 0) == ((64, True) if looks else (0, False))
    stored = [name for name in agent.distiller.tensors() if name.startswith("replay/states/")]
    assert bool(stored) == looks
    assert agent.distiller.auxiliary.rollouts.count == 2 * ROLLOUT
    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent")
    assert not differences(distillation_state(agent), distillation_state(again))


@pytest.mark.parametrize("teacher", ["snapshot", "cascade"])
def test_states_that_are_not_finite_are_counted_once(teacher: str) -> None:
    agent = phasic(every=4, answers={"teacher": teacher}).learn(ROLLOUT)
    buffer = agent.rollout_buffer
    buffer.reset()
    buffer.observations[2, 1] = np.nan
    agent.distiller._begin(agent)
    assert agent.distiller.auxiliary.rollouts.count == 2 * ROLLOUT - 1
    assert agent.distiller.present_metrics()["distill/skipped_nonfinite"] == 1


def test_rollouts_that_would_not_fit_in_memory_are_refused_when_the_agent_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RLSD_MEMORY_BUDGET", "1MB")
    message = (
        r"^timing\.every_rollouts=1000000000 times 16 states of this environment take 256\.0 GB on cpu, more than the "
        r"budget of 1\.0 MB: lower timing\.every_rollouts to 3906 or less, or set RLSD_MEMORY_BUDGET .*$"
    )
    with pytest.raises(ValueError, match=message):
        phasic(every=10**9)
    assert phasic(every=3906).distiller.auxiliary.rollouts.capacity == 3906 * ROLLOUT


@pytest.mark.parametrize("teacher", [rlsd.Ema(0.99), rlsd.Selective(every=1, average=1000.0)], ids=lambda a: a.name)
def test_an_average_begins_anew_after_each_phase(teacher: Any) -> None:
    agent = phasic(every=3, answers={"teacher": teacher})
    for rollout in range(1, 7):
        agent.learn(ROLLOUT, reset_num_timesteps=False)
        average = agent.distiller.teacher
        own = dict(agent.policy.named_parameters())
        same = all(torch.equal(mine, own[name]) for name, mine in average.policy.named_parameters())
        assert same == (rollout % 3 == 0)
        assert average.weight == 1.0 or not same


@pytest.mark.parametrize("teacher", ["ema", "ensemble", "best", "selective"])
@pytest.mark.parametrize("strength", ["adaptive", {"type": "constant", "gates": ["value_advantage", "entropy_floor"]}])
def test_phases_suit_every_teacher_strength_and_gate(teacher: str, strength: Any) -> None:
    answers = {"teacher": teacher, "strength": strength, "divergence": rlsd.KL(value_weight=0.5)}
    agent = phasic(every=2, answers=answers, stats_window_size=2).learn(6 * ROLLOUT)
    figures = agent.distiller.auxiliary.metrics()
    assert all(np.isfinite(value) for value in figures.values())
