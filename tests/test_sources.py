"""Where states come from: each once, raw, in order, with what else decided the action."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW, IMAGE_HWC, VECTOR
from gymnasium import spaces
from helpers import (
    ALGORITHMS,
    OBSERVATION_SPACES,
    SMALL_CNN,
    Handing,
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
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import VecFrameStack

import rlsd
from rlsd import sources
from rlsd.actors import actor_for
from rlsd.observations import Normalization, as_items, from_items
from rlsd.sources import EvaluationSource, RawObservations, ReplaySource, RolloutSource, Source, Watched, source_for


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
            self.taken += [{key: array.copy() for key, array in some.items()} for some in self.source.take(self.model)]


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


def test_frames_stacked_after_normalising_are_refused_and_not_taken_for_raw_states():
    agent = small_ppo(VecFrameStack(normalized_env(), 2))
    with pytest.raises(ValueError, match="VecNormalize"):
        RolloutSource(actor_for(agent)).recorder(agent)


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
    return [numbers for some in source.take(agent) for numbers in numbers_in(some["@observation"])]


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
    monkeypatch.setattr(sources, "CHUNK", 5)
    agent = agent_with_buffer(30, 2)
    old = fill(agent, 0, 23)
    chunks = [numbers_in(some["@observation"]) for some in ReplaySource().take(agent)]
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
    (found,) = ReplaySource().take(agent)
    for key, wanted in acted_on(env, steps=16).items():
        assert np.array_equal(found[key], wanted.reshape(found[key].shape)), key
        assert len(found[key]) == 32


def test_with_vecnormalize_a_replay_buffer_holds_raw_observations_already():
    env = normalized_env(actions=ALGORITHMS["SAC"][2])
    agent = small_agent("SAC", env, learning_starts=100)
    agent.learn(32)
    assert ReplaySource().recorder(agent) is None
    (found,) = ReplaySource().take(agent)
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
    monkeypatch.setattr(sources, "CHUNK", 3)
    agent, source = small_agent("ARS"), EvaluationSource()
    array = np.zeros((2, 3), dtype=np.float32)
    for number in range(8):
        array[:] = [[number, 0, 0], [number, 1, 0]]
        source.note(agent, array, number % 2)  # the same array each time
    chunks = [numbers_in(some["@observation"]) for some in source.take(agent)]
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    assert [one for chunk in chunks for one in chunk] == [(number, number % 2) for number in range(8)]
    assert list(source.take(agent)) == []


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
        assert list(source.take(agent)) == []


# Shown to several


def test_a_watched_replay_buffer_shows_its_new_rows_once_and_shares_them_as_often_as_asked():
    agent, seen = agent_with_buffer(8, 2), []
    source = Watched(ReplaySource(), lambda states: seen.extend(numbers_in(states["@observation"].tolist())))
    for first in (0, 3):
        expected = fill(agent, first, 3)
        seen.clear()
        shared = source.shared(agent)
        assert seen == expected
        for _ in range(2):
            taken = [states["@observation"] for states in shared.take(agent)]
            assert numbers_in(np.concatenate(taken).tolist()) == expected
        assert seen == expected, "it was shown once"


def test_states_that_are_taken_but_once_can_be_shared():
    shared = Handing({"@observation": np.ones((2, 1))}).shared(None)
    assert [len(states["@observation"]) for _ in range(2) for states in shared.take(None)] == [2, 2]
