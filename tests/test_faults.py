"""Noticing that an agent is beyond repair."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from agents import ROLLOUT, config, distilled
from helpers import ALGORITHMS, small_agent, small_ppo
from stable_baselines3 import SAC

from rlsd import faults
from rlsd.faults import in_best, in_checkpoint, in_zip, no_action, nonfinite_parameter, report


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
    said = report("parameter 'action_net.weight'", agent)
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


NAN = float("nan")


def _poison_parameter(agent):
    next(agent.policy.parameters()).data.view(-1)[0] = NAN


def _poison_optimizer(agent):
    optimizer = getattr(agent.policy, "optimizer", None) or agent.actor.optimizer
    next(iter(optimizer.state.values()))["exp_avg_sq"].view(-1)[0] = float("inf")


def _poison_variable(agent):
    agent.log_ent_coef.data.fill_(NAN)


def _poison_distiller(agent):
    next(tensor for tensor in agent.distiller.tensors().values() if tensor.is_floating_point()).view(-1)[0] = NAN


def _poison_observation(agent):
    agent._last_obs = agent._last_obs.copy()
    agent._last_obs.flat[0] = NAN


def _poison_return(agent):
    agent.ep_info_buffer[-1]["r"] = NAN


def _poison_means(agent):
    agent.get_vec_normalize_env().obs_rms.mean[0] = NAN


def _poison_variances(agent):
    agent.get_vec_normalize_env().ret_rms.var = float("inf")


def _poison_rewards(agent):
    agent.replay_buffer.rewards[agent.replay_buffer.size() - 1] = NAN


def _poison_next_observations(agent):
    agent.replay_buffer.next_observations[0] = float("-inf")


#: How an agent comes to hold what is not finite, what is said of it, and the first of the places that notices.
POISONS = {
    "parameter": (_poison_parameter, "parameter '", in_zip),
    "optimizer": (_poison_optimizer, r"optimizer state\.0\.exp_avg_sq", in_zip),
    "variable": (_poison_variable, "variable log_ent_coef", in_zip),
    "distiller": (_poison_distiller, "distillation (teacher|replay)", in_zip),
    "observation": (_poison_observation, "last observation", in_zip),
    "return": (_poison_return, "return of a recent episode", in_zip),
    "means": (_poison_means, r"VecNormalize's obs_rms\.mean", in_best),
    "variances": (_poison_variances, r"VecNormalize's ret_rms\.var", in_best),
    "rewards": (_poison_rewards, "replay buffer's rewards", in_checkpoint),
    "next observations": (_poison_next_observations, "replay buffer's next_observations", in_checkpoint),
}


@pytest.fixture(scope="module")
def trained():
    return distilled(SAC, "normalized", config()).learn(6 * ROLLOUT)


@pytest.mark.parametrize("poison", POISONS)
def test_whatever_is_not_finite_is_named_by_those_who_save_it(trained, poison):
    agent = copy.deepcopy(trained)
    assert in_checkpoint(agent) is None
    do, said, first = POISONS[poison]
    do(agent)
    places = [in_zip, in_best, in_checkpoint]
    for number, place in enumerate(places):
        if number < places.index(first):
            assert place(agent) is None
        else:
            assert re.search(said, place(agent))


def test_rows_of_a_replay_buffer_that_were_never_filled_do_not_count(trained):
    agent = copy.deepcopy(trained)
    agent.replay_buffer.rewards[agent.replay_buffer.size() :] = NAN
    assert in_checkpoint(agent) is None


def test_a_large_buffer_is_looked_at_part_by_part_to_its_last_row(monkeypatch, trained):
    agent = copy.deepcopy(trained)
    monkeypatch.setattr(faults, "_CHUNK", 3)
    assert in_checkpoint(agent) is None
    agent.replay_buffer.observations[agent.replay_buffer.size() - 1, -1, -1] = NAN
    assert in_checkpoint(agent) == "replay buffer's observations"


def test_infinities_that_a_policy_holds_on_purpose_are_no_fault():
    agent = small_ppo()
    agent.policy.register_buffer("mask", torch.full((2, 2), float("-inf")))
    assert in_checkpoint(agent) is None
    agent.policy.mask[0, 0] = NAN
    assert "mask" in in_checkpoint(agent)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_can_be_looked_at(name):
    assert in_checkpoint(small_agent(name)) is None
