"""The teacher is asked about a state once, and only if the state is drawn."""

from __future__ import annotations

import collections
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import Handing, collect, small_ppo

from rlsd import Snapshot
from rlsd.actors import actor_for
from rlsd.chunks import FIRST, LARGEST
from rlsd.observations import as_items
from rlsd.states import ReservoirStore
from rlsd.states.base import MOST_AHEAD
from rlsd.targets import TargetCache
from rlsd.teachers import TargetSpec, Teacher


class Counting(Teacher):
    """A teacher that remembers what it was asked, and answers with the state and its own version."""

    def __init__(self) -> None:
        super().__init__(actor=SimpleNamespace(family=SimpleNamespace(size=2)))
        self.version = 1
        self.asked: collections.Counter[tuple[float, int]] = collections.Counter()
        self.calls: list[int] = []

    def refresh(self, agent):
        raise NotImplementedError

    def targets(self, observations):
        self.calls.append(len(observations))
        self.asked.update((state, self.version) for state in observations.flatten().tolist())
        return torch.cat([observations, torch.full_like(observations, float(self.version))], dim=-1)


def numbered(start: int, stop: int) -> dict[str, np.ndarray]:
    return as_items(np.arange(start, stop, dtype=np.float32)[:, None])


def make_cache(
    capacity: int = 16, batch_size: int = 4, states: int = 16, teacher: Counting | None = None
) -> TargetCache:
    store = ReservoirStore(capacity, batch_size, np.random.SeedSequence(0), torch.device("cpu"))
    cache = TargetCache(store, teacher or Counting())
    if states:
        collect(cache, None, Handing(numbered(0, states)))
    return cache


def update(cache: TargetCache, batches: int) -> None:
    """Draw the minibatches of one update and check that each target is today's teacher's, for that very state."""
    teacher = cache.teacher
    cache.begin(batches)
    for _ in range(batches):
        batch = cache.next()
        expected = torch.cat([batch.states, torch.full_like(batch.states, float(teacher.version))], dim=-1)
        assert torch.equal(batch.targets, expected)


def test_a_teacher_is_asked_exactly_once_about_a_state():
    cache = make_cache()
    teacher = cache.teacher
    for _ in range(5):
        update(cache, 20)
    assert set(teacher.asked) == {(float(state), 1) for state in range(16)}
    assert set(teacher.asked.values()) == {1}


def test_a_new_teacher_is_asked_once_more_and_only_about_states_that_are_drawn():
    cache = make_cache()
    teacher = cache.teacher
    for version in (1, 2, 3):
        teacher.version = version
        update(cache, 2)
        update(cache, 2)
    assert set(teacher.asked.values()) == {1}
    drawn_at_most = 2 * 2 * 4
    for version in (1, 2, 3):
        assert sum(v == version for _, v in teacher.asked) <= drawn_at_most


def test_a_state_in_an_overwritten_slot_is_asked_about_anew():
    cache = make_cache()
    teacher = cache.teacher
    update(cache, 30)
    for start in range(16, 400, 16):
        collect(cache, None, Handing(numbered(start, start + 16)))
        update(cache, 30)  # checks each target
    assert set(teacher.asked.values()) == {1}, "a state that stayed was asked about again"
    assert max(state for state, _ in teacher.asked) > 16, "no slot was overwritten"


def test_what_the_teacher_is_asked_does_not_grow_with_the_number_of_stored_states():
    asked = {}
    for capacity in (1_000, 100_000):
        cache = make_cache(capacity, batch_size=8, states=capacity)
        teacher = cache.teacher
        update(cache, 10)
        asked[capacity] = sum(teacher.asked.values())
    assert all(count <= 10 * 8 for count in asked.values()), asked


def test_the_missing_targets_of_an_update_come_from_one_forward_pass():
    cache = make_cache()
    teacher = cache.teacher
    cache.begin(10)
    for _ in range(10):
        cache.next()
    assert len(teacher.calls) == 1


