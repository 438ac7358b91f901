"""The test for a change of starts: its bound, its delay, the moment it tells, and its state."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsd import change
from rlsd.betting import Bets
from rlsd.change import ChangeTest


def streams(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Starts of environments that stay what they are."""
    if kind == "fixed":
        starts = np.tile([0.1, 0.2, 0.3], (n, 1))
    elif kind == "uniform":
        starts = rng.uniform(-0.05, 0.05, (n, 4))
    elif kind == "levels":
        starts = np.random.default_rng(1).integers(0, 6, (5000, 25))[rng.integers(5000, size=n)]
    elif kind == "goals":
        goal = rng.integers(0, 8, n)
        starts = np.stack([np.zeros(n), np.cos(goal), np.sin(goal)], 1)
    else:
        starts = np.array([[0, 0], [3, 0], [0, 3]])[rng.integers(0, 3, n)] + rng.normal(size=(n, 2))
    return starts.astype(np.float32)


KINDS = ("fixed", "uniform", "levels", "goals", "mixture")


def alarms(starts: np.ndarray, seed: int = 0, level: float = 1e-3) -> list[change.Alarm]:
    return ChangeTest(np.random.default_rng(seed), level).observe(starts, 10 * np.arange(len(starts)))


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_false_alarms_than_said(kind):
    # At a level of a half, so that a bound that did not hold would show in few streams: 3.5 standard errors more.
    n = 40
    false = sum(bool(alarms(streams(kind, np.random.default_rng(s), 60), s, level=0.5)) for s in range(n))
    assert false / n <= 0.5 + 3.5 * np.sqrt(0.25 / n)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_streams_that_do_not_change_keep_the_level(kind):
    level, n = 0.02, 2000
    false = sum(bool(alarms(streams(kind, np.random.default_rng(s), 200), s, level=level)) for s in range(n))
    assert false / n <= level + 3.5 * np.sqrt(level * (1 - level) / n)


class Grid:
    """Gives what it is told to instead of a random number."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_ranks_are_uniform_over_who_of_them_comes_last_whatever_the_scores(scores):
    bets, ties = Bets(), (np.arange(8) + 0.5) / 8
    for last in range(len(scores)):
        others = np.array(scores[:last] + scores[last + 1 :])
        for tie in ties:
            ChangeTest(Grid(tie), 1e-3)._bet(bets, others > scores[last], others == scores[last])
    # As even as eight ways to break a tie can be.
    even = (np.arange(bets.count) + 0.5) / bets.count
    assert np.abs(np.sort(bets.ranks) - even).max() <= 1 / 16 + 1e-9


def test_how_odd_a_start_is_does_not_depend_on_the_order_of_those_around_it():
    """What is ranked are scores of a set: sums that were kept up to date are those that were made anew."""
    rng = np.random.default_rng(0)
    test = ChangeTest(rng, 1e-9)
    for start in streams("mixture", rng, 400):
        test._rank_oddness(start)
    anew = [change._kernels(start, np.delete(test._among, row, 0)).sum() for row, start in enumerate(test._among)]
    np.testing.assert_allclose(test._near, anew, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clear_change_is_seen_within_twelve_episodes_and_its_moment_told(kind):
    rng = np.random.default_rng(0)
    before, after = streams(kind, rng, 150), streams(kind, rng, 60)
    marked = [np.insert(some, 0, bit, axis=1) for some, bit in ((before, 0), (after, 1))]
    (found,) = alarms(np.concatenate(marked))
    assert 1500 <= found.step <= 1620
    assert found.since == 1500
    assert len(found.latest) == (found.step - 1500) // 10 + 1
    assert (found.latest[:, 0] == 1).all()


def test_a_clear_change_is_seen_within_ten_episodes_though_there_were_but_thirty_before():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        parts = [np.insert(streams("uniform", rng, 30), 0, bit, axis=1) for bit in (0, 1)]
        (found,) = alarms(np.concatenate(parts), seed, level=0.01)
        assert found.step < 400
        assert found.since == 300


def test_the_moment_of_a_wider_spread_is_told_though_most_starts_are_like_those_before():
    """Starts in the middle of the box are of either kind: few are told apart."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        starts = np.concatenate([streams("uniform", rng, 150), 1.5 * streams("uniform", rng, 60)])
        assert abs(alarms(starts, seed, level=0.01)[0].since - 1500) <= 100


def test_scores_become_logarithms_of_likelihood_ratios_and_nothing_where_they_tell_nothing():
    rng = np.random.default_rng(0)
    scores = np.linspace(-2, 2, 9)
    new, old = rng.normal(0.5, 1, 4000), rng.normal(-0.5, 1, 1000)
    np.testing.assert_allclose(change.calibrated(3 * scores, 3 * new, 3 * old), scores, atol=0.15)
    assert np.abs(change.calibrated(scores, rng.normal(size=500), rng.normal(size=2000))).max() < 0.3
    assert np.abs(change.calibrated(scores, np.full(4, 2.0), np.full(50, 2.0))).max() < 1e-6


def test_after_an_alarm_the_way_back_raises_another():
    rng = np.random.default_rng(0)
    parts = [streams("uniform", rng, n) + shift for n, shift in ((100, 0), (100, 1), (100, 0))]
    assert [alarm.since for alarm in alarms(np.concatenate(parts))] == [1000, 2000]


def test_starts_that_are_all_the_same_win_nothing():
    test = ChangeTest(np.random.default_rng(0), 1e-3)
    test.observe(streams("fixed", np.random.default_rng(0), 100), np.arange(100))
    assert test.wealth < 1.0
    assert len(np.unique(test.odd.ranks)) == 100 - change.SCALE, "ties are not broken by chance"


def test_it_goes_on_from_its_state_as_if_never_stopped():
    rng = np.random.default_rng(0)
    starts = np.concatenate([streams("uniform", rng, 90), streams("uniform", rng, 60) + 0.05])
    steps = np.arange(len(starts))
    test = ChangeTest(np.random.default_rng(5), 1e-3)
    test.observe(starts[:80], steps[:80])
    again = ChangeTest(copy.deepcopy(test._generator), 1e-3)
    again.load({name: array.copy() for name, array in test.arrays().items()}, test.state())
    said, repeated = (t.observe(starts[80:], steps[80:]) for t in (test, again))
    assert [a[:2] for a in said] == [a[:2] for a in repeated]
    assert test.wealth == again.wealth and test.state() == again.state()


def test_memory_is_bounded():
    test = ChangeTest(np.random.default_rng(0), 1e-3)
    test.observe(streams("mixture", np.random.default_rng(0), 800), np.arange(800))
    assert sum(len(array) for array in test.arrays().values()) <= 12 * change.ORDERED
