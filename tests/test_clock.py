"""Environment steps add up through all calls of ``learn()``, whether it counts its own anew or not."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from agents import ALL_ALGORITHMS, ROLLOUT, build, config, distilled
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

import rlsd
from rlsd.clock import StepCounter


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), max_size=4)), max_size=6))
def test_steps_add_up_whether_a_learn_counts_anew_or_not(learns: list[tuple[bool, list[int]]]) -> None:
    agent: Any = SimpleNamespace(num_timesteps=0)
    counter, total = StepCounter(), 0
    for anew, rollouts in learns:
        counter.steps(agent)
        agent.num_timesteps = 0 if anew else agent.num_timesteps
        counter.rebase(agent)
        for steps in rollouts:
            agent.num_timesteps += steps
            total += steps
            assert counter.steps(agent) == total
            loaded = StepCounter()
            loaded.load(agent, json.loads(json.dumps(counter.state())))
            assert loaded.steps(agent) == total


def test_it_begins_with_the_steps_that_the_agent_has_made() -> None:
    agent: Any = SimpleNamespace(num_timesteps=500)
    counter = StepCounter()
    assert counter.steps(agent) == 500
    agent.num_timesteps = 8
    assert counter.steps(agent) == 500, "set back by hand: nobody knows of steps"
    agent.num_timesteps = 20
    assert counter.steps(agent) == 512


def in_short_calls(agent: Any) -> Any:
    for _ in range(12):
        agent.learn(ROLLOUT)
    return agent


def by_hand(agent: Any) -> Any:
    for _ in range(12):
        agent.num_timesteps = 0
        agent.learn(ROLLOUT, reset_num_timesteps=False)
    return agent


def after_a_long_one(agent: Any) -> Any:
    agent.learn(8 * ROLLOUT)
    before = agent.distiller.teacher.version
    for _ in range(12):
        agent.learn(ROLLOUT)
    assert agent.distiller.teacher.version >= before + 2, "the old teacher is kept for good"
    return agent


def saved_in_between(agent: Any, tmp: Any = None) -> Any:
    for _ in range(12):
        agent = pickle.loads(pickle.dumps(copy.deepcopy(agent)))
        agent.learn(ROLLOUT)
    return agent


WAYS: dict[str, Callable[[Any], Any]] = {
    "in short calls": in_short_calls,
    "set back by hand": by_hand,
    "after a long one": after_a_long_one,
    "copied in between": saved_in_between,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("teacher", ["snapshot", "ema", "ensemble", "selective", "best", "stored"])
def test_learning_in_a_loop_brings_teachers_as_learning_at_once_does(teacher: str, way: Callable[[Any], Any]) -> None:
    answer = {"type": teacher, "every": 4 * ROLLOUT} | ({"episodes": 2} if teacher == "best" else {})
    agent = way(distilled(distill={"teacher": answer, "states": {"capacity": 64, "batch_size": 8}}))
    assert agent.distiller.teacher.version >= 2
    assert agent.distiller.teacher.age(agent) <= (12 if teacher == "best" else 4) * ROLLOUT
    if teacher != "selective":  # which pulls at nothing that is still met
        assert agent.distiller.deposits > 0


@pytest.mark.parametrize("name", ALL_ALGORITHMS)
def test_every_algorithm_counts_through_short_calls(name: str) -> None:
    kind = "box" if name in ("SAC", "TQC", "CrossQ", "TD3", "DDPG", "ARS") else "discrete"
    agent = distilled(ALL_ALGORITHMS[name], kind, config(teacher=rlsd.Snapshot(every=5 * ROLLOUT)))
    made = 0
    for _ in range(5):
        agent.learn(2 * ROLLOUT)
        made += agent.num_timesteps
        assert agent.distiller.clock.steps(agent) == made
    assert agent.distiller.teacher.version > 0


def test_steps_of_a_warm_up_without_updates_count() -> None:
    agent = distilled(ALL_ALGORITHMS["DQN"], learning_starts=10**6)
    for _ in range(3):
        agent.learn(2 * ROLLOUT)
    agent.learning_starts = ROLLOUT  # another learn() begins to learn sooner, one later
    agent.learn(2 * ROLLOUT)
    assert agent.distiller.clock.steps(agent) == 8 * ROLLOUT
    assert agent.distiller.teacher.version > 0


def test_a_rebirth_comes_round_in_short_calls_and_a_parallel_student_takes_over() -> None:
    for mode in ({}, {"mode": "parallel", "over": 3 * ROLLOUT}):
        timing = {"type": "reborn", "every": 3 * ROLLOUT, "steps": 4, "kl_bound": 9.0, "episodes": 10**6, **mode}
        agent = in_short_calls(distilled(distill=config(timing=timing), stats_window_size=4))
        assert agent.distiller.auxiliary.rebirths >= 1


def test_patience_and_the_reach_of_an_average_count_through_short_calls() -> None:
    best = distilled(distill=config(teacher={"type": "best", "every": 1, "episodes": 2, "patience": 3 * ROLLOUT}))
    best.learn(3 * ROLLOUT)
    best.distiller.teacher.mark = 1e9  # nobody will beat it
    assert in_short_calls(best).distiller.teacher.mark < 1e9

    average = {"type": "selective", "every": ROLLOUT, "average": 2.0 * ROLLOUT}
    weights = []
    for way in (in_short_calls, lambda agent: agent.learn(12 * ROLLOUT)):
        agent = way(distilled(distill=config(teacher=average)))
        weights.append(agent.distiller.teacher.weight)
    assert weights[0] == pytest.approx(weights[1])


def test_the_age_that_is_logged_is_never_below_zero_and_grows_through_short_calls() -> None:
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=5 * ROLLOUT)))
    ages = [agent.learn(ROLLOUT).distiller.present_metrics()["distill/teacher_age"] for _ in range(12)]
    assert ages == [ROLLOUT * age for age in (1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2)]


def test_resumed_it_counts_on(tmp_path: Any) -> None:
    agent = in_short_calls(distilled(distill=config(teacher=rlsd.Snapshot(every=10 * ROLLOUT))))
    agent.save(tmp_path / "agent")
    loaded = rlsd.SelfDistilled(PPO).load(tmp_path / "agent", env=agent.env)
    assert loaded.distiller.clock.steps(loaded) == 12 * ROLLOUT
    assert [loaded.learn(ROLLOUT).distiller.teacher.version for _ in range(9)] == [1] * 7 + [2] * 2


@pytest.mark.parametrize("seen", [0, ROLLOUT, 5 * ROLLOUT])
def test_what_was_saved_when_everyone_counted_for_himself_is_loaded(seen: int) -> None:
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=4 * ROLLOUT))).learn(3 * ROLLOUT)
    state = agent.distiller.state()
    del state["clock"], state["ended"]
    state["teacher"] |= {"seen": seen, "refreshed_at": None}
    agent.distiller.load(agent, agent.distiller.tensors(), state)
    # Where fewer steps have been made than were seen, learn() had just begun anew.
    steps = 3 * ROLLOUT + (seen if seen > 3 * ROLLOUT else 0)
    assert agent.distiller.teacher.age(agent) == agent.distiller.clock.steps(agent) == steps


def test_distilled_later_it_counts_from_the_agents_own_steps() -> None:
    agent = build(PPO).learn(6 * ROLLOUT)
    rlsd.distill(agent, config(teacher=rlsd.Snapshot(every=4 * ROLLOUT)))
    assert agent.learn(ROLLOUT, reset_num_timesteps=False).distiller.teacher.version == 1
