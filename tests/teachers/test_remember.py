"""Idle until the task changes, then held at what the policy of that moment did."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from agents import (
    ALL_ALGORITHMS,
    KINDS,
    ROLLOUT,
    TinyEnv,
    build,
    copied,
    differences,
    distilled,
    logged,
    scramble,
    training_state,
)
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import rlsd
from rlsd.actors import actor_for
from rlsd.episodes import EPISODE
from rlsd.observations import with_context
from rlsd.presets import has_values
from rlsd.teachers import remember
from rlsd.teachers.ring import LEAST, MOST, SnapshotRing

#: So many environment steps, of two environments, at each task.
PHASE = 16 * ROLLOUT


class Marked(TinyEnv):
    """The last number of what is observed tells which task it is: another after each :data:`PHASE`."""

    taken = 0
    tasks = (0.0, 1.0)

    def step(self, action: Any) -> Any:
        self.taken += 1
        return super().step(action)

    def _observe(self) -> Any:
        found = super()._observe()
        task = self.tasks[min(2 * self.taken // PHASE, len(self.tasks) - 1)]
        if isinstance(found, np.ndarray) and found.dtype == np.uint8:
            found[...] = found // 2 + int(127 * task)
            return found
        vector = found["vector"] if isinstance(found, dict) else found
        vector[-1] = task
        return found


class BackAgain(Marked):
    """Goes back to its first task."""

    tasks = (0.0, 1.0, 0.0)


def agent_of(name: str = "PPO", kind: str = "discrete", make: Any = Marked, **changes: Any) -> Any:
    spec = KINDS[kind]
    env: Any = DummyVecEnv([lambda: make(spec.observations, spec.actions)] * 2)
    env = env if spec.normalize is None else VecNormalize(env, **spec.normalize)
    small = {"states.capacity": 128, "states.batch_size": 16, "teacher.every": 1, "teacher.level": 0.05}
    answers = rlsd.recipe("remember", values=has_values(ALL_ALGORITHMS[name]), **(small | changes))
    return distilled(ALL_ALGORITHMS[name], kind, answers, env=env)


class Policies(BaseCallback):
    """Keeps the weights that each rollout was made with."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[int, Any] = {}

    def _on_rollout_start(self) -> None:
        self.weights[self.num_timesteps] = copied(self.model.policy.state_dict())

    def _on_step(self) -> bool:
        return True


KIND_OF = {"SAC": "box", "TD3": "box"}


@pytest.mark.parametrize("name", ["PPO", "RecurrentPPO", "SAC", "DQN"])
def test_while_nothing_changes_the_agent_trains_as_plain_sb3s_to_the_bit(name):
    kind = KIND_OF.get(name, "discrete")
    states = []
    for make in (build, lambda *a: distilled(*a, "remember", speed=None)):
        scramble()
        agent = make(ALL_ALGORITHMS[name], kind)
        agent.learn(12 * ROLLOUT)
        states.append((copied(training_state(agent)), logged(agent)))
    assert not differences(*states)
    assert agent.distiller.deposits == 0 and agent.distiller.states.count > 0
    assert agent.distiller.teacher.test.count >= 36, "the test saw too few starts"


FURTHER = [("MaskablePPO", "discrete"), ("TRPO", "discrete"), ("PPO", "normalized"), ("PPO", "dict"), ("PPO", "gsde")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("PPO", "discrete"), ("RecurrentPPO", "discrete"), ("SAC", "box"), ("DQN", "discrete"), ("PPO", "image_chw")]
    + [pytest.param(*one, marks=pytest.mark.slow) for one in FURTHER],
)
def test_after_a_change_what_is_no_longer_met_is_held_and_nothing_else(name, kind):
    agent = agent_of(name, kind)
    agent.learn(PHASE + 10 * ROLLOUT)
    teacher, store = agent.distiller.teacher, agent.distiller.states
    assert teacher.test.alarms == 1
    assert PHASE <= teacher._since <= PHASE + 2 * 5 * 2, "the moment of the change is another"
    slots = store.slots()
    held = teacher.hold_stored(store, slots).numpy()
    old = store.episodes[slots] < teacher._changes[0]
    assert 0.3 < old.mean() < 0.7, "one task crowds the other out"
    assert (held[~old] == 0).all()
    assert held[old].mean() > 0.8
    assert agent.distiller.deposits > 0


