"""How a policy acts, read without a trace: against the policy's own ``get_distribution``."""

from __future__ import annotations

import copy

import pytest
import torch
from agents import untouched_generators
from gymnasium import spaces
from helpers import ACTING, OBSERVATION_SPACES, VECTOR, disturb, make_policy, observe, small_ppo, vec_env
from stable_baselines3 import DQN
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rlsd.actors import ActorCritic, actor_for, family_of, parameters_of
from rlsd.distributions import Gaussian

every_way_to_act = pytest.mark.parametrize(("action_space", "kwargs"), ACTING.values(), ids=ACTING.keys())
every_observation = pytest.mark.parametrize("space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES.keys())
shared_or_not = pytest.mark.parametrize("shared", [True, False], ids=["shared extractor", "separate extractors"])

BOX = spaces.Box(-1.0, 1.0, (2,))


class TraceLeaving(BaseFeaturesExtractor):
    """Batch norm and dropout: in training mode, each forward pass learns and draws."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 4)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.net(observations)


class Narrowed(ActorCriticPolicy):
    """A policy with its own idea of its distribution: it halves every mean."""

    asked = 0

    def get_distribution(self, obs):
        type(self).asked += 1
        distribution = super().get_distribution(obs)
        inner = distribution.distribution
        return distribution.proba_distribution(0.5 * inner.mean, inner.stddev.log()[0])


class AtLeast(DiagGaussianDistribution):
    """A distribution of the user's own, with a least standard deviation."""

    def __init__(self, action_dim: int, least: float) -> None:
        super().__init__(action_dim)
        self.least = least

    def proba_distribution(self, mean_actions, log_std):
        return super().proba_distribution(mean_actions, log_std.exp().clamp_min(self.least).log())


class Exploring(ActorCriticPolicy):
    """A policy that puts a distribution of its own in the place of SB3's."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_dist = AtLeast(2, 3.0)

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(self.action_net(latent_pi), self.log_std)


def told_by_policy(policy, actor, observations) -> torch.Tensor:
    return actor.family.normalized(parameters_of(policy.get_distribution(observations)))


def assert_acts_as_told(policy, observations) -> None:
    actor = ActorCritic(policy)
    found = actor.parameters(policy, observations)
    expected = told_by_policy(policy, actor, observations)
    assert found.shape == (6, actor.family.size)
    torch.testing.assert_close(actor.family.normalized(found), expected, rtol=1e-5, atol=1e-5)


@shared_or_not
@every_way_to_act
def test_parameters_are_those_of_the_policys_own_distribution(action_space, kwargs, shared):
    policy = make_policy(VECTOR, action_space, share_features_extractor=shared, **kwargs)
    assert_acts_as_told(policy, observe(VECTOR))


@shared_or_not
@every_observation
def test_parameters_are_those_of_the_policys_own_distribution_whatever_it_sees(space, shared):
    extractor = {"cnn_output_dim": 8} if isinstance(space, spaces.Dict) else {}
    policy = make_policy(space, BOX, share_features_extractor=shared, features_extractor_kwargs=extractor)
    assert_acts_as_told(policy, observe(space))


@every_way_to_act
def test_the_gradient_reaches_the_same_parameters_as_through_the_policys_own_distribution(action_space, kwargs):
    policy = make_policy(VECTOR, action_space, **kwargs)
    actor, observations = ActorCritic(policy), observe(VECTOR)
    weights = torch.linspace(-1, 1, actor.family.size)

    def gradients(parameters: torch.Tensor) -> list[torch.Tensor | None]:
        return torch.autograd.grad((parameters * weights).sum(), list(policy.parameters()), allow_unused=True)

    found = gradients(actor.family.normalized(actor.parameters(policy, observations)))
    for (name, _), a, b in zip(
        policy.named_parameters(), found, gradients(told_by_policy(policy, actor, observations)), strict=True
    ):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("squash_output", [True, False])
@pytest.mark.parametrize("use_expln", [True, False])
@pytest.mark.parametrize("full_std", [True, False])
def test_gsde_gives_the_mean_and_stddev_of_its_distribution(full_std, use_expln, squash_output):
    sde = {"use_sde": True, "full_std": full_std, "use_expln": use_expln, "squash_output": squash_output}
    policy = make_policy(VECTOR, BOX, **sde)
    mean, log_std = ActorCritic(policy).parameters(policy, observe(VECTOR)).chunk(2, dim=-1)
    inner = policy.get_distribution(observe(VECTOR)).distribution
    torch.testing.assert_close(mean, inner.mean)
    torch.testing.assert_close(log_std.exp(), inner.stddev)


@pytest.mark.parametrize(
    ("cls", "use_sde"),
    [(ActorCriticPolicy, False), (ActorCriticPolicy, True), (Narrowed, False), (Exploring, False)],
    ids=["plain", "gSDE", "own method", "own distribution"],
)
def test_asking_for_parameters_draws_nothing_and_leaves_no_trace(cls, use_sde):
    policy = make_policy(VECTOR, BOX, cls, use_sde=use_sde)
    own = policy.get_distribution(observe(VECTOR, seed=1))
    before, attributes = own.distribution, set(vars(policy.action_dist))
    kept = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    with untouched_generators():
        ActorCritic(policy).parameters(policy, observe(VECTOR))
    assert policy.action_dist is own
    assert own.distribution is before, "the distribution that the policy holds was overwritten"
    assert set(vars(policy.action_dist)) == attributes
    assert all(torch.equal(kept[name], tensor) for name, tensor in policy.state_dict().items())


def test_a_policy_that_overrides_get_distribution_is_asked_through_its_own_method():
    policy = make_policy(VECTOR, BOX, Narrowed)
    actor, observations = ActorCritic(policy), observe(VECTOR)
    Narrowed.asked = 0
    parameters = actor.parameters(policy, observations)
    assert Narrowed.asked == 1
    plain = ActorCriticPolicy.get_distribution(policy, observations).distribution
    torch.testing.assert_close(parameters[:, :2], 0.5 * plain.mean)


def test_a_policy_with_a_distribution_of_its_own_is_asked_through_that():
    policy = make_policy(VECTOR, BOX, Exploring)
    log_std = ActorCritic(policy).parameters(policy, observe(VECTOR))[:, 2:]
    torch.testing.assert_close(log_std.exp(), torch.full((6, 2), 3.0))


def test_the_optimizer_is_the_policys():
    policy = make_policy(VECTOR, BOX)
    assert ActorCritic(policy).optimizer(policy) is policy.optimizer


# What is frozen


def storages(policy: nn.Module) -> set[int]:
    tensors = [*policy.parameters(), *policy.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@every_way_to_act
def test_a_frozen_policy_acts_the_same_and_shares_nothing(action_space, kwargs):
    policy = make_policy(VECTOR, action_space, **kwargs)
    actor, observations = ActorCritic(policy), observe(VECTOR)
    with untouched_generators():
        frozen = actor.frozen(policy)
    before = actor.parameters(policy, observations).detach()
    assert torch.equal(actor.parameters(frozen, observations), before)
    told = told_by_policy(policy, actor, observations)
    assert torch.equal(told_by_policy(frozen, actor, observations), told), "its own distribution differs"
    assert not storages(frozen) & storages(policy)
    assert frozen.action_dist is not policy.action_dist

    disturb(policy)
    assert torch.equal(actor.parameters(frozen, observations), before), "the copy moved with the policy"
    assert not torch.equal(actor.parameters(policy, observations), before)


@every_observation
def test_a_frozen_policy_sees_as_the_live_one(space):
    extractor = {"cnn_output_dim": 8} if isinstance(space, spaces.Dict) else {}
    policy = make_policy(space, BOX, features_extractor_kwargs=extractor)
    actor, observations = ActorCritic(policy), observe(space)
    assert torch.equal(actor.parameters(actor.frozen(policy), observations), actor.parameters(policy, observations))


def test_a_frozen_policy_asks_for_no_gradient_and_carries_no_optimizer():
    policy = make_policy(VECTOR, BOX, features_extractor_class=TraceLeaving).train(True)
    optimizer = policy.optimizer
    frozen = ActorCritic(policy).frozen(policy)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not any(module.training for module in frozen.modules())
    assert frozen.optimizer is None
    assert policy.optimizer is optimizer
    assert all(parameter.requires_grad for parameter in policy.parameters()), "the live policy was frozen too"
    assert all(module.training for module in policy.modules()), "the live policy was put in evaluation mode"


@pytest.mark.parametrize("cls", [ActorCriticPolicy, Exploring])
def test_a_frozen_policy_keeps_a_distribution_of_the_users_own(cls):
    policy = make_policy(VECTOR, BOX, cls)
    actor, observations = ActorCritic(policy), observe(VECTOR)
    frozen = actor.frozen(policy)
    assert torch.equal(actor.parameters(frozen, observations), actor.parameters(policy, observations))
    told = parameters_of(frozen.get_distribution(observations))
    torch.testing.assert_close(told, parameters_of(policy.get_distribution(observations)))


@pytest.mark.parametrize("use_sde", [False, True])
def test_a_policy_can_be_frozen_right_after_an_update(use_sde):
    agent = small_ppo(vec_env(action_space=BOX), use_sde=use_sde)
    agent.learn(8)
    with pytest.raises(RuntimeError):
        copy.deepcopy(agent.policy)  # what SB3's distribution holds is part of a graph
    actor, observations = actor_for(agent), observe(VECTOR)
    frozen = actor.frozen(agent.policy)
    assert torch.equal(actor.parameters(frozen, observations), actor.parameters(agent.policy, observations))
    assert torch.equal(frozen._predict(observations, True), agent.policy._predict(observations, True))


# Who is known


@pytest.mark.parametrize("name", ["MlpPolicy", "CnnPolicy", "MultiInputPolicy"])
def test_every_policy_of_ppo_and_a2c_is_known(name):
    space = {"MlpPolicy": "vector", "CnnPolicy": "image", "MultiInputPolicy": "dict"}[name]
    agent = small_ppo(vec_env(OBSERVATION_SPACES[space]), name, policy_kwargs={"net_arch": [4]})
    assert isinstance(actor_for(agent), ActorCritic)


class Remembering(ActorCriticPolicy):
    """A policy that wants to know what it remembers."""

    def get_distribution(self, obs, states):
        return super().get_distribution(obs)


def test_a_policy_that_acts_another_way_is_refused():
    with pytest.raises(TypeError, match=r"cannot distil a DQN with a DQNPolicy: .*PPO and A2C"):
        actor_for(DQN("MlpPolicy", vec_env(), device="cpu", buffer_size=10))
    with pytest.raises(TypeError, match="cannot distil a PPO with a Remembering"):
        actor_for(small_ppo(policy=Remembering))


def test_a_recurrent_policy_is_refused():
    contrib = pytest.importorskip("sb3_contrib")
    with pytest.raises(TypeError, match="cannot distil a RecurrentPPO"):
        actor_for(contrib.RecurrentPPO("MlpLstmPolicy", vec_env(), device="cpu"))


def test_a_space_without_a_distribution_is_refused():
    with pytest.raises(TypeError, match="Text"):
        family_of(spaces.Text(3))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 2)])
def test_a_box_of_any_shape_has_as_many_means_as_numbers(shape):
    box = spaces.Box(-1.0, 1.0, shape)
    family = family_of(box)
    assert isinstance(family, Gaussian)
    assert family.dim == spaces.flatdim(box)
