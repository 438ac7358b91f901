"""The reservoir, a uniform sample of all states of a life, and the agent's own replay buffer, read where it lies."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import untouched_generators
from helpers import (
    OBSERVATION_SPACES,
    SMALL_CNN,
    agent_with_buffer,
    collect,
    fill,
    numbers_in,
    small_agent,
    small_ppo,
    vec_env,
)
from hypothesis import given
from hypothesis import strategies as st

from rlsd import Mixture, ReplayBuffer, Reservoir, distill
from rlsd.observations import as_items, from_items
from rlsd.sources import ReplaySource
from rlsd.states import ReplayBufferStore, ReservoirStore, StateStore
from rlsd.targets import TargetCache
from rlsd.teachers import Teacher

CPU = torch.device("cpu")


def make_store(capacity: int = 8, batch_size: int = 2, seed: int = 0) -> ReservoirStore:
    return ReservoirStore(capacity, batch_size, np.random.SeedSequence(seed), CPU)


def numbered(start: int, stop: int) -> dict[str, np.ndarray]:
    """States that say when they were seen."""
    return as_items(np.arange(start, stop, dtype=np.float32)[:, None])


def offer(store: ReservoirStore, sizes: Iterable[int]) -> ReservoirStore:
    """Offer states, numbered from 0, in batches of these sizes."""
    start = 0
    for size in sizes:
        store.add(numbered(start, start + size))
        start += size
    return store


def contents(store: ReservoirStore) -> list[int]:
    return states_of(store, store.count).flatten().int().tolist()


def states_of(store: StateStore, n: int):
    """The states in the first ``n`` slots."""
    return store.gather(np.arange(n), torch.arange(n))


def algorithm_r(capacity: int, offered: int, generator: np.random.Generator) -> list[int]:
    """Vitter's algorithm R, one state at a time."""
    kept: list[int] = []
    for i in range(offered):
        if i < capacity:
            kept.append(i)
        else:
            slot = int(generator.integers(i + 1))
            if slot < capacity:
                kept[slot] = i
    return kept