def test_held_states_have_the_targets_of_the_policy_that_acted_when_the_task_changed():
    agent, policies = agent_of(), Policies()
    agent.learn(PHASE + 10 * ROLLOUT, callback=policies)
    distiller = agent.distiller
    before = policies.weights[PHASE // ROLLOUT * ROLLOUT]
    other = build(PPO)
    other.policy.load_state_dict(before)
    slots = np.flatnonzero(distiller.cache.versions > 0)
    assert len(slots) > 20
    states = distiller.states.gather(slots, torch.from_numpy(slots))
    actor = actor_for(other)
    with torch.no_grad():
        expected = actor.family.normalized(actor.parameters(other.policy, states))
    torch.testing.assert_close(distiller.cache.targets[slots], expected)


def test_what_is_met_again_is_let_go_and_what_was_left_for_it_is_held():
    agent = agent_of(make=BackAgain)
    agent.learn(3 * PHASE)
    teacher, store = agent.distiller.teacher, agent.distiller.states
    assert teacher.test.alarms == 2
    assert teacher.tasks == [0, 1, 0], "the task that came back was taken for another"
    slots = store.slots()
    held = teacher.hold_stored(store, slots).numpy()
    marks = next(iter(store.tensors().values()))[:, -1].numpy()
    assert held[marks == 1].mean() > 0.8
    assert (held[marks == 0] > 0).mean() < 0.1
    # And again nothing of a state that is free is kept.
    assert set(agent.distiller.cache.versions[slots][held == 0]) <= {0, 1}


class Unchanged(Marked):
    """Stays at its first task."""

    tasks = (0.0,)


def test_after_a_false_alarm_nothing_is_held_any_more():
    agent = agent_of(make=Unchanged)
    agent.learn(10 * ROLLOUT)
    teacher = agent.distiller.teacher
    teacher._alarms.append((teacher.steps - 20, 1.0, 1.0))
    agent.learn(8 * ROLLOUT, reset_num_timesteps=False)
    assert len(teacher.changes) == 1, "nothing came of the alarm"
    assert teacher.inactive and teacher.metrics()["frozen_share"] == 0.0
    pulled = agent.distiller.deposits
    agent.learn(4 * ROLLOUT, reset_num_timesteps=False)
    assert agent.distiller.deposits == pulled, "it is still held"


def test_starts_are_forgotten_with_the_last_state_of_their_episode_while_it_is_idle_too(monkeypatch):
    monkeypatch.setattr(remember, "NOW", 8)
    agent = agent_of(make=Unchanged, **{"states.capacity": 16, "states.batch_size": 8})
    agent.learn(16 * ROLLOUT)
    teacher, store = agent.distiller.teacher, agent.distiller.states
    stored = np.unique(store.episodes[store.slots()])
    assert teacher.test.count > 40, "too few starts to be forgotten"
    assert len(teacher._numbers) <= 2 * 24 < teacher.test.count
    assert np.isin(stored[stored > 0], teacher._numbers).all()


def test_of_two_alarms_in_one_rollout_each_is_acted_on():
    agent = agent_of()
    agent.learn(6 * ROLLOUT)
    teacher = agent.distiller.teacher
    moments = [teacher.steps - 40, teacher.steps - 20]
    teacher._alarms += [(moment, 1.0, 1.0) for moment in moments]
    agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert [event.since for event in teacher.changes] == moments
    assert len(teacher._changes) == 2 and not teacher._alarms


class Told(BaseCallback):
    """Any callback of SB3's that has the method."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[rlsd.ChangeEvent] = []

    def on_change(self, agent: Any, event: rlsd.ChangeEvent) -> None:
        assert agent is self.model
        assert event.step == agent.num_timesteps, "it is told later than at the boundary after the update"
        self.events.append(event)

    def _on_step(self) -> bool:
        return True


def test_callbacks_are_told_of_a_change_and_of_a_return_once_each():
    agent, told = agent_of(make=BackAgain), Told()
    agent.learn(3 * PHASE, callback=[CallbackList([told]), rlsd.DistillCallback()])
    assert [event.kind for event in told.events] == ["change", "return"]
    assert told.events == agent.distiller.teacher.changes
    for event, moment in zip(told.events, (PHASE, 2 * PHASE), strict=True):
        assert moment <= event.since <= min(moment + 20, event.step)
        assert event.statistic >= event.bound > 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.step = 0
    assert f"a task that is known came back at about step {told.events[1].since:,} (evidence" in str(told.events[1])
    agent.learn(ROLLOUT, callback=told, reset_num_timesteps=False)
    assert len(told.events) == 2, "one was told twice"


def test_of_an_agent_trained_before_a_change_is_told_in_its_own_steps():
    agent = build(PPO, env=DummyVecEnv([lambda: Marked(KINDS["discrete"].observations, KINDS["discrete"].actions)] * 2))
    agent.learn(4 * ROLLOUT)
    small = {"states.capacity": 128, "states.batch_size": 16, "teacher.every": 1, "teacher.level": 0.05}
    rlsd.distill(agent, rlsd.recipe("remember", **small))
    agent.learn(PHASE + 6 * ROLLOUT, reset_num_timesteps=False)
    (event,) = agent.distiller.teacher.changes
    assert PHASE <= event.since <= PHASE + 20


@pytest.mark.parametrize("name", ["PPO", "DQN"])
@pytest.mark.parametrize("stop", [12 * ROLLOUT, 23 * ROLLOUT], ids=["before the change", "after it"])
def test_stopped_and_resumed_it_is_as_if_never_stopped(name, stop, tmp_path):
    agent = agent_of(name)
    agent.learn(stop)
    rlsd.save_checkpoint(agent, tmp_path)
    agent.learn(28 * ROLLOUT - stop, reset_num_timesteps=False)
    assert agent.distiller.deposits > 0
    expected = copied((training_state(agent), agent.distiller.tensors(), agent.distiller.state()))
    scramble()
    again = rlsd.resume(tmp_path)
    again.learn(28 * ROLLOUT - stop, reset_num_timesteps=False)
    found = copied((training_state(again), again.distiller.tensors(), again.distiller.state()))
    assert not differences(expected, found)


def test_what_does_not_tell_where_episodes_begin_is_refused_in_a_line():
    with pytest.raises(TypeError, match="must know where episodes begin, and ARS does not tell"):
        distilled(ALL_ALGORITHMS["ARS"], "box", "remember")
    small = {"teacher": "remember", "states": {"type": "episodes", "batch_size": 8}}
    for change in ({"states": {"type": "reservoir", "batch_size": 8}}, {"timing": "phase"}, {"timing": "reborn"}):
        with pytest.raises(TypeError, match="use states 'episodes' and timing 'every_step'"):
            distilled(PPO, "discrete", small | change)


@pytest.mark.parametrize("field", ["level", "threshold"])
@pytest.mark.parametrize("value", [0, -1, 2])
def test_levels_and_thresholds_are_probabilities(field, value):
    with pytest.raises(ValueError, match=f"teacher.{field} must be a number in"):
        rlsd.recipe("remember", **{f"teacher.{field}": value})


def test_the_ring_keeps_a_bounded_number_of_policies_and_knows_which_was_in_force():
    agent = build(PPO)
    ring = SnapshotRing(actor_for(agent))
    for step in range(0, 5000, 10):
        with torch.no_grad():
            for parameter in agent.policy.parameters():
                parameter.fill_(step)
        ring.take(agent, step)
    assert LEAST <= len(ring.kept) <= MOST
    since = ring.state()
    assert since[0] == 0 and since[-8:] == list(range(4920, 5000, 10)), "the latest were thinned out"
    for step in (0, 4995, 4983, since[5] + 1):
        found = next(iter(ring.at(step)["policy"].values()))
        assert (found == max(s for s in since if s <= step)).all()


def test_a_task_of_few_states_gets_its_share_and_the_others_keep_theirs():
    agent = build(PPO)
    store = rlsd.Episodes(capacity=90, batch_size=8).build(np.random.SeedSequence(0), agent)

    def add(n: int, episode: int) -> None:
        store.add(with_context(np.full((n, 3), episode, np.float32), {EPISODE: np.full(n, episode)}))

    for episode in range(1, 41):
        add(10, episode)
    store.divide(41, 1)
    for episode in range(41, 61):
        add(10, episode)
    counts = np.bincount(store.tasks)
    assert counts.tolist() == [45, 45]
    store.divide(61, 2)
    for episode in range(61, 300):
        add(10, episode)
    assert np.abs(np.bincount(store.tasks) - 30).max() <= 2
    # Of each task a uniform sample, and what is stored is of the episode that it says.
    assert len(np.unique(store.episodes[store.tasks == 2] // 60)) >= 3
    assert (store.tensors()["@observation"][:, 0].numpy() == store.episodes).all()
    assert store.episodes[store.tasks == 0].max() <= 40
