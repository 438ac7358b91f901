"""The best copy so far, by episodes that ended after it was taken, or by evaluations that were handed in."""

from __future__ import annotations

import json
import math
from collections import deque

import pytest
import torch
from helpers import VECTOR, disturb, observe, small_ppo
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from rlsd.actors import actor_for
from rlsd.teachers import Best
from rlsd.teachers.best import marked

RAW = observe(VECTOR)


class Training:
    """An agent whose updates and episodes a test makes."""

    def __init__(self, **answer) -> None:
        self.agent = small_ppo()
        self.agent.ep_info_buffer = deque(maxlen=100)
        self.answer = Best(**({"every": 1, "episodes": 2} | answer))
        self.teacher = self.answer.build(actor_for(self.agent))

    def update(self, *returns: float, steps: int = 10) -> bool:
        """Let episodes end, refresh the teacher, change the agent; tell whether the teacher changed."""
        self.agent.ep_info_buffer.extend({"r": value, "l": 5, "t": 0.0} for value in returns)
        self.agent.num_timesteps += steps
        version = self.teacher.version
        changed = self.teacher.refresh(self.agent)
        assert changed == (self.teacher.version > version)
        self.answers = self.now()
        disturb(self.agent.policy, 0.3, seed=self.agent.num_timesteps)
        return changed

    def now(self):
        with torch.no_grad():
            return self.teacher.actor.family.normalized(self.teacher.actor.parameters(self.agent.policy, RAW))


def test_a_candidate_is_judged_only_by_episodes_that_ended_after_it_was_taken():
    training = Training()
    assert not training.update(100.0, 100.0, 100.0), "these were another policy's"
    first = training.answers
    assert not training.update(1.0), "one episode is not enough"
    assert training.update(1.0)
    assert training.teacher.mark == pytest.approx(1.0)
    assert_close(training.teacher.targets(RAW), first, rtol=1e-5, atol=1e-5, msg="the copy is from before its episodes")


def test_a_better_candidate_takes_its_place_and_a_worse_one_does_not():
    training = Training()
    training.update()
    assert training.update(5.0, 5.0)
    first = training.answers  # taken as the next candidate
    assert not training.update(3.0, 3.0), "worse"
    assert training.teacher.mark == 5.0
    second = training.answers
    assert training.update(8.0, 8.0)
    assert training.teacher.mark == 8.0
    assert_close(training.teacher.targets(RAW), second, rtol=1e-5, atol=1e-5)
    assert not torch.equal(first, second)


def test_chance_is_taken_off_a_mark():
    training = Training()
    training.update()
    training.update(5.0, 5.0)
    assert not training.update(0.0, 12.0), "a mean of 6, but with a standard error of 6"


def test_when_more_episodes_end_than_count_the_nearest_to_the_copy_do():
    training = Training()
    training.update()
    training.update(1.0, 1.0, 50.0, 50.0)
    assert training.teacher.mark == 1.0


def test_the_next_candidate_is_taken_after_the_interval():
    training = Training(every=25)
    training.update(steps=10)
    assert training.teacher.candidate is None
    training.update(steps=20)
    training.update(1.0, 1.0, steps=10)
    assert training.teacher.ready
    assert training.teacher.candidate is None
    training.update(9.0, 9.0, steps=10)
    assert training.teacher.candidate is None, "20 steps after the first"
    training.update(steps=10)
    assert training.teacher.candidate is not None
    assert not training.teacher.returns, "the episodes from before it do not count"


def test_patience_forgets_a_mark_that_nobody_beats():
    training = Training(patience=30)
    training.update()
    training.update(9.0, 9.0)
    assert not training.update(1.0, 1.0)
    assert not training.update(1.0, 1.0)
    assert training.update(1.0, 1.0), "30 steps after it was crowned"
    assert training.teacher.mark == 1.0


def test_counting_begins_anew_with_learn():
    training = Training(every=30)
    training.update(steps=40)
    training.update(1.0, 1.0, steps=40)
    training.agent.num_timesteps = 0
    training.agent.ep_info_buffer.clear()
    training.update(2.0, 2.0, steps=10)
    training.update(2.0, 2.0, steps=10)
    assert training.teacher.mark == 2.0, "the candidate of before was judged by what came after"
    assert training.teacher.age(training.agent) >= 0


def test_gradient_steps_without_environment_steps_bring_no_new_candidate():
    training = Training(every=4)
    training.update()
    candidate, training.teacher.candidate = training.teacher.candidate, None
    assert candidate is not None
    training.teacher.refresh(training.agent)
    assert training.teacher.candidate is None


def test_by_evaluation_only_what_is_handed_in_counts():
    training = Training(by="evaluation")
    training.update()
    assert not training.update(500.0, 500.0), "training returns are not comparable"
    assert training.teacher.offer(training.agent, -3.0)
    expected = training.now()
    assert_close(training.teacher.targets(RAW), expected, rtol=1e-5, atol=1e-5)
    disturb(training.agent.policy, 0.1)
    assert not training.teacher.offer(training.agent, -4.0)
    version = training.teacher.version
    training.agent.num_timesteps += 10
    assert training.teacher.refresh(training.agent), "the change is told once"
    assert not training.teacher.refresh(training.agent)
    assert training.teacher.version == version
    assert not training.update(900.0, 900.0)
    assert_close(training.teacher.targets(RAW), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, "500", None])
def test_an_evaluation_that_is_no_finite_number_is_refused(value):
    training = Training(by="evaluation")
    with pytest.raises(ValueError, match=r"mean_return must be a finite number, got (nan|inf|'500'|None)"):
        training.teacher.offer(training.agent, value)


def test_a_best_by_training_returns_takes_no_evaluations():
    training = Training()
    with pytest.raises(ValueError, match=r"teacher.by is 'training'.*'evaluation'"):
        training.teacher.offer(training.agent, 500.0)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_loaded_teacher_goes_on_as_the_saved_one(after):
    training = Training(episodes=3)
    for value in range(after):
        training.update(float(value), float(value))
    teacher, agent = training.teacher, training.agent
    loaded = training.answer.build(actor_for(agent))
    tensors = {name: tensor.clone() for name, tensor in teacher.tensors().items()}
    loaded.load(agent, tensors, json.loads(json.dumps(teacher.state())))
    for value in (3.0, 9.0, 4.0, 20.0, 1.0):
        agent.ep_info_buffer.extend({"r": value, "l": 5, "t": 0.0} for _ in range(2))
        agent.num_timesteps += 10
        assert loaded.refresh(agent) == teacher.refresh(agent)
        assert (loaded.mark, loaded.version, loaded.returns) == (teacher.mark, teacher.version, teacher.returns)
        disturb(agent.policy, 0.1)
    assert torch.equal(loaded.targets(RAW), teacher.targets(RAW))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_a_mark_is_never_above_the_mean(returns):
    assert marked(returns) <= sum(returns) / len(returns) + 1e-9
    assert marked([returns[0]] * 5) == pytest.approx(returns[0])


def test_nobody_is_judged_without_episodes():
    training = Training()
    training.agent.ep_info_buffer = None
    for _ in range(4):
        training.agent.num_timesteps += 10
        assert not training.teacher.refresh(training.agent)
    assert not training.teacher.ready
    assert training.teacher.metrics() == {}