def chi_square_bound(degrees: int) -> float:
    """What a chi-square variable exceeds once in 10,000 times (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + 3.719 * part**0.5) ** 3


# Which states stay


@pytest.mark.parametrize("sizes", [[40], [5] * 8, [1] * 40, [3, 20, 1, 16]], ids=["at once", "fives", "ones", "mixed"])
def test_every_state_of_a_life_is_kept_equally_often(sizes):
    offered, capacity, lives = 40, 8, 600
    counts = np.zeros(offered)
    for life in range(lives):
        counts[contents(offer(make_store(capacity, seed=life), sizes))] += 1
    expected = lives * capacity / offered
    # Counts of one life sum to the capacity, hence the factor.
    statistic = ((counts - expected) ** 2 / expected).sum() / (1 - capacity / offered) * (offered - 1) / offered
    assert counts.sum() == lives * capacity
    assert statistic < chi_square_bound(offered - 1), counts


@pytest.mark.parametrize("sizes", [[5], [1] * 5, [1, 3, 1]], ids=["at once", "one by one", "in batches"])
def test_states_lie_where_the_sequential_algorithm_would_put_them_as_often(sizes):
    offered, capacity, lives = 5, 2, 1500
    found, expected = np.zeros((2, capacity, offered))
    for life in range(lives):
        found[range(capacity), contents(offer(make_store(capacity, seed=life), sizes))] += 1
        expected[range(capacity), algorithm_r(capacity, offered, np.random.default_rng(10_000 + life))] += 1
    both = found + expected
    possible = both > 0
    statistic = ((found - expected)[possible] ** 2 / both[possible]).sum()
    assert (found > 0).sum() == (expected > 0).sum(), "a slot holds what it never would, or never what it might"
    assert statistic < chi_square_bound(int(possible.sum()) - capacity), statistic


def test_all_states_are_kept_in_order_until_the_store_is_full():
    store = offer(make_store(8), [3, 4])
    assert contents(store) == [0, 1, 2, 3, 4, 5, 6]
    assert store.count == 7
    assert offer(make_store(8), [3, 4, 5]).count == 8


class Chosen:
    """A generator that draws what it is told."""

    def __init__(self, draws: list[int]) -> None:
        self.draws = draws

    def integers(self, low: int, high: np.ndarray) -> np.ndarray:
        assert (np.array(self.draws) < high).all()
        return np.array(self.draws)


def test_of_several_states_for_the_same_slot_the_last_stays():
    store = offer(make_store(3), [3])
    store._generator = Chosen([1, 1, 5, 0, 1, 0])
    slots = store.add(numbered(3, 9))
    assert contents(store) == [8, 7, 2]
    assert sorted(slots) == [0, 1], "each slot that holds a new state is named once"


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), capacity=st.integers(2, 10))
def test_the_named_slots_are_exactly_those_that_changed(sizes, capacity):
    store, start = make_store(capacity), 0
    for size in sizes:
        before = dict(enumerate(contents(store))) if store.count else {}
        slots = store.add(numbered(start, start + size)).tolist()
        changed = [slot for slot, state in enumerate(contents(store)) if before.get(slot) != state]
        assert sorted(slots) == changed
        start += size
    assert store.seen == start


# What is stored


@pytest.mark.parametrize(
    ("given_as", "kept_as"),
    [
        (np.uint8, torch.uint8),
        (np.int64, torch.int64),
        (np.uint16, torch.int32),
        (np.bool_, torch.bool),
        (np.float32, torch.float32),
        (np.float64, torch.float32),
    ],
)
def test_states_keep_their_dtype_and_floats_take_32_bits(given_as, kept_as):
    store = make_store(4)
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(given_as)
    store.add(as_items(array))
    stored = states_of(store, 3)
    assert stored.dtype == kept_as
    assert stored.tolist() == array.tolist()
    assert store.nbytes == 4 * 2 * stored.element_size()


def test_the_parts_of_a_dict_stay_together():
    store = make_store(6)
    for start in range(0, 50, 5):
        number = np.arange(start, start + 5)
        store.add({"camera": number.astype(np.uint8).reshape(5, 1, 1, 1), "speed": number[:, None] / 2})
    states = states_of(store, 6)
    assert states["camera"].dtype == torch.uint8
    assert (states["camera"].flatten() / 2).tolist() == states["speed"].flatten().tolist()


def test_a_stored_state_does_not_change_with_the_array_it_came_from():
    store, array = make_store(4), np.ones((3, 1), dtype=np.float32)
    store.add(as_items(array))
    array[:] = 7
    assert contents(store) == [1, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_never_enters_and_is_counted(bad):
    store = make_store(4)
    array = np.arange(10, dtype=np.float32).reshape(5, 2)
    array[1, 0] = array[3, 1] = bad
    slots = store.add(as_items(array))
    assert slots.tolist() == [0, 1, 2]
    assert states_of(store, 3).tolist() == [[0, 1], [4, 5], [8, 9]]
    assert (store.count, store.seen, store.rejected) == (3, 3, 2)


def test_a_state_that_32_bits_cannot_hold_never_enters():
    store = make_store(4)
    store.add(as_items(np.array([[1.0], [1e300], [2.0]])))
    assert contents(store) == [1, 2], "it would be infinite where it is stored"
    assert store.rejected == 1


def test_one_part_that_is_not_finite_keeps_the_whole_state_out():
    store = make_store(4)
    camera, speed = np.array([[1], [2], [3]], dtype=np.uint8), np.array([[0.1], [np.nan], [0.3]])
    store.add({"camera": camera, "speed": speed})
    assert states_of(store, 2)["camera"].tolist() == [[1], [3]]
    assert store.rejected == 1


def test_a_batch_without_one_finite_state_leaves_the_store_empty():
    store = make_store(4)
    assert store.add(as_items(np.full((3, 2), np.nan))).tolist() == []
    assert (store.count, store.rejected) == (0, 3)


# What is drawn


def test_minibatches_are_drawn_uniformly_from_what_is_stored():
    store = offer(make_store(10, batch_size=5), [6])
    drawn = store.draw(2000)
    assert drawn.shape == (2000, 5)
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert counts[6:].sum() == 0, "an empty slot was drawn"
    expected = drawn.size / 6
    assert ((counts[:6] - expected) ** 2 / expected).sum() < chi_square_bound(5)


def test_the_store_draws_from_its_own_generator_only():
    with untouched_generators():
        offer(make_store(4), [10, 10]).draw(3)


def test_the_seed_decides_everything():
    one, same, other = (offer(make_store(4, seed=seed), [30]) for seed in (1, 1, 2))
    assert contents(one) == contents(same) != contents(other)
    assert one.draw(5).tolist() == same.draw(5).tolist()


# What is saved


def test_a_loaded_store_goes_on_with_the_identical_stream():
    original = offer(make_store(6, seed=1), [4, 20])
    original.add(as_items(np.full((1, 1), np.nan, dtype=np.float32)))
    tensors = {key: tensor.clone() for key, tensor in original.tensors().items()}
    loaded = make_store(6, seed=2)
    loaded.load(tensors, json.loads(json.dumps(original.state())))
    assert contents(loaded) == contents(original)
    assert (loaded.seen, loaded.rejected) == (original.seen, original.rejected)
    for start in (24, 31, 60):
        slots = [store.add(numbered(start, start + 7)).tolist() for store in (original, loaded)]
        assert slots[0] == slots[1]
        assert original.draw(3).tolist() == loaded.draw(3).tolist()
    assert contents(loaded) == contents(original)


def test_a_store_that_is_not_full_is_saved_without_its_empty_slots_and_fills_up_after_loading():
    original = offer(make_store(8), [3])
    assert [len(tensor) for tensor in original.tensors().values()] == [3]
    loaded = make_store(8)
    loaded.load(original.tensors(), original.state())
    for store in (original, loaded):
        store.add(numbered(3, 6))
    assert contents(loaded) == contents(original) == [0, 1, 2, 3, 4, 5]


def test_an_empty_store_can_be_saved_and_loaded():
    loaded = make_store()
    loaded.load(make_store().tensors(), make_store().state())
    assert contents(offer(loaded, [2])) == [0, 1]


@pytest.mark.parametrize(("capacity", "missing"), [(3, 0), (3, 1), (6, 1)])
def test_saved_states_that_do_not_fit_are_refused(capacity, missing):
    original = offer(make_store(6), [5])
    tensors = {key: tensor[missing:] for key, tensor in original.tensors().items()}
    with pytest.raises(ValueError, match=rf"do not fit: 5 said, \[{5 - missing}\] found, capacity {capacity}"):
        make_store(capacity).load(tensors, original.state())


def test_saved_states_without_their_tensors_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        make_store(6).load({}, offer(make_store(6), [5]).state())


# The answer


def test_a_capacity_smaller_than_the_batch_is_refused():
    with pytest.raises(ValueError, match=r"states\.capacity must be at least states\.batch_size = 32, got 31"):
        Reservoir(capacity=31, batch_size=32)
    assert Reservoir(capacity=32, batch_size=32).build(np.random.SeedSequence(0), small_ppo()).capacity == 32


def test_a_reservoir_takes_up_all_that_a_source_hands_over_and_tells_the_slots():
    agent, source, store = agent_with_buffer(8, 2), ReplaySource(), make_store(16)
    first = fill(agent, 0, 3)
    assert collect(store, agent, source).tolist() == list(range(6))
    assert collect(store, agent, source).tolist() == []
    assert numbers_in(states_of(store, 6).tolist()) == first


# The agent's own replay buffer


def buffer_store(agent, batch_size: int = 4) -> ReplayBufferStore:
    return ReplayBuffer(batch_size=batch_size).build(np.random.SeedSequence(0), agent)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), rows=st.integers(1, 7), n_envs=st.integers(1, 3))
def test_each_slot_of_the_agents_buffer_is_the_state_that_lies_there(sizes, rows, n_envs):
    agent, source, first = agent_with_buffer(rows, n_envs), ReplaySource(), 0
    store = buffer_store(agent)
    before: dict[int, tuple[int, int]] = {}
    for size in sizes:
        fill(agent, first, size)
        first += size
        named = collect(store, agent, source).tolist()
        assert store.count == min(first, rows) * n_envs
        slots = np.arange(store.count)
        found = dict(enumerate(numbers_in(store.gather(slots, torch.from_numpy(slots)).tolist())))
        # Step t of environment e lies in row t modulo the number of rows.
        expected = {}
        for step in range(max(first - rows, 0), first):
            expected |= {step % rows * n_envs + env: (step, env) for env in range(n_envs)}
        assert found == expected
        assert sorted(named) == sorted(slot for slot in found if found[slot] != before.get(slot))
        before = found


def test_no_second_copy_of_the_agents_buffer_is_kept():
    agent = agent_with_buffer(16, 2)
    store = buffer_store(agent)
    fill(agent, 0, 10)
    collect(store, agent, ReplaySource())
    assert store.nbytes == 0
    assert store.tensors() == {}
    assert all(np.shares_memory(view, agent.replay_buffer.observations) for view in store._views.values())


def test_what_is_drawn_from_the_agents_buffer_is_a_copy_that_stays():
    agent = agent_with_buffer(4, 1)
    store = buffer_store(agent)
    fill(agent, 0, 4)
    collect(store, agent, ReplaySource())
    drawn = states_of(store, 4)
    fill(agent, 100, 4)
    assert numbers_in(drawn.tolist()) == [(0, 0), (1, 0), (2, 0), (3, 0)]


class Echo(Teacher):
    """A teacher whose answer is the state."""

    def __init__(self) -> None:
        super().__init__(actor=SimpleNamespace(family=SimpleNamespace(size=3)))
        self.version = 1

    def refresh(self, agent):
        raise NotImplementedError

    def targets(self, observations):
        return observations


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), rows=st.integers(1, 6))
def test_the_target_of_a_state_in_the_agents_buffer_is_of_that_very_state(sizes, rows):
    agent, source, first = agent_with_buffer(rows, 2), ReplaySource(), 0
    replay = TargetCache(buffer_store(agent, batch_size=16), Echo())
    for size in sizes:
        fill(agent, first, size)
        first += size
        collect(replay, agent, source)
        if replay.store.count:
            replay.begin(2)
            for _ in range(2):
                batch = replay.next()
                assert torch.equal(batch.states, batch.targets)


def test_the_target_is_of_that_very_state_when_the_buffer_saves_memory():
    agent = agent_with_buffer(
        5, 2, replay_buffer_kwargs={"handle_timeout_termination": False}, optimize_memory_usage=True
    )
    source, first = ReplaySource(), 0
    replay = TargetCache(buffer_store(agent, batch_size=64), Echo())
    for size in (3, 4, 1, 2, 3, 1, 5, 6):  # the next observation is written over the state in the coming row
        fill(agent, first, size)
        first += size
        collect(replay, agent, source)
        replay.begin(4)
        for _ in range(4):
            batch = replay.next()
            assert torch.equal(batch.states, batch.targets)


@pytest.mark.parametrize("kind", OBSERVATION_SPACES)
def test_states_of_the_agents_buffer_are_what_the_buffer_gives_the_policy(kind):
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(kind, "MlpPolicy")
    kwargs = SMALL_CNN if kind == "dict" else {"net_arch": [4]}
    env = vec_env(OBSERVATION_SPACES[kind], small_agent("DQN").action_space, n=2)
    agent = small_agent("DQN", env, policy=policy, policy_kwargs=kwargs, buffer_size=40, learning_starts=100)
    agent.learn(20)
    store = buffer_store(agent)
    collect(store, agent, ReplaySource())
    found, buffer = as_items(states_of(store, store.count)), agent.replay_buffer
    for key, array in as_items(buffer.observations).items():
        wanted = array[: buffer.pos].reshape(found[key].shape)
        assert np.array_equal(found[key].numpy(), wanted), key
    with torch.no_grad():
        assert agent.q_net(from_items(found)).shape == (store.count, 3)


def test_the_states_of_a_buffer_that_was_loaded_are_read_from_that_one(tmp_path):
    agent, source = agent_with_buffer(8, 2), ReplaySource()
    store = buffer_store(agent)
    fill(agent, 0, 5)
    collect(store, agent, source)
    other = agent_with_buffer(8, 2)
    expected = fill(other, 50, 6)
    other.save_replay_buffer(tmp_path / "buffer")
    agent.load_replay_buffer(tmp_path / "buffer")
    assert len(collect(store, agent, source)) == 12, "each is new"
    assert numbers_in(states_of(store, 12).tolist()) == expected


@pytest.mark.parametrize("states", ["replay_buffer", "minibatch", Mixture(parts=[ReplayBuffer(), Reservoir(16, 8)])])
@pytest.mark.parametrize(("rows", "loaded"), [(8, 16), (16, 8)])
def test_a_buffer_of_another_size_can_be_loaded(states, rows, loaded, tmp_path):
    other = agent_with_buffer(loaded, 2)
    fill(other, 50, loaded + 1)
    other.save_replay_buffer(tmp_path / "buffer")
    agent = distill(agent_with_buffer(rows, 2), {"states": states, "teacher": {"type": "snapshot", "every": 1}})
    agent.learn(4 * rows)
    agent.load_replay_buffer(tmp_path / "buffer")
    before, replay, checked = agent.distiller.deposits, agent.distiller.cache, []

    def check(batch, loss, gradient):
        assert torch.equal(batch.targets, replay.teacher.targets(batch.states))
        checked.append(batch)

    agent.distiller.on_penalty.append(check)
    agent.learn(8, reset_num_timesteps=False)
    assert agent.distiller.deposits > before
    assert checked
    if states != "minibatch":
        assert replay.store.capacity == len(replay.versions) == 2 * loaded + (0 if states == "replay_buffer" else 16)


def test_the_buffers_states_are_not_saved_twice_and_are_there_again_after_loading():
    agent, source = agent_with_buffer(8, 2), ReplaySource()
    store = buffer_store(agent)
    fill(agent, 0, 5)
    collect(store, agent, source)
    assert pickle.loads(pickle.dumps(store))._views == {}
    loaded, loaded_source = buffer_store(agent), ReplaySource()
    loaded.load(store.tensors(), json.loads(json.dumps(store.state())))
    loaded_source.load(source.state())
    assert loaded.count == store.count
    assert collect(loaded, agent, loaded_source).tolist() == [], "nothing is new, and targets stay"
    assert torch.equal(states_of(loaded, 10), states_of(store, 10))
    assert loaded.draw(3).tolist() == store.draw(3).tolist()


@pytest.mark.parametrize("name", ["PPO", "ARS"])
def test_an_agent_without_a_replay_buffer_has_no_such_states(name):
    with pytest.raises(TypeError, match=rf"states 'replay_buffer' needs .* a {name} has none: use 'reservoir'"):
        buffer_store(small_agent(name))


@pytest.mark.parametrize("states", [ReplayBuffer(batch_size=10**13), Mixture(batch_size=10**13)])
def test_a_minibatch_that_would_not_fit_in_memory_is_refused_when_the_agent_is_built(states, monkeypatch):
    monkeypatch.setenv("RLSD_MEMORY_BUDGET", "8GB")
    # 12 bytes a state and 64 times 8 for its slots.
    message = r"^states\.batch_size=10{13} states .* take 5240\.0 TB .* lower states\.batch_size to 15267175 or less, "
    with pytest.raises(ValueError, match=message):
        states.build(np.random.SeedSequence(0), agent_with_buffer(8, 1))


@pytest.mark.parametrize(("rows", "n_envs"), [(8, 1), (8, 3)])
def test_its_capacity_is_the_buffers(rows, n_envs):
    assert buffer_store(agent_with_buffer(rows, n_envs)).capacity == rows * n_envs
