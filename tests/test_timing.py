"""At which gradient steps, and with what weight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlsd import EveryStep


@pytest.mark.parametrize(
    ("stride", "weights"),
    [(1, [1, 1, 1, 1, 1, 1, 1]), (2, [0, 2, 0, 2, 0, 2, 0]), (3, [0, 0, 3, 0, 0, 3, 0])],
)
def test_the_last_step_of_each_stride_gets_a_deposit_stride_times_as_heavy(stride, weights):
    assert [EveryStep(stride).weight(step) for step in range(7)] == weights


@given(stride=st.integers(1, 50), rounds=st.integers(1, 20))
def test_the_weights_sum_to_the_number_of_steps(stride, rounds):
    assert sum(EveryStep(stride).weight(step) for step in range(stride * rounds)) == stride * rounds


def test_every_step_is_the_default():
    assert EveryStep().stride == 1
