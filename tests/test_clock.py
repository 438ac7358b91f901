"""Environment steps are counted anew by some calls of ``learn()``, and by nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlsd.clock import Clock


def agent(steps: int, learn: int, began: int = 0):
    """As much of an agent as is looked at: its steps, and when and at which step its latest ``learn()`` began."""
    return SimpleNamespace(num_timesteps=steps, start_time=learn, _num_timesteps_at_start=began)


@pytest.mark.parametrize(
    ("steps", "learn", "began", "restarted"),
    [(20, 1, 0, False), (20, 2, 10, False), (10, 1, 0, False), (10, 2, 0, True), (8, 2, 0, True), (20, 2, 0, True)],
    ids=["goes on", "another learn() goes on", "a train() by itself", "a learn() as long", "a shorter", "a longer"],
)
@pytest.mark.parametrize("loaded", [False, True])
def test_only_another_learn_that_began_at_zero_counts_anew(steps, learn, began, restarted, loaded):
    clock = Clock()
    clock.restarted(agent(10, 1))
    if loaded:
        again = Clock()
        again.load(agent(10, 1), clock.seen)
        clock = again
    assert clock.restarted(agent(steps, learn, began)) is restarted
    assert clock.seen == steps
    assert clock.restarted(agent(steps, learn, began)) is False
