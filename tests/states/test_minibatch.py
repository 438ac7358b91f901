"""The pull and the agent's own loss meet on the same states."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import IMAGE_CHW
from gymnasium import spaces
from helpers import ALGORITHMS, VECTOR, Handing, collect, normalized_env, small_agent, vec_env

import rlsd
from rlsd.observations import Beside, Normalization, as_items, split_context
from rlsd.states import Minibatch, ReplayMinibatchStore, RolloutMinibatchStore

ANSWERS = {"states": "minibatch", "teacher": {"type": "snapshot", "every": 16}}
ON_POLICY = ["PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO"]
OFF_POLICY = [name for name in ALGORITHMS if name not in (*ON_POLICY, "ARS")]


def watched(agent, monkeypatch):
    """Collect, for each deposit, the states that were pulled on and those that SB3 gave the agent."""
    pairs, latest = [], []
    name, owner = (
        ("_get_samples", "rollout_buffer") if hasattr(agent, "rollout_buffer") else ("sample", "replay_buffer")
    )
    buffer = getattr(agent, owner)
    cls, teacher = type(buffer), agent.distiller.teacher
    if name == "sample":
        cls = next(base for base in cls.__mro__ if "sample" in base.__dict__)
    original = getattr(cls, name)

    def sampled(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        latest[:] = [(result, np.array(args[0]) if name == "_get_samples" else None)]
        return result

    def penalized(batch, loss, gradient):
        torch.testing.assert_close(teacher.targets(batch.states), batch.targets)
        pairs.append((batch, *latest[0]))

    monkeypatch.setattr(cls, name, sampled)
    agent.distiller.on_penalty.append(penalized)
    return pairs


@pytest.mark.parametrize(
    ("normalize", "speed"),
    [
        (False, "exact"),
        (True, None),
        pytest.param(False, None, marks=pytest.mark.slow),
        pytest.param(True, "exact", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", [*ON_POLICY, *OFF_POLICY])
def test_the_states_are_those_of_the_agents_own_minibatch(name, normalize, speed, monkeypatch):
    actions = ALGORITHMS[name][2]
    env = normalized_env(actions=actions) if normalize else vec_env(action_space=actions, n=2)
    if normalize:
        env.clip_obs, env.training = 1e6, False  # else a rollout is normalised by other statistics at each step
    agent = small_agent(name, env, wrap=rlsd.SelfDistilled, distill=ANSWERS, speed=speed)
    pairs = watched(agent, monkeypatch)
    agent.learn(64)
    assert len(pairs) > 2
    assert agent.distiller.deposits == len(pairs)
    normalization = Normalization.of(agent)
    for batch, sample, indices in pairs:
        states = split_context(batch.states)[0]
        shown = states if normalization is None else normalization(states)
        if name == "RecurrentPPO":  # SB3 pads its sequences
            kept = np.flatnonzero(sample.mask.numpy() > 0)
            torch.testing.assert_close(shown, sample.observations[kept], rtol=1e-4, atol=1e-4)
        else:
            torch.testing.assert_close(shown, sample.observations, rtol=1e-4, atol=1e-4)
        assert indices is None or len(indices) == len(batch.targets)


def test_the_memory_of_a_recurrent_agent_goes_with_its_states(monkeypatch):
    agent = rlsd.distill(small_agent("RecurrentPPO", vec_env(action_space=spaces.Discrete(3), n=2)), ANSWERS)
    pairs = watched(agent, monkeypatch)
    agent.learn(48)
    for batch, sample, _ in pairs:
        first = sample.lstm_states.pi[0].transpose(0, 1)[0]
        assert torch.equal(batch.states[Beside("@hidden")][0], first), "the first sequence begins with its own memory"


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_it_works_on_dicts_and_images(name):
    space = spaces.Dict({"camera": IMAGE_CHW, "speed": VECTOR})
    env = vec_env(space, ALGORITHMS[name][2], n=2)
    kwargs = {"net_arch": [4], "features_extractor_kwargs": {"cnn_output_dim": 4}}
    agent = rlsd.distill(small_agent(name, env, policy="MultiInputPolicy", policy_kwargs=kwargs), ANSWERS)
    agent.learn(64)
    assert agent.distiller.deposits > 0


def test_a_rollouts_targets_are_made_in_one_pass(monkeypatch):
    agent = rlsd.distill(small_agent("PPO"), {"states": "minibatch", "teacher": {"type": "snapshot", "every": 1}})
    asked = []
    rows = agent.distiller.teacher.rows
    monkeypatch.setattr(agent.distiller.teacher, "rows", lambda states: [asked.append(len(states)), rows(states)][1])
    agent.learn(24)
    assert asked == [8, 8, 8]


@pytest.mark.parametrize("n_steps", [16, 4])
@pytest.mark.parametrize("name", ["PPO", "RecurrentPPO"])
def test_the_states_are_those_of_the_minibatch_after_rollouts_became_longer_or_shorter(name, n_steps, monkeypatch):
    agent = small_agent(name, vec_env(action_space=ALGORITHMS[name][2], n=2), rlsd.SelfDistilled, distill=ANSWERS)
    agent.learn(32)
    agent.n_steps = agent.rollout_buffer.buffer_size = n_steps
    if name == "RecurrentPPO":
        shape = agent.rollout_buffer.hidden_state_shape
        agent.rollout_buffer.hidden_state_shape = (n_steps, *shape[1:])
    agent.rollout_buffer.reset()
    pairs = watched(agent, monkeypatch)
    agent.learn(64, reset_num_timesteps=False)
    assert len(pairs) > 2
    for batch, sample, _ in pairs:
        kept = sample.mask.numpy() > 0 if name == "RecurrentPPO" else slice(None)
        assert torch.equal(split_context(batch.states)[0], sample.observations[kept])
    store = agent.distiller.states
    assert store.count == store.capacity == 2 * n_steps


def rollouts_of(n_steps, n_envs):
    return SimpleNamespace(rollout_buffer=SimpleNamespace(buffer_size=n_steps, n_envs=n_envs))


def test_states_that_are_not_finite_are_left_out():
    store = RolloutMinibatchStore(3, 2, 2, np.random.SeedSequence(0), torch.device("cpu"))
    states = np.arange(6, dtype=np.float32)[:, None].copy()
    states[3] = np.nan  # step 1 of environment 1
    assert collect(store, rollouts_of(3, 2), Handing(as_items(states))).tolist() == [0, 1, 2, 4, 5]
    assert (store.count, store.rejected) == (5, 1)
    store._sampled(([0, 1, 3, 4],), None)  # env 0: steps 0, 1; env 1: steps 0, 1
    assert store.draw(1).tolist() == [[0, 2, 1]]


def test_between_updates_states_are_drawn_at_random():
    agent = rlsd.distill(small_agent("SAC"), ANSWERS)
    agent.learn(40)
    store = agent.distiller.states
    assert isinstance(store, ReplayMinibatchStore)
    drawn = store.draw(3)
    assert drawn.shape == (3, 8)
    seen = store.gather(drawn[0], torch.from_numpy(drawn[0]))
    stored = agent.replay_buffer.observations.reshape(-1, 3)
    assert all((row.numpy() == stored).all(axis=1).any() for row in seen)


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_a_loaded_store_has_what_the_saved_one_had(name):
    agent = rlsd.distill(small_agent(name), ANSWERS).learn(32)
    replay = agent.distiller.cache
    other = rlsd.distill(small_agent(name), ANSWERS).distiller.cache
    tensors = {n: t.clone() for n, t in replay.tensors().items()}
    other.load(tensors, json.loads(json.dumps(replay.state())))
    assert other.store.count == replay.store.count
    assert torch.equal(other.targets, replay.targets)


def test_saved_slots_that_a_smaller_rollout_has_not_are_left_out_and_the_rest_is_taken_up():
    def make(n_envs):
        return RolloutMinibatchStore(4, n_envs, 2, np.random.SeedSequence(n_envs), torch.device("cpu"))

    saved, loaded, same = make(3), make(1), make(3)
    agent = rollouts_of(4, 3)
    collect(saved, agent, Handing(as_items(np.full((12, 1), np.nan, dtype=np.float32))))
    assert (saved.rejected, saved.count) == (12, 0)
    collect(saved, agent, Handing(as_items(np.zeros((12, 1), dtype=np.float32))))
    assert loaded.load(saved.tensors(), saved.state())
    assert not same.load(saved.tensors(), saved.state())
    assert (loaded.count, len(loaded.slots()), loaded.rejected) == (0, 0, 12)
    assert (same.count, len(same.slots()), same.rejected) == (12, 12, 12)
    assert loaded.state()["generator"] == saved.state()["generator"]


def test_an_update_that_takes_its_minibatch_elsewhere_is_told_so():
    agent = rlsd.distill(small_agent("PPO"), ANSWERS)
    agent.learn(16)
    buffer = agent.rollout_buffer
    with agent.distiller.states.watching(agent), pytest.raises(RuntimeError, match="so it was not seen: use"):
        agent.distiller.states.draw(1)
    assert "_get_samples" not in vars(buffer)


def test_random_search_has_no_minibatches():
    with pytest.raises(TypeError, match=r"states 'minibatch' needs .* a ARS does not: use 'recent'"):
        Minibatch().build(np.random.SeedSequence(0), small_agent("ARS"))
