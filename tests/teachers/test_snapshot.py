"""A snapshot teaches what the agent was, until the next one is taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from agents import Regularized, untouched_generators
from gymnasium import spaces
from helpers import VECTOR, disturb, observe, small_agent, small_ppo, vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch.testing import assert_close

import rlsd
from rlsd import Snapshot
from rlsd.actors import actor_for

BOX = spaces.Box(-1.0, 1.0, (2,))
ROLLOUT = 4


def teacher_of(agent, every: int = 1):
    return Snapshot(every=every).build(actor_for(agent))


def refreshed(teacher, agent, rollouts: int, size: int = ROLLOUT, start: int = 0) -> list[int]:
    """The environment steps at which a teacher changes while ``learn`` goes through some rollouts."""
    changes = []
    agent.num_timesteps = start
    teacher.clock.rebase(agent)
    for rollout in range(1, rollouts + 1):
        agent.num_timesteps = start + rollout * size
        version = teacher.version
        changed = teacher.refresh(agent)
        assert changed == (teacher.version > version), "a refresh tells whether the teacher changed"
        if changed:
            changes.append(agent.num_timesteps)
    return changes


# When


@pytest.mark.parametrize(
    ("every", "at"),
    [
        (1, [4, 8, 12, 16, 20, 24]),
        (4, [4, 8, 12, 16, 20, 24]),
        (5, [8, 16, 24]),
        (8, [8, 16, 24]),
        (9, [12, 24]),
        (100, []),
    ],
)
def test_an_interval_in_environment_steps_is_rounded_up_to_whole_rollouts(every, at):
    agent = small_ppo()
    assert refreshed(teacher_of(agent, every), agent, rollouts=6) == at


@pytest.mark.parametrize("every", [1, 8, 12, 17])
@pytest.mark.parametrize("before", [1, 2, 3, 4])
def test_steps_add_up_when_learn_counts_its_own_anew(every, before):
    agent = small_ppo()
    whole = refreshed(teacher_of(agent, every), agent, rollouts=before + 8)
    teacher = teacher_of(agent, every)
    parts = refreshed(teacher, agent, rollouts=before)
    for begun in range(before, before + 8, 2):
        parts += [begun * ROLLOUT + at for at in refreshed(teacher, agent, rollouts=2)]
    assert parts == whole


def test_counting_goes_on_when_learn_goes_on():
    agent = small_ppo()
    teacher = teacher_of(agent, 12)
    assert refreshed(teacher, agent, rollouts=4) == [12]
    assert refreshed(teacher, agent, rollouts=4, start=16) == [24]


def test_every_learn_of_one_rollout_brings_a_new_teacher_when_one_is_taken_at_each():
    agent = small_ppo()
    rlsd.distill(agent, {"teacher": {"every": 1}})
    for learn in range(1, 4):
        agent.learn(8)  # begins to count anew, as is SB3's default
        assert agent.distiller.teacher.version == learn


def test_gradient_steps_without_environment_steps_bring_no_new_teacher():
    agent = small_agent("SAC", wrap=rlsd.SelfDistilled, distill={"teacher": {"every": 8}}, learning_starts=4)
    agent.learn(40)
    teacher = agent.distiller.teacher
    before = teacher.version
    for _ in range(5):
        agent.train(2, 4)
    assert teacher.version == before > 0
    assert teacher.age(agent) == 0


def test_there_is_nothing_to_teach_before_the_first_snapshot():
    agent = small_ppo()
    teacher = teacher_of(agent, 8)
    agent.num_timesteps = 4
    assert not teacher.refresh(agent)
    assert not teacher.ready
    agent.num_timesteps = 8
    assert teacher.refresh(agent)
    assert teacher.ready
    assert teacher.refreshed_at == 8


# What


@pytest.mark.parametrize("use_sde", [False, True])
def test_a_teacher_never_changes_between_refreshes_while_its_student_trains(use_sde):
    agent = small_ppo(vec_env(action_space=BOX), use_sde=use_sde)
    teacher, observations = teacher_of(agent), observe(VECTOR)
    teacher.take(agent)
    before = teacher.targets(observations)
    for _ in range(3):
        agent.learn(8, reset_num_timesteps=False)
        assert torch.equal(teacher.targets(observations), before)
    live = teacher.actor.parameters(agent.policy, observations)
    assert not torch.equal(live, before), "the student did not train"
    teacher.take(agent)
    assert_close(teacher.targets(observations), live, rtol=1e-5, atol=1e-5)


def test_a_teacher_equals_its_student_at_the_moment_it_is_taken():
    agent = small_ppo()
    teacher, observations = teacher_of(agent), observe(VECTOR)
    for seed in range(3):
        disturb(agent.policy, seed=seed)
        teacher.take(agent)
        live = teacher.actor.family.normalized(teacher.actor.parameters(agent.policy, observations))
        assert_close(teacher.targets(observations), live, rtol=1e-5, atol=1e-5)


def test_a_snapshot_after_the_first_takes_no_new_memory():
    agent = small_ppo()
    teacher = teacher_of(agent)
    teacher.take(agent)
    policy, where = teacher.policy, [p.data_ptr() for p in teacher.policy.parameters()]
    disturb(agent.policy)
    teacher.take(agent)
    assert teacher.policy is policy
    assert [p.data_ptr() for p in teacher.policy.parameters()] == where


def test_a_teacher_is_not_in_its_students_optimizer_and_shares_nothing_with_it():
    agent = small_ppo()
    teacher = teacher_of(agent)
    teacher.take(agent)
    trained = {p.data_ptr() for group in agent.policy.optimizer.param_groups for p in group["params"]}
    frozen = list(teacher.policy.parameters())
    assert not trained & {p.data_ptr() for p in frozen}
    assert not any(p.requires_grad for p in frozen)


def test_taking_and_asking_a_teacher_leaves_no_trace():
    agent = small_ppo(policy_kwargs={"features_extractor_class": Regularized})
    agent.policy.train(True)
    teacher = teacher_of(agent)
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    with untouched_generators():
        for _ in range(2):
            teacher.take(agent)
            targets = teacher.targets(observe(VECTOR))
    assert all(torch.equal(before[name], tensor) for name, tensor in agent.policy.state_dict().items())
    assert all(module.training for module in agent.policy.modules())
    assert not targets.requires_grad


def test_a_teacher_follows_the_running_statistics_of_batch_norm():
    agent = small_ppo(policy_kwargs={"features_extractor_class": Regularized})
    teacher = teacher_of(agent)
    teacher.take(agent)
    first = teacher.targets(observe(VECTOR))
    agent.policy.features_extractor.net[1].running_mean += 1.0
    assert torch.equal(teacher.targets(observe(VECTOR)), first)
    teacher.take(agent)
    assert not torch.equal(teacher.targets(observe(VECTOR)), first)


# VecNormalize


def normalized_agent():
    env = VecNormalize(vec_env(action_space=BOX, n=2), clip_obs=1.0)
    agent = small_ppo(env)
    agent.learn(16)
    return agent, env


def test_with_vecnormalize_a_teachers_answer_to_a_raw_state_is_constant_while_the_statistics_move():
    agent, env = normalized_agent()
    teacher, raw = teacher_of(agent), observe(VECTOR)
    teacher.take(agent)
    before, mean = teacher.targets(raw), env.obs_rms.mean.copy()
    as_then = torch.as_tensor(env.normalize_obs(raw.numpy().copy()))
    torch.testing.assert_close(before, teacher.actor.parameters(agent.policy, as_then).detach())
    for _ in range(3):
        env.obs_rms.update(np.random.default_rng(0).normal(3.0, 2.0, (50, 3)))
        assert torch.equal(teacher.targets(raw), before)
    assert not np.allclose(env.obs_rms.mean, mean), "the statistics did not move"
    teacher.take(agent)
    assert not torch.equal(teacher.targets(raw), before), "a new teacher sees through new statistics"


# Saved


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("use_sde", [False, True])
def test_a_loaded_teacher_answers_as_the_saved_one(normalize, use_sde):
    env = vec_env(action_space=BOX)
    agent = small_ppo(VecNormalize(env) if normalize else env, use_sde=use_sde)
    agent.learn(16)
    teacher, raw = teacher_of(agent), observe(VECTOR)
    teacher.take(agent)
    tensors = {name: tensor.clone() for name, tensor in teacher.tensors().items()}
    state = json.loads(json.dumps(teacher.state()))
    disturb(agent.policy)
    if normalize:
        agent.env.obs_rms.update(np.full((20, 3), 5.0))

    loaded = teacher_of(agent)
    loaded.load(agent, tensors, state)
    assert torch.equal(loaded.targets(raw), teacher.targets(raw))
    assert (loaded.version, loaded.refreshed_at) == (teacher.version, teacher.refreshed_at)
    loaded.take(agent)
    teacher.take(agent)
    assert torch.equal(loaded.targets(raw), teacher.targets(raw))


def test_a_teacher_without_a_snapshot_can_be_saved_and_loaded():
    agent = small_ppo()
    loaded = teacher_of(agent)
    loaded.load(agent, teacher_of(agent).tensors(), teacher_of(agent).state())
    assert not loaded.ready


@pytest.mark.parametrize(
    ("net_arch", "said"), [([8], r"'.*' is \(6, 3\), \(8, 3\) expected"), ([6, 6], "is on one side only")]
)
def test_a_saved_teacher_of_another_shape_is_refused(net_arch, said):
    agent = small_ppo(policy_kwargs={"net_arch": [6]})
    teacher = teacher_of(agent)
    teacher.take(agent)
    other = small_ppo(policy_kwargs={"net_arch": net_arch})
    with pytest.raises(ValueError, match=f"the saved teacher does not fit this policy: .*{said}"):
        teacher_of(other).load(other, teacher.tensors(), teacher.state())


def test_a_teacher_that_is_ready_but_has_no_tensors_is_refused():
    agent = small_ppo()
    teacher = teacher_of(agent)
    teacher.take(agent)
    with pytest.raises(ValueError, match="the saved teacher does not fit this policy: it has no tensors"):
        teacher_of(agent).load(agent, {}, teacher.state())