def test_a_forward_pass_is_never_larger_than_a_chunk():
    cache = make_cache(3 * LARGEST, batch_size=LARGEST, states=3 * LARGEST)
    teacher = cache.teacher
    update(cache, 4)
    assert max(teacher.calls) == LARGEST
    assert teacher.calls[0] == FIRST and len(teacher.calls) == 1 + -(-(sum(teacher.calls) - FIRST) // LARGEST)
    assert set(teacher.asked.values()) == {1}


class Narrow(Counting):
    """A teacher that forgets part of its answer."""

    def __init__(self, cut) -> None:
        super().__init__()
        self.cut = cut

    def targets(self, observations):
        return super().targets(observations)[self.cut]


@pytest.mark.parametrize(
    ("cut", "found"),
    [((slice(None), slice(1)), (16, 1)), ((slice(1),), (1, 2)), ((slice(None), 0), (16,)), (0, (2,))],
)
def test_an_answer_of_another_shape_is_refused_and_not_spread_over_all_states(cut, found):
    said = f"Narrow.targets must return the shape (16, 2), got {found}"
    with pytest.raises(ValueError, match=re.escape(said)):
        make_cache(teacher=Narrow(cut)).teach(np.arange(16))


class Valueless(Counting):
    """A teacher that forgets to answer with values."""

    wants = TargetSpec(value=True)

    def rows(self, observations):
        return self.targets(observations)


def test_values_beside_an_answer_count_as_part_of_its_shape():
    cache = make_cache(teacher=Valueless())
    with pytest.raises(ValueError, match=r"Valueless\.rows must return the shape \(16, 3\), got \(16, 2\)"):
        cache.teach(np.arange(16))


def test_an_update_may_take_more_minibatches_than_were_expected():
    cache = make_cache()
    teacher = cache.teacher
    cache.begin(2)
    for _ in range(2 * MOST_AHEAD):
        assert cache.next().states.shape == (4, 1)
    assert set(teacher.asked.values()) == {1}


def test_minibatches_drawn_ahead_for_one_update_do_not_reach_the_next():
    cache = make_cache()
    teacher = cache.teacher
    cache.begin(10)  # the update breaks off
    teacher.version = 2
    update(cache, 10)


def test_a_loaded_replay_goes_on_with_the_identical_stream_and_asks_nothing_again():
    cache = make_cache()
    teacher = cache.teacher
    update(cache, 30)
    tensors = {name: tensor.clone() for name, tensor in cache.tensors().items()}
    loaded = make_cache(states=0, teacher=teacher)
    loaded.load(tensors, json.loads(json.dumps(cache.state())))
    calls = len(teacher.calls)
    streams = []
    for one in (cache, loaded):
        one.begin(5)
        streams.append([one.next() for _ in range(5)])
    for original, resumed in zip(*streams, strict=True):
        assert torch.equal(original.states, resumed.states)
        assert torch.equal(original.targets, resumed.targets)
    assert len(teacher.calls) == calls


@pytest.mark.parametrize("name", ["targets", "versions"])
def test_saved_targets_that_do_not_fit_are_refused(name):
    cache = make_cache()
    update(cache, 2)
    tensors = cache.tensors()
    tensors[name] = tensors[name][1:]
    with pytest.raises(ValueError, match="saved targets do not fit"):
        make_cache(states=0).load(tensors, cache.state())


def test_no_target_takes_memory_before_one_is_made_and_only_those_made_are_saved():
    cache = make_cache(capacity=1000, states=500)
    teacher = cache.teacher
    assert cache._targets is None
    assert cache.tensors()["targets"].shape == (0, 2)
    assert cache._targets is None, "saving made some"
    update(cache, 3)
    assert 0 < len(cache.tensors()["targets"]) == len(teacher.asked) <= 3 * 4


def test_targets_that_were_saved_of_all_states_are_loaded():
    cache = make_cache()
    update(cache, 2)
    tensors = cache.tensors() | {"targets": cache.targets.clone()}  # as earlier versions did
    assert (cache.versions == 0).any()
    loaded = make_cache(states=0)
    loaded.load(tensors, cache.state())
    made = cache.versions > 0
    assert torch.equal(loaded.targets[made], cache.targets[made])
    assert (loaded.versions == cache.versions).all()


def test_a_real_teachers_targets_are_what_it_would_do():
    agent = small_ppo()
    actor = actor_for(agent)
    teacher = Snapshot().build(actor)
    teacher.take(agent)
    store = ReservoirStore(16, 4, np.random.SeedSequence(0), torch.device("cpu"))
    cache = TargetCache(store, teacher)
    collect(cache, None, Handing(as_items(np.random.default_rng(0).normal(size=(16, 3)))))
    cache.begin(3)
    for _ in range(3):
        batch = cache.next()
        torch.testing.assert_close(batch.targets, teacher.targets(batch.states))
