"""ARS: a network without a gradient, and what each of its candidates would do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import OBSERVATION_SPACES, disturb, observe, small_agent, vec_env
from torch.nn.utils import parameters_to_vector

from rlsd.actors import actor_for
from rlsd.distributions import Categorical, Point

BOX, DISCRETE = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(3)
KINDS = [
    ("MlpPolicy", BOX, {"net_arch": [4]}),
    ("MlpPolicy", BOX, {"net_arch": [4], "squash_output": False, "with_bias": False}),
    ("MlpPolicy", DISCRETE, {"net_arch": [4, 3]}),
    ("LinearPolicy", BOX, {}),
    ("LinearPolicy", DISCRETE, {"with_bias": True}),
]
every_kind = pytest.mark.parametrize(("policy", "actions", "kwargs"), KINDS)


def make(policy="MlpPolicy", actions=BOX, kwargs=None, observations=OBSERVATION_SPACES["vector"]):
    agent = small_agent("ARS", vec_env(observations, actions), policy=policy, policy_kwargs=kwargs or {})
    disturb(agent.policy)
    return agent


@every_kind
def test_parameters_are_what_the_policy_acts_by(policy, actions, kwargs):
    agent = make(policy, actions, kwargs)
    actor, states = actor_for(agent), observe(agent.observation_space)
    found = actor.parameters(agent.policy, states)
    acted = agent.policy._predict(states, deterministic=True)
    if actions is DISCRETE:
        assert isinstance(actor.family, Categorical)
        assert found.argmax(-1).tolist() == acted.tolist()
    else:
        assert isinstance(actor.family, Point)
        torch.testing.assert_close(found, acted)


@every_kind
def test_what_many_candidates_would_do_is_what_each_does_once_it_is_loaded(policy, actions, kwargs):
    agent = make(policy, actions, kwargs)
    actor, states = actor_for(agent), observe(agent.observation_space)
    own = parameters_to_vector(agent.policy.parameters()).detach().clone()
    weights = own + torch.randn(5, len(own), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = actor.candidates(agent.policy, states)(weights)
    assert torch.equal(parameters_to_vector(agent.policy.parameters()), own), "the policy was changed"
    assert found.shape == (5, 6, actor.family.size)
    for one, expected in zip(weights, found, strict=True):
        agent.policy.load_from_vector(one.numpy())
        torch.testing.assert_close(actor.parameters(agent.policy, states), expected, rtol=1e-5, atol=1e-5)


def test_one_candidate_is_one_row():
    agent = make()
    actor, states = actor_for(agent), observe(agent.observation_space)
    own = parameters_to_vector(agent.policy.parameters()).detach()
    found = actor.candidates(agent.policy, states)(own[None])
    torch.testing.assert_close(found[0], actor.parameters(agent.policy, states))


def test_discrete_observations_are_seen_as_the_policy_sees_them():
    agent = make(observations=OBSERVATION_SPACES["discrete"])
    states = observe(agent.observation_space)
    torch.testing.assert_close(actor_for(agent).parameters(agent.policy, states), agent.policy._predict(states))


def test_features_that_would_be_searched_too_are_refused():
    agent = make()
    agent.policy.features_extractor.extra = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="cannot distil an ARS policy whose features are learned"):
        actor_for(agent).candidates(agent.policy, observe(agent.observation_space))


def test_no_optimizer_trains_it():
    agent = make()
    assert actor_for(agent).optimizer(agent.policy) is None
