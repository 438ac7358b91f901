"""A stake on uniform ranks is worth what it was, on average, whatever was bet before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsd.betting import EXPONENTS, KEPT, SPANS, Bets

ranks = st.floats(1e-9, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(ranks, st.integers(1, 300)), max_size=40), st.integers(1, 60))
def test_the_stake_is_a_martingale_or_less(before, among):
    """The mean of what it becomes, over a uniform next rank, is what it is now."""
    bets = Bets()
    for number, (rank, others) in enumerate(before):
        bets.add(rank, others, number)
    now, kept = bets.wealth, {name: array.copy() for name, array in bets.arrays().items()}
    # Steps of the bets on spans lie at multiples of 1 / among; between them powers are integrated as they are.
    edges = np.unique(np.concatenate([[1e-12], np.arange(1, 4 * among + 1) / (4 * among), np.geomspace(1e-12, 1, 200)]))
    after = []
    for rank in np.sqrt(edges[1:] * edges[:-1]):
        bets.load({name: array.copy() for name, array in kept.items()}, len(before))
        bets.add(rank, among, 0)
        after.append(bets.wealth)
    mean = float((np.array(after) * np.diff(edges)).sum())
    assert mean <= now * (1 + 5e-3) + 1e-9


@given(st.integers(1, 300), st.integers(0, 400))
def test_a_bet_on_a_span_pays_its_stake_back_over_all_ranks(among, age):
    first = np.minimum((age + 1) * SPANS / among, 1.0)
    worth = first * (KEPT + (1 - KEPT) / first) + (1 - first) * KEPT
    np.testing.assert_allclose(worth, 1.0)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_bet_on_small_ranks_pays_its_stake_back_over_all_ranks(exponent):
    edges = np.geomspace(1e-150, 1.0, 200_001)
    worth = (np.diff(edges) * exponent * np.sqrt(edges[1:] * edges[:-1]) ** (exponent - 1.0)).sum()
    assert worth == pytest.approx(1.0, abs=1e-4)


def test_the_chance_ever_to_win_c_times_the_stake_is_at_most_one_in_c():
    rng, reached = np.random.default_rng(0), 0
    for _ in range(200):
        bets = Bets()
        reached += any(bets.add(rank, 50, 0) or bets.wealth >= 4.0 for rank in rng.random(100))
    assert reached / 200 <= 0.25 + 3.5 * np.sqrt(0.25 * 0.75 / 200)
    assert reached > 0, "it never wins at all"


def test_small_ranks_from_a_moment_on_win_much_and_the_moment_is_told():
    bets = Bets()
    for number, rank in enumerate([*np.random.default_rng(0).random(100), *[0.01] * 6]):
        bets.add(rank, 101, number)
    assert bets.wealth > 4e3
    assert bets.moment() == 100
    assert 97 <= np.argmax(bets.likelihoods()) <= 100
    assert (bets.likelihoods() >= 0).all()
