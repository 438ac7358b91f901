"""How strongly: numbers at given points of training, and gates that multiply them."""

from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsd import Constant, ReturnGate, Schedule
from rlsd.strength import Dial

shapes = st.sampled_from(["linear", "cosine", "exponential"])


def agent_at(remaining: float, *returns: float):
    """As much of an agent as a strength looks at."""
    episodes = deque({"r": r} for r in returns)
    return SimpleNamespace(_current_progress_remaining=remaining, ep_info_buffer=episodes, _stats_window_size=1)


def test_a_constant_is_the_same_throughout():
    assert [Constant(0.3).at(remaining) for remaining in (1.0, 0.5, 0.0)] == [0.3] * 3


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [8.0, 6.5, 5.0, 3.5, 2.0]),
        # 2 + 6 (1 + cos(pi done)) / 2
        ("cosine", [8.0, 7.1213203, 5.0, 2.8786797, 2.0]),
        # 8 * (1/4) ** done
        ("exponential", [8.0, 5.6568542, 4.0, 2.8284271, 2.0]),
    ],
)
def test_a_schedule_goes_from_its_start_to_its_end_in_its_shape(shape, expected):
    schedule = Schedule(8.0, end=2.0, shape=shape)
    assert [schedule.at(remaining) for remaining in (1.0, 0.75, 0.5, 0.25, 0.0)] == pytest.approx(expected)


@given(start=st.floats(1e-3, 10), end=st.floats(1e-3, 10), shape=shapes, remaining=st.floats(-0.5, 1.5))
def test_a_schedule_never_leaves_the_range_between_its_ends(start, end, shape, remaining):
    value = Schedule(start, end=end, shape=shape).at(remaining)
    assert min(start, end) * (1 - 1e-9) <= value <= max(start, end) * (1 + 1e-9)


def test_a_schedule_falls_from_one_to_zero_by_default():
    assert [Schedule().at(remaining) for remaining in (1.0, 0.4, 0.0)] == pytest.approx([1.0, 0.4, 0.0])


def test_a_function_is_given_the_remaining_progress_as_everywhere_in_sb3():
    schedule = Schedule(lambda remaining: 2 * remaining**2)
    assert [schedule.at(remaining) for remaining in (1.0, 0.5, 0.0)] == [2.0, 0.5, 0.0]
    assert Schedule(lambda _: np.float32(0.5)).at(1.0) == 0.5


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "much", None])
def test_a_function_that_returns_no_strength_is_an_error_that_names_it(value):
    with pytest.raises(ValueError, match=r"strength\.value\(0\.25\) must be a number >= 0, got "):
        Schedule(lambda _: value).at(0.25)


@pytest.mark.parametrize(
    ("strength", "off"),
    [(Constant(0.0), True), (Constant(1e-9), False), (Schedule(0.0, end=1.0), False), (Schedule(lambda _: 0), False)],
)
def test_only_a_strength_that_can_never_be_more_than_zero_is_off(strength, off):
    assert strength.off is off


# Gates


def test_a_strength_is_multiplied_by_each_of_its_gates():
    agent = agent_at(0.5, 0.0)
    dial = Dial(Schedule(4.0, gates=[ReturnGate(margin=0.0, width=1.0), ReturnGate(margin=0.0, width=0.5)]))
    assert dial.update(agent_at(1.0, 0.0), refreshed=True) == 0.0, "the teacher was just taken"
    agent = agent_at(0.5, 100.0)
    dial.update(agent, refreshed=True)  # the teacher has 100, the range is 0..100
    # 2 (half of 4, half of the way) x 0.3 / 1 x 0.3 / 0.5
    assert dial.update(agent_at(0.5, 70.0), refreshed=False) == pytest.approx(2 * 0.3 * 0.6)
    assert dial.value == pytest.approx(2 * 0.3 * 0.6)


def test_without_gates_the_strength_is_the_schedules():
    assert Dial(Schedule(4.0)).update(agent_at(0.5), refreshed=False) == 2.0


def test_two_agents_with_the_same_answer_have_gates_of_their_own():
    strength = Constant(1.0, gates=[ReturnGate()])
    one, other = Dial(strength), Dial(strength)
    one.update(agent_at(1.0, 50.0), refreshed=True)
    assert one.state() != other.state()


def test_a_loaded_dial_goes_on_as_the_saved_one():
    strength = Constant(2.0, gates=[ReturnGate(0.0, 1.0), ReturnGate(0.2, 0.5)])
    original = Dial(strength)
    for value, refreshed in ((0.0, False), (100.0, True), (60.0, False)):
        original.update(agent_at(1.0, value), refreshed)
    loaded = Dial(strength)
    loaded.load(json.loads(json.dumps(original.state())))
    for value in (40.0, 90.0, 130.0, 20.0):
        agent = agent_at(1.0, value)
        assert loaded.update(agent, refreshed=False) == original.update(agent, refreshed=False)


def test_the_state_of_another_number_of_gates_is_refused():
    state = Dial(Constant(1.0, gates=[ReturnGate()])).state()
    with pytest.raises(ValueError, match="argument"):
        Dial(Constant(1.0)).load(state)
