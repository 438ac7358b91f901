"""Where states come from: each once, raw, in order, with what else decided the action."""

from __future__ import annotations

import json
import tempfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW, IMAGE_HWC, VECTOR
from gymnasium import spaces
from helpers import (
    ALGORITHMS,
    OBSERVATION_SPACES,
    SMALL_CNN,
    agent_with_buffer,
    fill,
    normalized_env,
    numbers_in,
    observe,
    same,
    small_agent,
    small_ppo,
    vec_env,
)
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.type_aliases import ReplayBufferSamples

import rlsd
from rlsd import observations
from rlsd.actors import actor_for
from rlsd.observations import Beside, Normalization, as_array, as_items, from_items
from rlsd.recording import RawObservations
from rlsd.sources import EvaluationSource, ReplaySource, RolloutSource, Source, source_for


class Watching(BaseCallback):
    """Takes what the source gives at the end of each rollout, and what the policy saw in it."""

    def __init__(self, source: Source | None = None) -> None:
        super().__init__()
        self.source = source
        self.taken: list[dict[str, np.ndarray]] = []
        self.seen: list[dict[str, np.ndarray]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.seen.append({k: joined(a).copy() for k, a in as_items(self.model.rollout_buffer.observations).items()})
        if self.source is not None:
            self.taken += [
                {key: array.copy() for key, array in some.items()} for some, _ in self.source.new(self.model)
            ]


def joined(array: np.ndarray) -> np.ndarray:
    """``(steps, envs, ...)`` as ``(steps * envs, ...)``."""
    return array.reshape(-1, *array.shape[2:])


def acted_on(env, steps: int, start: int = 0):
    """What the environments gave to act on in some steps, ``(steps * n_envs, ...)``, step by step.

    A finished episode's last observation is given, too, but not acted on.
    """
    per_env = []
    for inner in env.unwrapped.envs:
        given = inner.given
        per_env.append([o for i, o in enumerate(given) if i % (inner.length + 1) < inner.length][start : start + steps])
    ordered = [per_env[e][t] for t in range(steps) for e in range(len(per_env))]
    if isinstance(ordered[0], dict):
        return {key: np.stack([np.asarray(o[key]) for o in ordered]) for key in ordered[0]}
    return as_items(np.stack([np.asarray(o) for o in ordered]))


# From the rollout buffer


@pytest.mark.parametrize("name", OBSERVATION_SPACES)
def test_a_rollouts_observations_are_those_that_were_acted_on_step_by_step(name):
    env = vec_env(OBSERVATION_SPACES[name], n=2)
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(name, "MlpPolicy")
    kwargs = SMALL_CNN if name == "dict" else {"net_arch": [4]}
    agent = small_ppo(env, policy, policy_kwargs=kwargs)
    watching = Watching(RolloutSource(actor_for(agent)))
    agent.learn(32, callback=watching)
    for rollout, found in enumerate(watching.taken):
        expected = acted_on(env, steps=8, start=8 * rollout)
        assert found.keys() == as_items(observe(OBSERVATION_SPACES[name])).keys()
        for (key, array), (_, wanted) in zip(found.items(), expected.items(), strict=True):
            assert np.array_equal(array, wanted.reshape(array.shape)), key
            assert len(array) == 16


def test_a_rollouts_image_has_its_channels_where_the_policy_has_them():
    agent = small_ppo(vec_env(IMAGE_HWC), "CnnPolicy", policy_kwargs={"net_arch": [4]})
    watching = Watching(RolloutSource(actor_for(agent)))
    agent.learn(8, callback=watching)
    (array,) = watching.taken[0].values()
    assert array.shape == (8, *IMAGE_CHW.shape)
    assert array.dtype == np.uint8


# VecNormalize


class Recording(CallbackList):
    """A recorder, and what each rollout's recording and buffer held at its end."""

    def __init__(self, recorder: RawObservations) -> None:
        self.recorder, self.watching = recorder, Watching()
        self.recorded: list[dict[str, np.ndarray] | None] = []
        super().__init__([recorder, self.watching])

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        self.recorded.append(self.recorder.take())


def test_recorded_observations_are_the_raw_ones_that_were_acted_on():
    env = normalized_env()
    recording = Recording(RawObservations(env))
    small_ppo(env).learn(48, callback=recording)
    for rollout, recorded in enumerate(recording.recorded):
        expected = acted_on(env, steps=8, start=8 * rollout)
        assert same(recorded, expected)


@pytest.mark.parametrize(
    ("space", "kwargs"),
    [
        (VECTOR, {}),
        (spaces.Dict({"camera": IMAGE_CHW, "speed": VECTOR}), {"norm_obs_keys": ["speed"]}),
        (spaces.Dict({"camera": IMAGE_HWC, "speed": VECTOR}), {"norm_obs_keys": ["speed"]}),
        (spaces.Dict({"camera": IMAGE_HWC, "speed": VECTOR}), {}),
    ],
    ids=["vector", "dict", "dict with an image that SB3 transposes", "dict with a normalised image"],
)
def test_recorded_observations_shown_through_the_statistics_are_what_the_policy_saw(space, kwargs):
    env = normalized_env(space, training=False, **kwargs)
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    agent = small_ppo(env, policy, policy_kwargs=SMALL_CNN if policy == "MultiInputPolicy" else None)
    recording = Recording(RolloutSource(actor_for(agent)).recorder(agent))
    agent.learn(32, callback=recording)
    normalization = Normalization.of(agent)
    for recorded, seen in zip(recording.recorded, recording.watching.seen, strict=True):
        items = {key: torch.from_numpy(array) for key, array in recorded.items()}
        for key, value in as_items(normalization(from_items(items))).items():
            expected = torch.from_numpy(seen[key])
            torch.testing.assert_close(value.to(expected.dtype), expected, rtol=1e-5, atol=1e-5)


def test_recordings_are_taken_once_and_none_of_a_rollout_is_left_for_the_next():
    env = normalized_env()
    recorder = RawObservations(env)
    assert recorder.take() is None
    small_ppo(env).learn(16, callback=recorder)
    (array,) = recorder.take().values()
    assert len(array) == 16
    assert recorder.take() is None


def test_a_rollout_that_was_broken_off_leaves_nothing_behind():
    env = normalized_env()
    recorder = RawObservations(env)
    agent = small_ppo(env)
    stop = BreakOff(after=3)
    agent.learn(16, callback=CallbackList([recorder, stop]))
    stop.after = 10**6
    agent.learn(16, callback=CallbackList([recorder, stop]))
    (array,) = recorder.take().values()
    assert len(array) == 16


class BreakOff(BaseCallback):
    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def _on_step(self) -> bool:
        return self.n_calls < self.after


# A replay buffer


def taken(source: ReplaySource, agent) -> list[tuple[int, int]]:
    return [numbers for some, _ in source.new(agent) for numbers in numbers_in(some[Beside("@observation")])]


@given(sizes=st.lists(st.integers(0, 20), max_size=8), rows=st.integers(1, 7), n_envs=st.integers(1, 3))
def test_each_transition_is_handed_over_exactly_once(sizes, rows, n_envs):
    agent, source, first = agent_with_buffer(rows, n_envs), ReplaySource(), 0
    for size in sizes:
        new = fill(agent, first, size)
        # What was written over before it could be handed over is lost.
        assert sorted(taken(source, agent)) == sorted(new[-rows * n_envs :])
        assert taken(source, agent) == []
        first += size


@given(before=st.integers(0, 20), after=st.integers(0, 6))
def test_what_was_in_the_buffer_before_distillation_began_is_handed_over_first(before, after):
    agent = agent_with_buffer(6, 2)
    old = fill(agent, 0, before)
    source = ReplaySource()
    assert sorted(taken(source, agent)) == sorted(old[-12:])
    new = fill(agent, before, after)
    assert sorted(taken(source, agent)) == sorted(new)


@given(before=st.integers(0, 20), between=st.integers(0, 20), after=st.integers(0, 6))
def test_of_a_buffer_that_was_reset_only_what_it_received_since_is_handed_over(before, between, after):
    agent, source = agent_with_buffer(6, 2), ReplaySource()
    fill(agent, 0, before)
    taken(source, agent)
    agent.replay_buffer.reset()
    new = fill(agent, before, between)
    assert sorted(taken(source, agent)) == sorted(new[-12:])
    assert sorted(taken(source, agent)) == []
    new = fill(agent, before + between, after)
    assert sorted(taken(source, agent)) == sorted(new)


def test_a_large_buffer_is_handed_over_some_at_a_time(monkeypatch):
    agent = agent_with_buffer(30, 2)
    monkeypatch.setattr(observations, "_BLOCK", 5 * 2 * agent.replay_buffer.observations[0, 0].nbytes)
    old = fill(agent, 0, 23)
    chunks = [numbers_in(some[Beside("@observation")]) for some, _ in ReplaySource().new(agent)]
    assert [len(chunk) for chunk in chunks] == [10, 10, 10, 10, 6], "five rows of two environments each"
    assert sorted(number for chunk in chunks for number in chunk) == sorted(old)


@pytest.mark.parametrize("filled", [0, 3, 40])
def test_a_loaded_source_goes_on_where_the_saved_one_stood(filled):
    agent, source = agent_with_buffer(16, 2), ReplaySource()
    fill(agent, 0, filled)
    taken(source, agent)
    loaded = ReplaySource()
    loaded.load(json.loads(json.dumps(source.state())))
    new = fill(agent, filled, 5)
    assert sorted(taken(loaded, agent)) == sorted(new)


@pytest.mark.parametrize("written", [0, 3, 10, 12])
def test_after_loading_without_the_buffer_only_what_the_new_one_received_is_handed_over(written):
    agent, source = agent_with_buffer(16, 2), ReplaySource()
    fill(agent, 0, 10)
    taken(source, agent)
    loaded = ReplaySource()
    loaded.load(source.state())
    other = agent_with_buffer(16, 2)
    new = fill(other, 100, written)
    assert sorted(taken(loaded, other)) == sorted(new)


@pytest.mark.parametrize(
    ("name", "kind"), [*(("DQN", kind) for kind in OBSERVATION_SPACES), ("SAC", "vector"), ("SAC", "dict")]
)
def test_a_buffers_observations_are_those_that_were_acted_on(name, kind):
    space = OBSERVATION_SPACES[kind]
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(kind, "MlpPolicy")
    kwargs = SMALL_CNN if kind == "dict" else {"net_arch": [4]}
    env = vec_env(space, ALGORITHMS[name][2], n=2)
    agent = small_agent(name, env, policy=policy, policy_kwargs=kwargs, buffer_size=40, learning_starts=100)
    agent.learn(32)
    ((found, _),) = ReplaySource().new(agent)
    for key, wanted in acted_on(env, steps=16).items():
        assert np.array_equal(found[key], wanted.reshape(found[key].shape)), key
        assert len(found[key]) == 32


def test_with_vecnormalize_a_replay_buffer_holds_raw_observations_already():
    env = normalized_env(actions=ALGORITHMS["SAC"][2])
    agent = small_agent("SAC", env, learning_starts=100)
    agent.learn(32)
    assert ReplaySource().recorder(agent) is None
    ((found, _),) = ReplaySource().new(agent)
    assert same(found, acted_on(env, steps=16))


# What judges a candidate


@pytest.mark.parametrize("normalize", [False, True])
def test_every_state_that_an_ars_candidate_met_is_stored_once(normalize):
    actions = ALGORITHMS["ARS"][2]
    env = normalized_env(actions=actions) if normalize else vec_env(action_space=actions, n=2)
    config = {"states": {"capacity": 1000, "batch_size": 4}, "teacher": {"every": 10**6}}
    agent = small_agent("ARS", env, wrap=rlsd.SelfDistilled, distill=config, n_eval_episodes=2)
    agent.learn(1)
    store = agent.distiller.states
    # Four candidates, an episode of five steps in one environment and one of six in the other.
    assert store.count == 4 * (5 + 6)
    stored = {tuple(state) for state in store.tensors()["@observation"].tolist()}
    given = {tuple(state.tolist()) for inner in env.unwrapped.envs for state in inner.given}
    assert len(stored) == store.count, "one was stored twice"
    assert stored <= given, "raw, as the environment gave them"


def test_what_was_noted_is_handed_over_once_some_at_a_time_and_in_order(monkeypatch):
    monkeypatch.setattr(observations, "_BLOCK", 3 * 12)
    agent, source = small_agent("ARS"), EvaluationSource()
    array = np.zeros((2, 3), dtype=np.float32)
    for number in range(8):
        array[:] = [[number, 0, 0], [number, 1, 0]]
        source.note(agent, array, number % 2)  # the same array each time
    chunks = [numbers_in(some[Beside("@observation")]) for some, _ in source.new(agent)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    assert [one for chunk in chunks for one in chunk] == [(number, number % 2) for number in range(8)]
    assert list(source.new(agent)) == []


# Which


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_has_the_source_that_suits_it(name):
    agent = small_agent(name)
    expected = RolloutSource if hasattr(agent, "rollout_buffer") else ReplaySource
    assert type(source_for(agent, actor_for(agent))) is (EvaluationSource if name == "ARS" else expected)


def test_without_a_recording_normalised_states_are_left_out_with_a_warning():
    agent = small_ppo(normalized_env())
    source = RolloutSource(actor_for(agent))
    with pytest.warns(UserWarning, match="this rollout's states were not recorded"):
        assert list(source.new(agent)) == []


# Pushed to several


@pytest.mark.parametrize("states", ["reservoir", "replay_buffer"])
def test_whoever_observes_is_shown_each_new_state_once_and_the_store_has_it_too(states):
    agent, seen = rlsd.distill(agent_with_buffer(40, 2), {"states": states}), []
    watching = SimpleNamespace(
        observe_states=lambda _, some: seen.extend(numbers_in(some[Beside("@observation")].tolist()))
    )
    agent.distiller.observers += [watching]
    for first in (0, 3):
        expected = fill(agent, first, 3)
        seen.clear()
        slots = agent.distiller._collect(agent)
        assert seen == expected
        assert numbers_in(agent.distiller.states.pick(slots).tolist()) == expected


# Buffers of somebody's own


class TensorReplay(ReplayBuffer):
    """Keeps its observations as tensors, as one on a GPU does."""

    def __init__(self, *args, dtype=torch.float32, **kwargs):
        super().__init__(*args, **kwargs)
        self.observations = torch.zeros(self.observations.shape, dtype=dtype)

    def add(self, obs, next_obs, action, reward, done, infos):
        kept, self.observations = self.observations, self.observations.float().numpy()
        row = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        kept[row] = torch.from_numpy(self.observations[row]).to(kept.dtype)
        self.observations = kept

    def _get_samples(self, batch_inds, env=None):
        kept, self.observations = self.observations, self.observations.float().numpy()
        samples = super()._get_samples(batch_inds, env)
        self.observations = kept
        return samples


class Packed:
    """Rows that are packed away one by one, and unpacked when they are asked for."""

    def __init__(self, array):
        self.shape, self._rows = array.shape, [zlib.compress(row.tobytes()) for row in array]
        self._dtype = array.dtype

    def __setitem__(self, row, value):
        self._rows[row] = zlib.compress(np.asarray(value, self._dtype).tobytes())

    def __getitem__(self, rows):
        if isinstance(rows, tuple):
            return self[rows[0]][np.arange(len(rows[0])), rows[1]]
        several = [np.frombuffer(zlib.decompress(self._rows[row]), self._dtype) for row in np.atleast_1d(rows)]
        found = np.stack(several).reshape(-1, *self.shape[1:])
        return found if np.ndim(rows) else found[0]


class PackedReplay(ReplayBuffer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.observations = Packed(self.observations)

    def _get_samples(self, batch_inds, env=None):
        columns = np.arange(len(batch_inds)) % self.n_envs
        parts = (self.actions, self.next_observations, self.dones, self.rewards)
        action, following, done, reward = (array[batch_inds, columns] for array in parts)
        data = (self.observations[batch_inds, columns], action, following, done[:, None], reward[:, None])
        return ReplayBufferSamples(*map(self.to_torch, data))


class MappedReplay(ReplayBuffer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        with tempfile.TemporaryFile() as file:
            array = self.observations
            self.observations = np.memmap(file, array.dtype, "w+", 0, array.shape)


class HalfReplay(TensorReplay):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, dtype=torch.bfloat16, **kwargs)


@pytest.mark.parametrize("states", ["reservoir", "replay_buffer", "minibatch"])
@pytest.mark.parametrize("buffer", [TensorReplay, HalfReplay, PackedReplay, MappedReplay])
def test_states_are_taken_from_a_replay_buffer_that_keeps_them_in_its_own_way(buffer, states):
    answers = rlsd.recipe("snapshot", **{"teacher.every": 8, "states": states})
    env = vec_env(n=2, action_space=ALGORITHMS["SAC"][2])
    agent = small_agent("SAC", env, rlsd.SelfDistilled, distill=answers, replay_buffer_class=buffer)
    agent.learn(60)
    assert agent.distiller.deposits
    store, held = agent.distiller.states, agent.replay_buffer.observations
    if states != "minibatch":
        assert store.count > 20
        stored = {tuple(row) for row in store.pick(store.slots()).tolist()}
        rows = np.asarray(as_array(held[np.arange(agent.replay_buffer.size())]), np.float32).reshape(-1, 3)
        assert stored <= {tuple(row) for row in rows.tolist()} and len(stored) == store.count


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO"])
def test_states_are_taken_from_a_rollout_buffer_of_tensors(name):
    base = MaskableRolloutBuffer if name == "MaskablePPO" else RolloutBuffer

    class OfTensors(base):
        def get(self, batch_size=None):
            self._unpack()
            yield from super().get(batch_size)

        def add(self, *args, **kwargs):
            self._unpack()
            super().add(*args, **kwargs)
            self.observations = torch.from_numpy(self.observations)
            if name == "MaskablePPO":
                self.action_masks = torch.from_numpy(self.action_masks)

        def _unpack(self):
            self.observations = as_array(self.observations)
            if name == "MaskablePPO":
                self.action_masks = as_array(self.action_masks)

    answers = rlsd.recipe("snapshot", **{"teacher.every": 8})
    agent = small_agent(name, wrap=rlsd.SelfDistilled, distill=answers, rollout_buffer_class=OfTensors)
    agent.learn(64)
    assert agent.distiller.deposits and agent.distiller.states.count >= 32


class NoObservations(ReplayBuffer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.frames = self.__dict__.pop("observations")


class Listed(ReplayBuffer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.observations = list(self.observations)


class Flat(ReplayBuffer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.observations = self.observations.reshape(-1, 1)


class Turned(RolloutBuffer):
    def reset(self):
        super().reset()
        self.observations = self.observations.swapaxes(0, 1)


@pytest.mark.parametrize("buffer", [NoObservations, Listed, Flat, Turned])
def test_a_buffer_in_which_no_states_are_found_is_refused_in_one_line_when_the_agent_is_built(buffer):
    replays = issubclass(buffer, ReplayBuffer)
    setting = {"replay_buffer_class" if replays else "rollout_buffer_class": buffer}
    with pytest.raises(TypeError, match=f"{buffer.__name__}.*distill=None") as refused:
        small_agent("SAC" if replays else "PPO", wrap=rlsd.SelfDistilled, **setting)
    assert "\n" not in str(refused.value)
