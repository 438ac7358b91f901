"""Minibatches from several stores at once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import Handing, agent_with_buffer, collect, fill, small_ppo
from hypothesis import given
from hypothesis import strategies as st

from rlsd.observations import as_items
from rlsd.sources import ReplaySource
from rlsd.states import Mixture, Recent, ReplayBuffer, Reservoir
from rlsd.targets import TargetCache
from rlsd.teachers import TargetSpec

RECENT, RESERVOIR = Recent(capacity=8, batch_size=4), Reservoir(capacity=16, batch_size=4)


def numbered(start: int, stop: int):
    return as_items(np.arange(start, stop, dtype=np.float32)[:, None])


def make_store(batch_size: int = 8, shares=(), parts=(RECENT, RESERVOIR), agent=None, seed: int = 0):
    answer = Mixture(parts=parts, shares=shares, batch_size=batch_size)
    return answer.build(np.random.SeedSequence(seed), small_ppo() if agent is None else agent)


def gathered(store, slots):
    return store.gather(slots, torch.from_numpy(slots))


def test_each_part_takes_up_every_state_and_gives_its_share():
    store = make_store(shares=(1, 3))
    assert [part.batch_size for part in store.parts] == [2, 6]
    new = collect(store, None, Handing(numbered(0, 12)))
    assert store.count == 8 + 12
    assert sorted(new) == sorted(store.slots())
    drawn = store.draw(50)
    assert drawn.shape == (50, 8)
    assert ((drawn < 8).sum(axis=1) == 2).all()
    recent = gathered(store, np.arange(8)).flatten()
    assert sorted(recent.tolist()) == list(range(4, 12))


@given(
    shares=st.lists(st.floats(0.01, 100), min_size=2, max_size=4),
    batch_size=st.integers(4, 200),
)
def test_shares_add_up_and_are_kept_as_nearly_as_states_can_be_counted(shares, batch_size):
    counts = Mixture(parts=[RECENT] * len(shares), shares=shares, batch_size=batch_size).counts()
    assert sum(counts) == batch_size
    assert min(counts) >= 1
    exact = np.array(shares) / sum(shares) * batch_size
    assert all(
        abs(count - wanted) < 1 or count == 1 or min(exact) < 1 for count, wanted in zip(counts, exact, strict=True)
    )


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_slots_give_the_states_of_the_parts_in_the_order_asked_for(sizes, seed):
    store, start = make_store(), 0
    for size in sizes:
        collect(store, None, Handing(numbered(start, start + size)))
        start += size
    slots = np.random.default_rng(seed).choice(store.slots(), 20)
    found = gathered(store, slots).flatten().tolist()
    for slot, state in zip(slots, found, strict=True):
        part, own = (store.parts[0], slot) if slot < 8 else (store.parts[1], slot - 8)
        assert state == gathered(part, np.array([own])).item()


def test_an_empty_part_leaves_its_share_out():
    store = make_store()
    store.parts[1].add(numbered(0, 5))
    store.count = 5
    assert store.draw(3).shape == (3, 4)


def test_the_agents_own_buffer_can_be_a_part():
    agent, source = agent_with_buffer(8, 2), ReplaySource()
    store = make_store(parts=(RECENT, ReplayBuffer()), agent=agent)
    fill(agent, 0, 3)
    assert len(collect(store, agent, source)) == 12
    assert len(collect(store, agent, source)) == 0
    fill(agent, 3, 2)
    assert len(collect(store, agent, source)) == 8
    assert not store.offers
    assert len(gathered(store, store.draw(1)[0])) == 8


class Echo:
    version, per_state, wants = 1, False, TargetSpec()
    actor = SimpleNamespace(family=SimpleNamespace(size=1))

    def ask(self, observations):
        return observations

    targets = ask


def test_targets_stay_with_their_states_through_saving():
    def make():
        return TargetCache(make_store(seed=1), Echo())

    replay, source = make(), Handing(numbered(0, 10))
    collect(replay, None, source)
    replay.begin(3)
    batch = replay.next()
    assert torch.equal(batch.states, batch.targets)
    loaded = make()
    tensors = {name: tensor.clone() for name, tensor in replay.tensors().items()}
    loaded.load(tensors, json.loads(json.dumps(replay.state())))
    assert torch.equal(loaded.targets, replay.targets)
    assert (loaded.versions == replay.versions).all()
    source.states = numbered(10, 13)
    for each in (replay, loaded):
        collect(each, None, source)
        each.begin(3)
    for _ in range(3):
        one, two = replay.next(), loaded.next()
        assert torch.equal(one.states, two.states)
        assert torch.equal(two.states, two.targets)
    assert torch.equal(loaded.sample_targets(), states_of(loaded))


def states_of(replay):
    return gathered(replay.store, replay.store.slots())


def test_recent_and_reservoir_are_the_parts_that_nobody_named():
    assert [part.name for part in Mixture().parts] == ["recent", "reservoir"]
    assert Mixture().counts() == [64, 64]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"parts": ["recent"]}, r"states\.parts must be two stores at least, got 1"),
        ({"parts": ["recent", "minibatch"]}, r"states\.parts cannot hold 'minibatch'"),
        ({"parts": ["recent", "mixture"]}, r"states\.parts cannot hold 'mixture'"),
        ({"shares": [1.0]}, r"states\.shares must be 2 numbers, one a part, got \[1\.0\]"),
        ({"shares": [1.0, 0.0]}, r"states\.shares\[1\] must be a number > 0, got 0\.0"),
        ({"shares": 3}, r"states\.shares must be a list of numbers > 0, got 3"),
        ({"batch_size": 1}, r"states\.batch_size must be at least the 2 parts, got 1"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Mixture(**fields)
