"""Teachers made of the agent's own past: averages of weights, ensembles, first and stored answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from agents import Regularized, untouched_generators
from gymnasium import spaces
from helpers import VECTOR, Handing, collect, disturb, normalized_env, observe, small_agent, small_ppo, vec_env
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsd.actors import actor_for
from rlsd.observations import Normalization, as_items
from rlsd.states import ReservoirStore
from rlsd.targets import TargetCache
from rlsd.teachers import Ema, Ensemble, Origin, Stored, TargetSpec

BOX = spaces.Box(-1.0, 1.0, (2,))
RAW = observe(VECTOR)


def built(answer, agent):
    return answer.build(actor_for(agent))


def at_updates(teacher, agent, n: int, size: int = 4):
    """Refresh a teacher before each of ``n`` updates, each of which changes the agent; gives the agent's answers."""
    seen = []
    for update in range(1, n + 1):
        agent.num_timesteps = update * size
        with untouched_generators():
            teacher.refresh(agent)
        with torch.no_grad():
            normalization = Normalization.of(agent)
            shown = RAW if normalization is None else normalization(RAW)
            seen.append(teacher.actor.family.normalized(teacher.actor.parameters(agent.policy, shown)))
        disturb(agent.policy, 0.2, seed=update)
    return seen


def reloaded(answer, teacher, agent):
    """A teacher as it comes back from a file."""
    tensors = {name: tensor.clone() for name, tensor in teacher.tensors().items()}
    loaded = built(answer, agent)
    loaded.wants = teacher.wants
    loaded.load(agent, tensors, json.loads(json.dumps(teacher.state())))
    return loaded


# A moving average


@given(decay=st.floats(0.0, 1.0), values=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=8))
@settings(max_examples=25)
def test_the_average_is_the_policies_weighted_by_powers_of_the_decay(decay, values):
    agent = small_ppo(policy_kwargs={"net_arch": []})
    teacher = built(Ema(decay=decay), agent)
    for i, value in enumerate(values):
        with torch.no_grad():
            agent.policy.action_net.bias.fill_(value)
        agent.num_timesteps = i + 1
        assert teacher.refresh(agent)
        assert teacher.version == i + 1
    weights = decay ** np.arange(len(values))[::-1].astype(float)
    expected = np.average(values, weights=weights)
    np.testing.assert_allclose(teacher.policy.action_net.bias.numpy(), expected, atol=1e-5)


def test_a_decay_near_one_is_a_slow_teacher_and_a_decay_of_zero_a_snapshot():
    found = {}
    for decay in (0.0, 0.9):
        agent = small_ppo(policy_kwargs={"net_arch": []})
        teacher = built(Ema(decay=decay), agent)
        for value in (0.0, 1.0):
            with torch.no_grad():
                agent.policy.action_net.bias.fill_(value)
            agent.num_timesteps += 1
            teacher.refresh(agent)
        found[decay] = float(teacher.policy.action_net.bias[0])
    assert found[0.0] == 1.0
    assert found[0.9] == pytest.approx(1 / 1.9), "the debiased mean of 0.9 * 0 + 1, over weights 0.9 + 1"


def test_the_average_takes_the_buffers_of_batch_norm_as_they_are():
    agent = small_ppo(policy_kwargs={"features_extractor_class": Regularized})
    teacher = built(Ema(), agent)
    for step in (1, 2):
        agent.policy.features_extractor.net[1].running_mean += 1.0
        agent.num_timesteps = step
        teacher.refresh(agent)
    live, mine = agent.policy.features_extractor.net[1], teacher.policy.features_extractor.net[1]
    assert torch.equal(live.running_mean, mine.running_mean)
    assert live.running_mean.data_ptr() != mine.running_mean.data_ptr()


def test_an_average_that_is_begun_anew_is_the_agent_of_then_and_has_forgotten_the_others():
    agent = small_ppo(policy_kwargs={"net_arch": []})
    teacher = built(Ema(decay=0.5), agent)
    teacher.restart(agent)
    assert not teacher.ready, "before the first update nobody is taught"
    for step, value in enumerate((8.0, 4.0, 1.0), start=1):
        with torch.no_grad():
            agent.policy.action_net.bias.fill_(value)
        agent.num_timesteps = step
        teacher.refresh(agent) if value != 4.0 else teacher.restart(agent)
    assert float(teacher.policy.action_net.bias[0]) == pytest.approx((0.5 * 4 + 1) / 1.5)
    assert teacher.version == 3
    loaded = reloaded(Ema(decay=0.5), teacher, agent)
    assert loaded.weight == teacher.weight == 1.5


