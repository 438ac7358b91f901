"""A teacher is followed while its student is behind it, and no longer."""

from __future__ import annotations

import json
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsd import ReturnGate


def agent(*returns: float):
    """As much of an agent as a gate looks at; these episodes are all it remembers."""
    episodes = deque({"r": r, "l": 1, "t": 0.0} for r in returns)
    return SimpleNamespace(ep_info_buffer=episodes, _stats_window_size=max(len(returns), 1))


def judged(gate, lowest: float = 0.0, highest: float = 100.0):
    """A gate that has seen returns from ``lowest`` to ``highest``, and whose teacher was taken at the latter."""
    gate.update(agent(lowest), refreshed=False)
    gate.update(agent(highest), refreshed=True)
    return gate


@pytest.mark.parametrize(
    ("student", "open_by"),
    [(120.0, 0.0), (100.0, 0.0), (96.0, 0.0), (95.0, 0.0), (90.0, 0.5), (87.0, 0.8), (85.0, 1.0), (10.0, 1.0)],
)
def test_a_gate_opens_from_the_margin_on_over_its_width(student, open_by):
    gate = judged(ReturnGate(margin=0.05, width=0.1).build())
    assert gate.update(agent(student), refreshed=False) == pytest.approx(open_by)


def test_what_is_compared_is_the_mean_over_the_remembered_episodes():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build())
    # The mean is 60, its standard error sqrt((3 * 1 + 9) / 3 / 4) = 1; two of these are taken off.
    assert gate.update(agent(61.0, 61.0, 61.0, 57.0), refreshed=False) == pytest.approx(0.4 - 0.02)


def test_what_chance_explains_is_no_fall():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build())
    assert gate.update(agent(0.0, 150.0), refreshed=False) == 0.0, "25 behind, and 75 is one standard error"
    assert gate.update(agent(75.0, 75.0), refreshed=False) == pytest.approx(0.25)


def test_shares_are_of_the_range_of_returns_seen_so_far():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build(), lowest=-300.0, highest=-100.0)
    assert gate.update(agent(-150.0), refreshed=False) == pytest.approx(0.25)
    # A new low widens the range to 400.
    assert gate.update(agent(-500.0), refreshed=False) == pytest.approx(1.0)
    assert gate.update(agent(-200.0), refreshed=False) == pytest.approx(0.25)


def test_a_gate_is_closed_while_no_episode_has_finished():
    gate = ReturnGate(margin=0.0, width=1.0).build()
    assert gate.update(agent(), refreshed=True) == 0.0
    assert gate.update(SimpleNamespace(ep_info_buffer=None, _stats_window_size=1), refreshed=False) == 0.0


def test_a_gate_is_closed_until_enough_episodes_have_ended():
    gate = ReturnGate(margin=0.0, width=0.1).build()
    judged(gate)
    few = agent(*[10.0] * 19)
    few._stats_window_size = 100
    assert gate.update(few, refreshed=False) == 0.0
    few.ep_info_buffer.append({"r": 10.0})
    assert gate.update(few, refreshed=False) == 1.0


def test_a_gate_is_closed_while_all_returns_are_the_same():
    gate = ReturnGate(margin=0.0, width=1.0).build()
    assert [gate.update(agent(7.0, 7.0), refreshed=False) for _ in range(3)] == [0.0] * 3


def test_a_gate_closes_when_the_teacher_is_taken_from_the_student_as_it_is():
    gate = judged(ReturnGate(margin=0.0, width=0.1).build())
    assert gate.update(agent(50.0), refreshed=False) == 1.0
    assert gate.update(agent(50.0), refreshed=True) == 0.0
    assert gate.update(agent(45.0), refreshed=False) == pytest.approx(0.5), "the new teacher has 50"


def test_a_gate_opens_again_when_the_student_falls_behind_again():
    gate = judged(ReturnGate(margin=0.0, width=0.5).build())
    found = [gate.update(agent(r), refreshed=False) for r in (75.0, 110.0, 65.0)]
    assert found == pytest.approx([0.5, 0.0, 35 / 110 / 0.5])


def test_a_teacher_taken_while_no_episode_is_remembered_is_not_judged_by_an_older_ones_return():
    gate = judged(ReturnGate(margin=0.0, width=1.0).build())
    gate.update(agent(), refreshed=True)  # learn() began anew: SB3 forgets the episodes
    assert gate.update(agent(40.0), refreshed=False) == 0.0, "compared with a teacher that is gone"


@given(
    returns=st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), max_size=12),
    margin=st.floats(0.0, 1.0),
    width=st.floats(0.01, 1.0),
)
def test_a_gate_is_between_closed_and_open_whatever_happens(returns, margin, width):
    gate = ReturnGate(margin, width).build()
    for value, refreshed in returns:
        assert 0.0 <= gate.update(agent(value), refreshed) <= 1.0


def test_a_loaded_gate_goes_on_as_the_saved_one():
    original = judged(ReturnGate(0.0, 1.0).build(), lowest=-20.0)
    loaded = ReturnGate(0.0, 1.0).build()
    loaded.load(json.loads(json.dumps(original.state())))
    for value in (80.0, 10.0, 130.0, 30.0):
        assert loaded.update(agent(value), False) == original.update(agent(value), False)


def test_a_new_gate_can_be_saved_and_loaded():
    loaded = ReturnGate().build()
    loaded.load(json.loads(json.dumps(ReturnGate().build().state())))
    assert loaded.update(agent(3.0), refreshed=False) == 0.0
