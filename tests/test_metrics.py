"""Metrics: means since the last line of the log, read together."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO

import rlsd
from rlsd import metrics
from rlsd.metrics import Activity, Metrics

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    hand_set = SimpleNamespace(now=100.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: hand_set.now))
    return hand_set


def test_a_figure_is_the_mean_of_what_was_added_to_it():
    metrics = Metrics(CPU)
    for value in (1.0, 2.0, 6.0):
        metrics.add("kl", torch.tensor(value))
    metrics.add("agreement", torch.tensor(0.5))
    assert metrics.means() == {"kl": 3.0, "agreement": 0.5}


def test_reading_changes_nothing():
    metrics = Metrics(CPU)
    metrics.add("kl", torch.tensor(5.0))
    assert metrics.means() == metrics.means() == {"kl": 5.0}


def test_means_start_over_when_told_to():
    metrics = Metrics(CPU)
    metrics.add("kl", torch.tensor(5.0))
    metrics.restart()
    assert metrics.means() == {}
    metrics.add("kl", torch.tensor(1.0))
    assert metrics.means() == {"kl": 1.0}


def test_adding_reads_nothing_from_the_device(monkeypatch):
    metrics = Metrics(CPU)
    with monkeypatch.context() as patch:
        for reading in ("item", "tolist", "numpy", "cpu", "__float__", "__bool__"):
            patch.setattr(torch.Tensor, reading, lambda *_: pytest.fail("the device was read"))
        for _ in range(3):
            metrics.add("kl", torch.tensor(2.0))
    assert metrics.means() == {"kl": 2.0}


def test_all_figures_are_read_in_one_transfer(monkeypatch):
    metrics, transfers = Metrics(CPU), []
    for key in ("kl", "loss", "agreement"):
        metrics.add(key, torch.tensor(2.0))
    read = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor) or read(tensor))
    metrics.means()
    assert len(transfers) == 1


def test_a_figure_keeps_no_graph_alive_and_changes_no_tensor_it_was_given():
    metrics, value = Metrics(CPU), torch.tensor(2.0, requires_grad=True)
    loss = value * 3
    metrics.add("loss", loss)
    metrics.add("loss", loss)
    assert all(not total.requires_grad for total in metrics._sums.values())
    assert loss.item() == 6.0
    assert metrics.means() == {"loss": 6.0}


def test_the_fraction_is_the_share_of_the_time_that_was_spent_distilling(clock):
    metrics = Metrics(CPU)
    for seconds in (1.0, 2.0):
        with metrics.timed():
            clock.now += seconds
        clock.now += 3.0
    assert metrics.fraction() == pytest.approx(3 / 9)
    metrics.restart()
    clock.now += 5.0
    assert metrics.fraction() == 0.0, "it starts over"


def test_time_counts_even_when_distilling_fails(clock):
    metrics = Metrics(CPU)
    with suppress(RuntimeError), metrics.timed():
        clock.now += 2.0
        raise RuntimeError
    clock.now += 2.0
    assert metrics.fraction() == pytest.approx(0.5)


def test_the_fraction_is_a_number_even_when_no_time_has_passed(clock):
    assert Metrics(CPU).fraction() == 0.0


# In how many updates it pulled


@given(st.lists(st.booleans(), max_size=20))
def test_it_counts_updates_and_those_that_pulled(pulls):
    activity = Activity()
    for number, pulled in enumerate(pulls):
        activity.count(pulled, 10 * number)
    steps = [10 * number for number, pulled in enumerate(pulls) if pulled]
    expected = (len(pulls), len(steps), steps[0] if steps else None, steps[-1] if steps else None)
    assert (activity.updates, activity.pulled, activity.first, activity.last) == expected
    again = Activity()
    again.load(activity.state())
    assert again == activity, "saved and loaded it is another"


def test_an_agent_tells_from_when_it_was_pulled():
    pulling = rlsd.recipe("snapshot", teacher=rlsd.Snapshot(every=64))
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, distill=pulling)
    agent.learn(128)
    assert str(agent.distiller.activity) == "pulled in 3 of 4 updates, steps 64 to 128"


def test_an_agent_that_is_never_behind_was_idle():
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, distill="guard")
    agent.learn(64)
    assert str(agent.distiller.activity) == "idle in all 2 updates"
