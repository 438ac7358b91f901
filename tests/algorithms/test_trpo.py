"""TRPO: the penalty is part of the objective, and its value term of the critic's own steps."""

from __future__ import annotations

import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, config, copied, differences, distilled
from helpers import small_agent
from penalties import Weighing, build, recorded

from rlsd import KL
from rlsd.algorithms.trpo import CriticPenalty, NaturalGradient


def test_a_term_that_is_not_finite_is_dropped_and_counted():
    agent = small_agent("TRPO")
    penalty = build(agent)
    penalty.begin(agent, beta=0.5)
    batches = recorded(penalty)
    term = NaturalGradient(penalty).term()
    student = penalty.actor.parameters(agent.policy, batches[0].states)
    expected = 0.5 * KL()(penalty.actor.family, batches[0].targets, student).mean()
    torch.testing.assert_close(term, expected)
    assert term.requires_grad, "it is differentiated elsewhere"
    penalty.cache.versions[:] = penalty.cache.teacher.version
    penalty.cache.targets[:] = float("nan")
    assert NaturalGradient(penalty).term() is None
    assert float(penalty.dropped) == 1


def test_a_critic_that_learns_apart_is_pulled_by_its_own_steps_and_the_actor_is_not():
    agent = small_agent("TRPO")
    agent.policy.set_training_mode(False)
    penalty = build(agent, divergence=KL(value_weight=0.5))
    weights = torch.linspace(0.0, 1.0, 8)
    penalty.coefficient.per_state = [Weighing(weights)]
    batches = recorded(penalty)
    penalty.begin(agent, beta=0.7)
    found = dict(CriticPenalty(penalty).gradients())
    before, now = batches[0].values, agent.policy.predict_values(batches[0].states).flatten()
    critic = {name: p for name, p in agent.policy.named_parameters() if "value" in name}
    loss = 0.7 * 0.5 * (weights * (before - now) ** 2).mean()
    expected = dict(zip(critic.values(), torch.autograd.grad(loss, list(critic.values())), strict=True))
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[parameter], gradient)
    term = NaturalGradient(penalty).term()
    pulled = torch.autograd.grad(term, list(critic.values()), allow_unused=True)
    assert all(gradient is None for gradient in pulled), "the actor's term has no part in the critic"


def test_the_pull_on_a_critic_that_learns_apart_is_bounded_and_keeps_its_stride():
    agent = small_agent("TRPO")
    penalty = build(agent, bound=0.1, stride=2, divergence=KL(value_weight=1000.0))
    penalty.begin(agent, beta=1.0)
    norms = []
    for _ in range(4):
        gradients = [gradient for _, gradient in CriticPenalty(penalty).gradients()]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()) if gradients else 0.0)
    assert norms == pytest.approx([0.2, 0.0, 0.2, 0.0]) or norms == pytest.approx([0.0, 0.2, 0.0, 0.2]), norms


def test_a_value_weight_moves_the_critic_of_trpo():
    def critic(weight: float) -> dict[str, torch.Tensor]:
        agent = distilled(ALL_ALGORITHMS["TRPO"], "box", distill=config(divergence=KL(value_weight=weight)))
        return copied(dict(agent.learn(5 * ROLLOUT).policy.value_net.state_dict()))

    assert differences(critic(0.0), critic(10.0))
