"""Noticing that an agent is beyond repair."""

from __future__ import annotations

import pytest
import torch
from helpers import ALGORITHMS, small_agent, small_ppo

from rlsd.faults import nonfinite_parameter, report


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_agent_whose_parameters_are_finite_is_sound(name):
    assert nonfinite_parameter(small_agent(name)) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_the_parameter_that_is_not_finite_is_named(bad):
    agent = small_ppo()
    name, parameter = list(agent.policy.named_parameters())[3]
    parameter.data.view(-1)[-1] = bad
    assert nonfinite_parameter(agent) == name


def test_large_is_not_infinite():
    agent = small_ppo()
    for parameter in agent.policy.parameters():
        parameter.data.fill_(torch.finfo(torch.float32).max)
    assert nonfinite_parameter(agent) is None


def test_the_report_says_which_when_and_what_to_do():
    agent = small_ppo()
    agent.num_timesteps = 4096
    said = report("action_net.weight", agent)
    assert "'action_net.weight'" in said
    assert "4096 steps" in said
    assert "learning rate" in said
    assert "\n" not in said
