"""However many states there are, as many go through a network at a time as it has room for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents import ROLLOUT, build, distilled
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import rlsd
from rlsd import chunks
from rlsd.chunks import FIRST, LARGEST, Pace

#: Numbers that the network below makes of a state, and how many states there is room for at a time.
MADE, ROOM = 1000, 20


class Swelling(BaseFeaturesExtractor):
    """Makes very much of each state, as a convolution of a large image does, and notes of how many at a time."""

    seen: list[tuple[int, bool]] = []  # noqa: RUF012 - of all copies of the network

    def __init__(self, space):
        super().__init__(space, 3)
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, observations):
        Swelling.seen.append((len(observations), torch.is_grad_enabled()))
        large = self.layer(observations.float()) * torch.ones(MADE)  # which take the room but for a tenth
        return large[:, :3] + observations


def most(with_graph: bool) -> int:
    return max((n for n, graph in Swelling.seen if graph == with_graph), default=0)


@pytest.fixture
def swelling(monkeypatch):
    Swelling.seen.clear()
    monkeypatch.setattr(chunks, "_ROOM", int(1.1 * 4 * MADE * ROOM))
    return {"policy_kwargs": {"features_extractor_class": Swelling, "net_arch": [4]}}


RECIPES = ["snapshot", "selective", "cascade", "phasic", "rehearse", "mirror"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_puts_more_states_through_a_network_than_there_is_room_for(recipe, swelling):
    every = {} if recipe in ("cascade", "rehearse") else {"teacher.every": 64}
    every |= {"timing.every_rollouts": 2} if recipe == "phasic" else {}
    answers = rlsd.recipe(recipe, **every)
    agent = distilled(PPO, "box", answers, n_steps=32, batch_size=8, **swelling)
    agent.learn(4 * 64)
    assert sum(n for n, _ in Swelling.seen) > 500, "nothing was asked"
    assert most(with_graph=False) <= ROOM
    if recipe not in ("cascade", "phasic"):  # which train on minibatches of a size that they are given
        assert 8 <= most(with_graph=True) <= 2 * ROOM


@pytest.mark.parametrize("algorithm", [SAC, DQN])
def test_nor_does_an_off_policy_agent(algorithm, swelling):
    agent = distilled(algorithm, "box" if algorithm is SAC else "discrete", "snapshot", **swelling)
    agent.distiller.teacher.every = ROLLOUT
    agent.learn(4 * ROLLOUT)
    assert agent.distiller.deposits
    assert max(most(True), most(False)) <= 2 * ROOM


def test_nor_does_a_smaller_student_that_is_compared(swelling):
    agent = build(PPO, "box", **swelling)
    states = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    rlsd.compress(agent, {"net_arch": [2]}, states=states, steps=1, batch_size=8)
    assert FIRST <= most(with_graph=False) <= ROOM


def test_a_small_network_is_asked_about_thousands_at_a_time():
    sizes = []
    weights = torch.randn(4, 64)

    def work(some):
        sizes.append(len(some))
        return torch.tanh(torch.zeros(len(some), 4) @ weights)

    found = Pace().joined(work, np.arange(10_000))
    assert found.shape == (10_000, 64)
    assert sizes[0] == FIRST and min(sizes[1:3]) == LARGEST and sum(sizes) == 10_000


@pytest.mark.parametrize("n", [0, 1, FIRST])
def test_few_states_go_through_together_and_nothing_is_measured(n):
    pace = Pace()
    assert pace.in_chunks(len, np.arange(n)) == ([n] if n else [])
    assert pace.at_once is None


def test_neither_views_nor_what_is_written_in_place_take_room():
    place, pace = torch.zeros(1000, 1000), Pace()

    def work(some):
        place[torch.from_numpy(some)] = 1.0
        return place.t()[: len(some)]

    pace.in_chunks(work, np.arange(100))
    assert pace.at_once == LARGEST


def test_a_single_state_that_has_no_room_goes_through_alone():
    pace = Pace()
    sizes = pace.in_chunks(lambda some: len(torch.zeros(len(some), 2 * chunks._ROOM // 4)), np.arange(FIRST + 3))
    assert sizes == [FIRST, 1, 1, 1]


def test_a_loaded_agent_goes_on_at_the_same_pace(swelling, tmp_path):
    answers = rlsd.recipe("snapshot", **{"teacher.every": 64})
    agent = distilled(PPO, "box", answers, n_steps=32, batch_size=8, **swelling)
    agent.learn(4 * 64)
    agent.save(tmp_path / "agent")
    loaded = rlsd.SelfDistilled(PPO).load(tmp_path / "agent")
    for one in (agent, loaded):
        assert one.distiller.cache._asking.at_once == one.distiller.penalty._pace.at_once <= ROOM


@pytest.mark.parametrize("wrong", [0, -3, 10**9])
def test_a_pace_from_a_file_is_one_that_there_may_be(wrong):
    pace = Pace()
    pace.load(wrong)
    assert 1 <= pace.at_once <= LARGEST
