"""Perceptrons by hand against autograd."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from rlsd import mlp
from rlsd.actors.on_policy import ActorCritic

BOX = spaces.Box(-1.0, 1.0, (5,))
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
ACTIONS = [spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4)]


def policy_of(observations=BOX, actions=ACTIONS[0], **options):
    torch.manual_seed(0)
    return ActorCriticPolicy(observations, actions, lambda _: 1e-3, **options)


@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=5),
    rows=st.integers(1, 70),
    kinds=st.lists(st.sampled_from([nn.Tanh, nn.ReLU]), min_size=4, max_size=4),
    last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_gradients_are_autograds(widths, rows, kinds, last, seed):
    torch.manual_seed(seed)
    modules = []
    for i, kind in zip(range(len(widths) - 1), kinds, strict=False):
        modules += [nn.Linear(widths[i], widths[i + 1]), kind()]
    network = nn.Sequential(*modules[:-1])
    x, slope = torch.randn(rows, widths[0]), torch.randn(rows, widths[-1])
    out = network(x)
    theirs = torch.autograd.grad(out, list(network.parameters()), slope)
    layers = mlp.layers_of(network)
    into = [(torch.empty_like(layer.weight), torch.empty_like(layer.bias)) for layer in layers]
    for quick in (False, True):
        way = mlp.Pass(layers, rows, quick)
        with torch.no_grad():
            way.bind()
            torch.testing.assert_close(way.forward(x), out, rtol=1e-5, atol=1e-5)
            way.backward(slope, into)
        for ours, other in zip([g for pair in into for g in pair], theirs, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("actions", ACTIONS, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize(
    "observations",
    [BOX, spaces.Discrete(4), spaces.Box(-1, 1, (2, 3)), IMAGE, spaces.Box(-1, 1, (3,), np.float64)],
    ids=["box", "discrete", "matrix", "pixels", "double"],
)
def test_an_actor_answers_and_differentiates_as_the_policy(observations, actions):
    policy = policy_of(observations, actions)
    observations.seed(0)
    seen = torch.as_tensor(np.stack([observations.sample() for _ in range(6)]))
    by_autograd = ActorCritic(policy).parameters(policy, seen)
    slope = torch.randn(by_autograd.shape)
    actor = mlp.of(policy)
    assert torch.equal(actor.forward(seen), by_autograd), "the answers differ"
    gradients = actor.backward(slope)
    theirs = torch.autograd.grad(by_autograd, [p for p, _ in gradients], slope)
    for (_, ours), other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)
    expected = {*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()}
    expected |= {policy.log_std} if hasattr(policy, "log_std") else set()
    assert {p for p, _ in gradients} == expected, "a parameter of the actor is missing"


def test_a_quick_actor_answers_up_to_rounding():
    policy, x = policy_of(actions=ACTIONS[1]), torch.randn(7, 5)
    torch.testing.assert_close(mlp.of(policy, quick=True).forward(x), mlp.of(policy).forward(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("actions", ACTIONS)
def test_a_frozen_policy_answers_up_to_rounding_for_batches_of_any_size(actions):
    policy = policy_of(actions=actions).requires_grad_(False)
    answers = mlp.frozen(policy)
    for _ in range(2):
        for rows in (1, 7, 64):
            x = torch.randn(rows, 5)
            expected = ActorCritic(policy).parameters(policy, x)
            torch.testing.assert_close(answers(x), expected, rtol=1e-5, atol=1e-6)
        for p in policy.parameters():  # it answers by what they are now
            p.mul_(0.5)


def test_gradients_are_new_and_lie_one_behind_the_other():
    policy = policy_of()
    actor = mlp.of(policy)
    first = [g for _, g in _gradients(actor)]
    kept = [g.clone() for g in first]
    second = [g for _, g in _gradients(actor)]
    assert all(map(torch.equal, first, kept)), "a later pass wrote over earlier gradients"
    assert first[0].untyped_storage().data_ptr() != second[0].untyped_storage().data_ptr(), "gradients share storage"
    flat = torch.cat([g.flatten() for g in first])
    assert torch.equal(first[0]._base, flat), "the flat tensor is not the gradients one behind the other"


def test_an_actor_follows_parameters_to_other_storage():
    policy = policy_of()
    actor = mlp.of(policy)
    x = torch.randn(3, 5)
    actor.forward(x)
    for p in policy.parameters():
        p.data = p.data.clone() + 0.1
    assert torch.equal(actor.forward(x), ActorCritic(policy).parameters(policy, x)), "an old storage was used"


def _gradients(actor):
    answers = actor.forward(torch.randn(4, 5))
    return actor.backward(torch.randn_like(answers))


class _OwnDistribution(ActorCriticPolicy):
    def get_distribution(self, obs):
        return super().get_distribution(obs)


class _Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _hooked():
    policy = policy_of()
    policy.action_net.register_forward_hook(lambda *_: None)
    return policy


def _frozen():
    policy = policy_of()
    policy.action_net.weight.requires_grad_(False)
    return policy


def _scaled():
    policy = policy_of()
    policy.action_net = _Scaled(64, 3)
    return policy


@pytest.mark.parametrize(
    "policy",
    [
        lambda: policy_of(actions=ACTIONS[1], use_sde=True),
        lambda: policy_of(spaces.Dict({"a": BOX}), features_extractor_class=_combined()),
        lambda: policy_of(activation_fn=nn.ELU),
        lambda: _OwnDistribution(BOX, ACTIONS[0], lambda _: 1e-3),
        _hooked,
        _frozen,
        _scaled,
        lambda: nn.Linear(2, 2),
    ],
    ids=["gsde", "dict", "elu", "own distribution", "hook", "frozen", "own layer", "no policy"],
)
def test_what_is_not_known_by_hand_is_refused(policy):
    assert mlp.of(policy()) is None, "a network was taken for a perceptron that it is not"


def _combined():
    from stable_baselines3.common.torch_layers import CombinedExtractor

    return CombinedExtractor


def test_gymnasium_tasks_are_served():
    env = gym.make("CartPole-v1")
    assert mlp.of(policy_of(env.observation_space, env.action_space)) is not None, "CartPole's policy was refused"