# An ensemble


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_an_ensembles_target_joins_its_latest_members(name, product):
    agent = small_agent(name)
    actor = actor_for(agent)
    teacher = Ensemble(k=3, every=4).build(actor)
    teacher.wants = TargetSpec(spread=True, product=product)
    seen = []
    for update in range(1, 6):
        agent.num_timesteps = 4 * update
        assert teacher.refresh(agent)
        with torch.no_grad():
            seen.append(actor.family.normalized(actor.parameters(actor.module(agent.policy).train(False), RAW)))
        disturb(agent.policy, 0.2, seed=update)
    members, weights = torch.stack(seen[-3:]), torch.full((3,), 1 / 3)
    join = actor.family.product if product else actor.family.mixture
    rows = teacher.rows(RAW)
    torch.testing.assert_close(rows[:, :-1], join(members, weights))
    torch.testing.assert_close(rows[:, -1], actor.family.spread(members, weights))
    assert (rows[:, -1] > 0).all()


def test_an_ensembles_values_are_the_mean_of_its_members():
    agent = small_ppo()
    teacher = built(Ensemble(k=2, every=4), agent)
    teacher.wants = TargetSpec(value=True)
    expected = []
    for update in (1, 2):
        agent.num_timesteps = 4 * update
        teacher.refresh(agent)
        expected.append(agent.policy.predict_values(RAW).squeeze(-1).detach())
        disturb(agent.policy, 0.2)
    torch.testing.assert_close(teacher.rows(RAW)[:, -1], torch.stack(expected).mean(0))


def test_a_member_sees_through_the_statistics_of_its_own_time():
    env = normalized_env(actions=BOX)
    agent = small_ppo(env)
    teacher = built(Ensemble(k=2, every=4), agent)
    seen = []
    for update in (1, 2):
        agent.num_timesteps = 4 * update
        teacher.refresh(agent)
        with torch.no_grad():
            seen.append(teacher.actor.parameters(agent.policy, torch.as_tensor(env.normalize_obs(RAW.numpy().copy()))))
        env.obs_rms.mean = env.obs_rms.mean + 0.2
    torch.testing.assert_close(teacher.targets(RAW), teacher.actor.family.mixture(torch.stack(seen), torch.ones(2) / 2))


# The first, and those of their own time


def test_the_origin_is_the_agent_before_its_first_update_and_stays_so():
    agent = small_ppo()
    teacher = built(Origin(), agent)
    seen = at_updates(teacher, agent, 4)
    assert teacher.version == 1
    assert torch.equal(teacher.targets(RAW), seen[0])
    loaded = reloaded(Origin(), teacher, agent)
    agent.num_timesteps = 100
    assert not loaded.refresh(agent)
    assert torch.equal(loaded.targets(RAW), seen[0])


def test_a_stored_target_is_that_of_the_policy_that_saw_the_state():
    agent = small_ppo()
    teacher = built(Stored(), agent)
    family = teacher.actor.family
    replay = TargetCache(ReservoirStore(64, 8, np.random.SeedSequence(0), torch.device("cpu")), teacher)
    expected = []
    for update in range(4):
        states = np.random.default_rng(update).uniform(-1, 1, (8, 3)).astype(np.float32)
        new = collect(replay, agent, Handing(as_items(states)))
        agent.num_timesteps += 8
        teacher.refresh(agent)
        replay.teach(new)  # as the distiller does for an eager teacher
        with torch.no_grad():
            now = torch.as_tensor(states)
            expected.append(family.normalized(teacher.actor.parameters(agent.policy, now)))
        replay.begin(20)
        for _ in range(20):
            replay.next()
        disturb(agent.policy, 0.3, seed=update)
        torch.testing.assert_close(replay.targets[: len(torch.cat(expected))], torch.cat(expected))


# Saved


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("answer", [Ema(0.7), Ensemble(k=2, every=4), Stored(), Origin()], ids=lambda a: a.name)
def test_a_loaded_teacher_goes_on_as_the_saved_one(answer, normalize):
    agent = small_ppo(normalized_env(actions=BOX) if normalize else vec_env(action_space=BOX))
    teacher = built(answer, agent)
    at_updates(teacher, agent, 3)
    loaded = reloaded(answer, teacher, agent)
    for step in (20, 40, 60):
        assert torch.equal(loaded.targets(RAW), teacher.targets(RAW))
        assert loaded.version == teacher.version
        disturb(agent.policy, 0.1, seed=step)
        agent.num_timesteps = step
        assert loaded.refresh(agent) == teacher.refresh(agent)
        assert loaded.age(agent) == teacher.age(agent)


@pytest.mark.parametrize("answer", [Ema(), Ensemble(), Stored(), Origin()], ids=lambda a: a.name)
def test_a_teacher_is_saved_and_loaded_before_it_has_taught(answer):
    agent = small_ppo()
    assert not reloaded(answer, built(answer, agent), agent).ready


def test_a_saved_ensemble_without_its_members_is_refused():
    agent = small_ppo()
    teacher = built(Ensemble(k=3, every=4), agent)
    at_updates(teacher, agent, 2)
    with pytest.raises(ValueError, match="it has 0 members"):
        built(Ensemble(k=3, every=4), agent).load(agent, {}, teacher.state())
