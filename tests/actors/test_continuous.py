"""Off-policy continuous actors: their parameters against the actor's own distribution and actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import OBSERVATION_SPACES, SMALL_CNN, disturb, observe, small_agent, vec_env
from torch import distributions as td

from rlsd.actors import actor_for
from rlsd.injection import eval_mode

GAUSSIAN = [("SAC", {}), ("TQC", {}), ("CrossQ", {}), ("SAC", {"use_sde": True}), ("TQC", {"use_sde": True})]
gaussian = pytest.mark.parametrize(
    ("name", "kwargs"), GAUSSIAN, ids=[f"{n} {'gSDE' if k else ''}" for n, k in GAUSSIAN]
)
point = pytest.mark.parametrize("name", ["TD3", "DDPG"])
WIDE = spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([5.0, 2.0], np.float32))


def trained(name: str, **kwargs):
    agent = small_agent(name, **kwargs)
    agent.learn(24)
    disturb(agent.policy, 0.2)
    agent.policy.set_training_mode(False)
    return agent


def parameters(agent, observations):
    actor = actor_for(agent)
    return actor.parameters(agent.policy.actor, observations)


@gaussian
def test_parameters_are_those_of_the_normal_before_the_tanh(name, kwargs):
    agent, observations = trained(name, **kwargs), observe(OBSERVATION_SPACES["vector"])
    mean, log_std = parameters(agent, observations).chunk(2, dim=-1)
    agent.policy.actor.action_log_prob(observations)  # puts its distribution there
    inner = agent.policy.actor.action_dist.distribution
    torch.testing.assert_close(mean, inner.mean)
    torch.testing.assert_close(log_std.exp(), inner.stddev, rtol=1e-4, atol=1e-5)
    if not kwargs:
        torch.testing.assert_close(mean.tanh(), agent.policy.actor(observations, deterministic=True))


def test_actions_drawn_by_the_actor_are_as_likely_as_the_parameters_say():
    agent, observations = trained("SAC"), observe(OBSERVATION_SPACES["vector"])
    mean, log_std = parameters(agent, observations).chunk(2, dim=-1)
    actions, log_prob = agent.policy.actor.action_log_prob(observations)
    before_tanh = torch.atanh(actions.clamp(-1 + 1e-6, 1 - 1e-6))
    expected = td.Normal(mean, log_std.exp()).log_prob(before_tanh) - torch.log(1 - actions.square() + 1e-6)
    torch.testing.assert_close(log_prob, expected.sum(-1), rtol=1e-2, atol=1e-2)


@gaussian
def test_the_gradient_reaches_means_and_spreads(name, kwargs):
    agent = trained(name, **kwargs)
    actor, observations = agent.policy.actor, observe(OBSERVATION_SPACES["vector"])
    named = dict(actor.named_parameters())
    gradients = torch.autograd.grad(parameters(agent, observations).square().sum(), list(named.values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients), list(named)


@point
@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (2,), np.float32), WIDE], ids=["unit", "wide"])
def test_a_point_is_the_action_scaled_to_one(name, space):
    agent, observations = trained(name, env=vec_env(action_space=space)), observe(OBSERVATION_SPACES["vector"])
    found = parameters(agent, observations)
    assert found.abs().max() <= 1
    taken, _ = agent.predict(observations.numpy(), deterministic=True)

    np.testing.assert_allclose(agent.policy.unscale_action(found.detach().numpy()), taken, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["SAC", "TD3"])
@pytest.mark.parametrize("kind", ["vector", "dict", "discrete"])
def test_whatever_the_actor_sees(name, kind):
    policy, kwargs = ("MultiInputPolicy", SMALL_CNN) if kind == "dict" else ("MlpPolicy", {"net_arch": [4]})
    box = spaces.Box(-1.0, 1.0, (2,), np.float32)
    agent = small_agent(name, vec_env(OBSERVATION_SPACES[kind], box), policy=policy, policy_kwargs=kwargs)
    agent.policy.set_training_mode(False)
    observations = observe(OBSERVATION_SPACES[kind])
    found = parameters(agent, observations)
    if name == "SAC":
        found = found[:, :2].tanh()
    torch.testing.assert_close(found, agent.policy._predict(observations, deterministic=True))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_in_the_actor_learns_nothing_from_replayed_states(training):
    agent, observations = trained("CrossQ"), observe(OBSERVATION_SPACES["vector"])
    actor = agent.policy.actor
    modules = list(actor.modules())
    for number, module in enumerate(modules):  # as CrossQ's own update does: some in one mode, some in the other
        module.training = (number % 2 == 0) == training
    flags = [module.training for module in modules]
    before = {name: buffer.clone() for name, buffer in actor.named_buffers()}
    assert before, "no batch norm"
    with eval_mode(modules):
        assert not any(module.training for module in modules)
        parameters(agent, observations + 5)
    assert [module.training for module in modules] == flags
    assert all(torch.equal(before[name], buffer) for name, buffer in actor.named_buffers())
