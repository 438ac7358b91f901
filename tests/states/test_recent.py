"""The newest states, in a ring."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import small_ppo
from hypothesis import given
from hypothesis import strategies as st

from rlsd.observations import as_items
from rlsd.states import Recent, RecentStore

CPU = torch.device("cpu")


def numbered(start: int, stop: int):
    return as_items(np.arange(start, stop, dtype=np.float32)[:, None])


def contents(store: RecentStore) -> list[int]:
    return store.gather(np.arange(store.count), torch.arange(store.count)).flatten().int().tolist()


@given(sizes=st.lists(st.integers(1, 15), min_size=1, max_size=8), capacity=st.integers(1, 8))
def test_exactly_the_newest_states_are_held_and_the_changed_slots_named(sizes, capacity):
    store, start = RecentStore(capacity, 1, np.random.SeedSequence(0), CPU), 0
    for size in sizes:
        before = dict(enumerate(contents(store))) if store.count else {}
        slots = store.add(numbered(start, start + size)).tolist()
        start += size
        assert sorted(contents(store)) == list(range(max(start - capacity, 0), start))
        assert sorted(slots) == [slot for slot, state in enumerate(contents(store)) if before.get(slot) != state]


def test_a_loaded_ring_goes_on_where_the_saved_one_was():
    original = RecentStore(5, 2, np.random.SeedSequence(1), CPU)
    original.add(numbered(0, 7))
    loaded = RecentStore(5, 2, np.random.SeedSequence(2), CPU)
    loaded.load({k: t.clone() for k, t in original.tensors().items()}, json.loads(json.dumps(original.state())))
    for store in (original, loaded):
        store.add(numbered(7, 10))
    assert contents(loaded) == contents(original)
    assert loaded.draw(3).tolist() == original.draw(3).tolist()


def test_a_capacity_smaller_than_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"states\.capacity must be at least states\.batch_size = 32, got 31"):
        Recent(capacity=31, batch_size=32)
    assert Recent(capacity=32, batch_size=32).build(np.random.SeedSequence(0), small_ppo()).capacity == 32
