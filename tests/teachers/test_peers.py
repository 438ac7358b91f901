"""Agents of one group find each other, and learn from each other's copies, never from their own."""

from __future__ import annotations

import gc
import json

import cloudpickle
import pytest
import torch
from agents import untouched_generators
from gymnasium import spaces
from helpers import VECTOR, disturb, observe, small_agent, small_ppo, vec_env
from torch.testing import assert_close

import rlsd
from rlsd.actors import actor_for
from rlsd.teachers import Peers

RAW = observe(VECTOR)


@pytest.fixture
def group(request):
    return request.node.name


def member(group, seed, **changes):
    agent = small_ppo(seed=seed, **changes)
    disturb(agent.policy, 0.5, seed=seed)
    return agent, Peers(group=group, every=4).build(actor_for(agent))


def refresh(*members):
    found = []
    for agent, teacher in members:
        agent.num_timesteps += 4
        with untouched_generators():
            found.append(teacher.refresh(agent))
    return found


def answers_of(agent):
    actor = actor_for(agent)
    with torch.no_grad():
        return actor.family.normalized(actor.parameters(actor.module(agent.policy), RAW))


def test_two_agents_teach_each_other_and_neither_itself(group):
    a, b = member(group, 1), member(group, 2)
    assert refresh(a) == [False]
    assert not a[1].ready, "there is nobody yet"
    assert refresh(b, a) == [True, True]
    assert_close(a[1].targets(RAW), answers_of(b[0]), rtol=1e-5, atol=1e-5)
    assert_close(b[1].targets(RAW), answers_of(a[0]), rtol=1e-5, atol=1e-5)


def test_a_copy_changes_only_when_one_looks_again(group):
    a, b = member(group, 1), member(group, 2)
    refresh(a, b)
    refresh(a)
    before = a[1].targets(RAW)
    disturb(b[0].policy, 0.3)
    refresh(b)
    assert torch.equal(a[1].targets(RAW), before)
    assert refresh(a) == [True]
    assert_close(a[1].targets(RAW), answers_of(b[0]), rtol=1e-5, atol=1e-5)
    assert refresh(a) == [False], "the peer has shown nothing new"


def test_three_agents_of_different_sizes_learn_from_the_mixture_of_the_others(group):
    a, b, c = (member(group, i, policy_kwargs={"net_arch": [4 * i]}) for i in (1, 2, 3))
    refresh(a, b, c, a)
    expected = a[1].actor.family.mixture(torch.stack([answers_of(b[0]), answers_of(c[0])]), torch.ones(2) / 2)
    torch.testing.assert_close(a[1].targets(RAW), expected)
    assert a[1].metrics() == {"peers": 2.0}


def test_other_groups_and_agents_that_are_gone_do_not_teach(group):
    a, b, c = member(group, 1), member(group, 2), member(f"{group} too", 3)
    refresh(b, c, a)
    assert list(a[1].copies) == [b[1]._place]
    place = b[1]._place
    del b
    gc.collect()
    assert [peer._place for peer in a[1].peers()] == []
    assert list(a[1].copies) == [place], "the copy stays until there is another"


@pytest.mark.parametrize(
    "other",
    [
        lambda: small_ppo(vec_env(action_space=spaces.Discrete(3))),
        lambda: small_ppo(vec_env(spaces.Box(-1, 1, (2,)))),
        lambda: small_agent("DQN", vec_env()),
    ],
    ids=["actions", "observations", "family"],
)
def test_agents_that_cannot_teach_each_other_are_told_so(group, other):
    a, stranger = member(group, 1), other()
    b = stranger, Peers(group=group, every=4).build(actor_for(stranger))
    refresh(b)
    with pytest.raises(ValueError, match=r"the agents of the group '.*' cannot teach each other: .*another group"):
        refresh(a)


def test_a_recurrent_agent_is_refused_with_what_works_instead(group):
    agent = small_agent("RecurrentPPO")
    with pytest.raises(TypeError, match=r"use teacher 'ema' or 'ensemble', or agents without a memory") as raised:
        rlsd.distill(agent, {"teacher": Peers(group=group)})
    assert "\n" not in str(raised.value)
    for teacher in ("ema", "ensemble"):
        assert rlsd.distill(agent, {"teacher": teacher}).distiller is not None


def test_a_group_needs_a_name():
    with pytest.raises(ValueError, match=r"teacher\.group must be a name, got ''"):
        Peers(group="")


def saved(teacher):
    return {n: t.clone() for n, t in teacher.tensors().items()}, json.loads(json.dumps(teacher.state()))


@pytest.mark.parametrize("sizes", [(6, 6), (6, 9)], ids=["alike", "of different sizes"])
def test_loaded_peers_go_on_as_the_saved_ones(group, sizes):
    pair = [member(group, i, policy_kwargs={"net_arch": [size]}) for i, size in enumerate(sizes)]
    refresh(*pair, *pair)
    files = [saved(teacher) for _, teacher in pair]
    again = [(agent, Peers(group=f"{group} again", every=4).build(actor_for(agent))) for agent, _ in pair]
    for (agent, teacher), file in zip(again, files, strict=True):
        teacher.load(agent, *file)
        assert saved(teacher)[0].keys() == file[0].keys(), "saved again at once, nothing is lost"
    for _ in range(3):
        for one, two in zip(pair, again, strict=True):
            disturb(one[0].policy, 0.1)
            one[0].num_timesteps += 4
            assert two[1].refresh(two[0]) == one[1].refresh(one[0])
            assert torch.equal(two[1].targets(RAW), one[1].targets(RAW))


def test_a_peer_of_another_size_that_is_missing_is_asked_for(group):
    a, b = (member(group, i, policy_kwargs={"net_arch": [5 + i]}) for i in (1, 2))
    refresh(a, b, a)
    file = saved(a[1])
    loaded = Peers(group=f"{group} again", every=4).build(actor_for(a[0]))
    loaded.load(a[0], *file)
    with pytest.raises(ValueError, match=r"peer \d+ of the group .* has another network.*load it before training"):
        refresh((a[0], loaded))


def test_a_pickled_peer_is_in_the_group_again(group):
    a, b = member(group, 1), member(group, 2)
    refresh(a, b)
    twin = cloudpickle.loads(cloudpickle.dumps(b[1]))
    assert twin in a[1].peers()
