"""The statistics of a comparison, against scipy's and against what must hold of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsd.cli.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean_probability_of_improvement,
    probability_of_improvement,
)

stats = pytest.importorskip("scipy.stats", reason="the independent computation")
# Whole numbers, so that ties are common: returns of CartPole tie at 500.
samples = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


def iqm_of_one(strata):
    return interquartile_mean(strata[0])


@given(samples)
def test_the_interquartile_mean_is_scipys_trimmed_mean(values):
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25)), f"of {values}"


def test_the_interquartile_mean_ignores_an_outlier():
    assert interquartile_mean([1, 2, 3, 4]) == 2.5, "the middle half of four is two"
    assert interquartile_mean([1, 2, 3, 1e9]) == 2.5, "an outlier moved it"


@given(samples, samples)
def test_the_probability_of_improvement_is_mann_whitneys_u(ours, theirs):
    u = stats.mannwhitneyu(ours, theirs).statistic
    expected = u / (len(ours) * len(theirs))
    assert probability_of_improvement(ours, theirs) == pytest.approx(expected), f"of {ours} over {theirs}"


@given(samples, samples)
def test_both_probabilities_of_improvement_sum_to_one(ours, theirs):
    both = probability_of_improvement(ours, theirs) + probability_of_improvement(theirs, ours)
    assert both == pytest.approx(1.0), "a tie must count half on either side"


def test_figures_of_many_resamples_are_those_of_each():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(7, 10)), generator.normal(size=(7, 6))
    np.testing.assert_allclose(interquartile_mean(x), [interquartile_mean(row) for row in x])
    expected = [probability_of_improvement(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(probability_of_improvement(x, y), expected)


def test_environments_count_alike_in_the_mean_probability():
    better, worse = [2.0] * 9, [0.0]
    found = mean_probability_of_improvement([better, [1.0] * 9, worse, [1.0]])
    assert found == 0.5, "better on one environment and worse on the other"


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(1).normal(100, 20, size=10)
    theirs = stats.bootstrap(
        (values,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", n_resamples=20_000, rng=2
    ).confidence_interval
    ours = bootstrap_interval(iqm_of_one, [values], resamples=20_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1.0), "two bootstraps of the same figure"


def test_the_interval_of_the_mean_narrows_as_the_normal_law_says():
    values = np.random.default_rng(3).normal(size=400)
    low, high = bootstrap_interval(lambda strata: strata[0].mean(axis=-1), [values])
    expected = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert high - low == pytest.approx(expected, rel=0.05), "width"


def test_every_stratum_is_redrawn_from_itself_alone():
    seen = []

    def note(strata):
        seen.extend(strata)
        return strata[0][:, 0]

    bootstrap_interval(note, [[1.0, 2.0], [10.0, 20.0, 30.0]], resamples=50)
    assert set(np.unique(seen[0])) == {1, 2}, "first stratum"
    assert set(np.unique(seen[1])) == {10, 20, 30}, "second stratum"
    assert seen[1].shape == (50, 3), "as many as there were"


def test_the_same_figures_have_the_same_interval():
    values = [1.0, 5.0, 3.0, 8.0]
    assert bootstrap_interval(iqm_of_one, [values]) == bootstrap_interval(iqm_of_one, [values]), "not repeatable"
    assert bootstrap_interval(iqm_of_one, [values], resamples=1_234)[0] <= interquartile_mean(values), "lower end"


def test_the_interval_of_a_single_value_is_that_value():
    assert bootstrap_interval(iqm_of_one, [[7.0]], resamples=10) == (7.0, 7.0), "one seed has nothing to redraw"
