"""Noticing that an agent is beyond repair."""

from __future__ import annotations

import pytest
import torch
from helpers import ALGORITHMS, small_agent, small_ppo

from rlsd.faults import no_action, nonfinite_parameter, report


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
    assert "observation" in said
    assert "\n" not in said


def test_what_kept_an_agent_from_acting_is_told_apart():
    policy = small_ppo().policy
    sound, broken = torch.zeros(2, 3), torch.tensor([[0.0, 1.0, float("nan")]])
    said = [str(no_action(policy, sound)), str(no_action(policy, broken))]
    next(policy.parameters()).data.fill_(float("nan"))
    said += [str(no_action(policy, sound)), str(no_action(policy, broken))]
    causes = ["too large", "observation that is not finite", "parameter '", "observation that is not finite"]
    assert all(cause in text and "\n" not in text for cause, text in zip(causes, said, strict=True))
