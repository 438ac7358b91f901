"""ARS: each candidate's return less its own penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents import untouched_generators
from gymnasium import spaces
from helpers import disturb, small_agent, vec_env
from penalties import Weighing, build, recorded
from torch.nn.utils import parameters_to_vector

from rlsd.algorithms.ars import RandomSearch


def test_states_count_for_the_candidates_of_a_random_search_as_gates_say():
    agent = small_agent("ARS", vec_env(action_space=spaces.Discrete(3)))
    disturb(agent.policy)
    penalty = build(agent)
    weights = torch.linspace(0.0, 1.0, 8)
    penalty.coefficient.per_state = [gate] = [Weighing(weights)]
    batches = recorded(penalty)
    own = parameters_to_vector(agent.policy.parameters()).detach()
    penalty.begin(agent, beta=3.0)
    (found,) = RandomSearch(penalty).scores(own[None])
    answers = penalty.actor.parameters(agent.policy, batches[0].states).detach()
    kl = penalty.actor.family.kl(batches[0].targets, answers)
    torch.testing.assert_close(found, 3.0 * (weights * kl).mean(), rtol=1e-4, atol=1e-4)
    metrics = penalty.metrics.means()
    assert metrics["kl"] == pytest.approx(kl.mean().item(), rel=1e-4), "the divergence is that before the gates"
    assert metrics["loss"] == pytest.approx(found.item(), rel=1e-5)
    assert torch.equal(gate.seen[0].student, answers), "gates look at the policy, not at its candidates"


@pytest.mark.parametrize("actions", [spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(3)])
def test_each_candidate_is_scored_by_its_own_divergence(actions):
    agent = small_agent("ARS", vec_env(action_space=actions))
    disturb(agent.policy)
    penalty = build(agent)
    batches = recorded(penalty)
    own = parameters_to_vector(agent.policy.parameters()).detach()
    candidates = own + torch.randn(4, len(own), generator=torch.Generator().manual_seed(1))
    penalty.begin(agent, beta=3.0)
    with untouched_generators():
        found = RandomSearch(penalty).scores(candidates)
    (batch,) = batches
    assert found.shape == (4,)
    for weights, score in zip(candidates, found, strict=True):
        agent.policy.load_from_vector(weights.numpy())
        answers = penalty.actor.parameters(agent.policy, batch.states)
        expected = 3.0 * penalty.actor.family.kl(penalty.cache.teacher.targets(batch.states), answers).mean()
        torch.testing.assert_close(score, expected.detach(), rtol=1e-4, atol=1e-4)
    assert (penalty.steps, penalty.deposits) == (1, 1)


def test_a_candidate_whose_divergence_is_not_finite_is_not_penalised_and_is_counted():
    agent = small_agent("ARS", policy_kwargs={"net_arch": [4], "squash_output": False})
    penalty = build(agent)
    own = parameters_to_vector(agent.policy.parameters()).detach()
    candidates = torch.stack([own + 1.0, torch.full_like(own, 1e30), own + 2.0])
    penalty.begin(agent, beta=1.0)
    scores = RandomSearch(penalty).scores(candidates)
    assert torch.isfinite(scores).all()
    assert scores[1] == 0.0
    assert (scores[[0, 2]] > 0).all()
    assert float(penalty.dropped) == 1
