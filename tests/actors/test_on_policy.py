"""How a policy acts, read without a trace: against the policy's own ``get_distribution``."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from agents import untouched_generators
from gymnasium import spaces
from helpers import (
    ACTING,
    OBSERVATION_SPACES,
    VECTOR,
    WatchedEnv,
    disturb,
    make_policy,
    observe,
    small_agent,
    small_ppo,
    vec_env,
)
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from rlsd.actors import ActorCritic, actor_for
from rlsd.actors.on_policy import family_of, parameters_of
from rlsd.distributions import Gaussian
from rlsd.observations import Beside, from_items
from rlsd.sources import RolloutSource

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


class EntropyFloorState(ActorCriticPolicy):
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
    [(ActorCriticPolicy, False), (ActorCriticPolicy, True), (Narrowed, False), (EntropyFloorState, False)],
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
    policy = make_policy(VECTOR, BOX, EntropyFloorState)
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


@pytest.mark.parametrize("cls", [ActorCriticPolicy, EntropyFloorState])
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


def test_a_space_without_a_distribution_is_refused():
    with pytest.raises(TypeError, match="Text"):
        family_of(spaces.Text(3))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 2)])
def test_a_box_of_any_shape_has_as_many_means_as_numbers(shape):
    box = spaces.Box(-1.0, 1.0, shape)
    family = family_of(box)
    assert isinstance(family, Gaussian)
    assert family.dim == spaces.flatdim(box)


# Masks


class MaskedEnv(WatchedEnv):
    """An environment whose observation decides which actions are allowed."""

    def action_masks(self) -> np.ndarray:
        return mask_of(self.given[-1], self.action_space)


def mask_of(observation: np.ndarray, action_space: spaces.Space) -> np.ndarray:
    sizes = {
        spaces.Discrete: lambda: [action_space.n],
        spaces.MultiDiscrete: lambda: action_space.nvec,
        spaces.MultiBinary: lambda: [2] * action_space.n,
    }[type(action_space)]()
    parts = []
    for number, size in enumerate(sizes):
        part = np.arange(size) == int(abs(observation[number % 3]) * size) % size
        part |= np.arange(size) == int(abs(observation[(number + 1) % 3]) * 7) % size
        parts.append(part)
    return np.concatenate(parts)


MASKED = [spaces.Discrete(4), spaces.MultiDiscrete([2, 3, 4]), spaces.MultiBinary(3)]
every_masked_space = pytest.mark.parametrize("actions", MASKED, ids=lambda space: type(space).__name__)


def masked_agent(actions, **kwargs):
    env = DummyVecEnv([lambda i=i: MaskedEnv(VECTOR, actions, length=4 + i) for i in range(2)])
    agent = small_agent("MaskablePPO", env, **kwargs)
    disturb(agent.policy, 0.3)
    return agent


def rows(states: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.asarray(array)) for key, array in states.items()}


class AtRolloutEnd(BaseCallback):
    """Looks at the agent when a rollout is finished and nothing was learnt from it yet."""

    def __init__(self, look) -> None:
        super().__init__()
        self.look = look
        self.looked = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.look(self.model)
        self.looked += 1


def masked_logits(policy, observations, mask) -> torch.Tensor:
    distribution = policy.get_distribution(observations, mask.numpy())
    parts = getattr(distribution, "distributions", None) or [distribution.distribution]
    return torch.cat([part.logits for part in parts], dim=-1)


@every_masked_space
def test_masked_parameters_are_those_of_the_policys_own_masked_distribution(actions):
    agent, observations = masked_agent(actions), observe(VECTOR)
    actor = actor_for(agent)
    mask = torch.from_numpy(np.stack([mask_of(o, actions) for o in observations.numpy()])).to(torch.uint8)
    found = actor.parameters(agent.policy, {Beside("@observation"): observations, Beside("@mask"): mask})
    told = masked_logits(agent.policy, observations, mask)
    torch.testing.assert_close(actor.family.normalized(found), told, rtol=1e-5, atol=1e-5)
    # What is forbidden is never done, and no gradient comes from there.
    probabilities = actor.family.values(found)
    assert (probabilities[mask == 0] == 0).all()
    teacher = actor.family.normalized(found.detach() + torch.randn(found.shape) * mask)
    kl = actor.family.kl(teacher, found)
    assert torch.isfinite(kl).all()
    (gradient,) = torch.autograd.grad(kl.sum(), agent.policy.action_net.bias)
    assert torch.isfinite(gradient).all()


@every_masked_space
def test_masks_are_stored_with_the_observations_they_belong_to(actions):
    def look(agent):
        actor = actor_for(agent)
        ((states, _),) = RolloutSource(actor).new(agent)
        assert states[Beside("@mask")].shape == (16, actor.parameters(agent.policy, rows(states)).shape[1])
        for observation, mask in zip(states[Beside("@observation")], states[Beside("@mask")], strict=True):
            assert mask.astype(bool).tolist() == mask_of(observation, actions).tolist()

    watching = AtRolloutEnd(look)
    masked_agent(actions).learn(48, callback=watching)
    assert watching.looked == 3


@every_masked_space
def test_a_masked_policy_with_a_method_of_its_own_is_asked_through_that(actions):
    base = type(masked_agent(actions).policy)

    class Own(base):
        def get_distribution(self, obs, action_masks=None):
            return super().get_distribution(2 * obs, action_masks)

    agent, observations = masked_agent(actions, policy=Own), observe(VECTOR)
    actor = actor_for(agent)
    held = agent.policy.action_dist
    mask = torch.from_numpy(np.stack([mask_of(o, actions) for o in observations.numpy()])).to(torch.uint8)
    found = actor.parameters(agent.policy, {Beside("@observation"): observations, Beside("@mask"): mask})
    assert agent.policy.action_dist is held
    torch.testing.assert_close(
        actor.family.normalized(found), masked_logits(agent.policy, observations, mask), rtol=1e-5, atol=1e-5
    )


# Memories

RECURRENT = {"n_lstm_layers": 2, "lstm_hidden_size": 5, "net_arch": [6]}


def recurrent_agent(actions=None, **kwargs):
    agent = small_agent("RecurrentPPO", vec_env(action_space=actions, n=2), policy_kwargs=RECURRENT, **kwargs)
    disturb(agent.policy, 0.3)
    return agent


def told_by_recurrent(policy, states) -> torch.Tensor:
    """The parameters of the policy's own distribution, one state at a time."""
    answers = []
    for i in range(len(states[Beside("@start")])):
        memory = tuple(states[key][i][:, None] for key in (Beside("@hidden"), Beside("@cell")))
        one = slice(i, i + 1)
        distribution, _ = policy.get_distribution(
            states[Beside("@observation")][one], memory, states[Beside("@start")][one]
        )
        answers.append(parameters_of(distribution))
    return torch.cat(answers)


RECURRENT_ACTIONS = {"Discrete": (spaces.Discrete(3), {}), "Box": (BOX, {}), "gSDE": (BOX, {"use_sde": True})}


@pytest.mark.parametrize(("actions", "kwargs"), RECURRENT_ACTIONS.values(), ids=RECURRENT_ACTIONS.keys())
def test_recurrent_parameters_are_those_of_the_policys_own_distribution_with_the_stored_memory(actions, kwargs):
    def look(agent):
        actor = actor_for(agent)
        ((states, _),) = RolloutSource(actor).new(agent)
        states = rows(states)
        found = actor.family.normalized(actor.parameters(agent.policy, states))
        told = actor.family.normalized(told_by_recurrent(agent.policy, states))
        torch.testing.assert_close(found, told, rtol=1e-4, atol=1e-5)
        assert states[Beside("@hidden")].shape == states[Beside("@cell")].shape == (16, 2, 5)

    watching = AtRolloutEnd(look)
    recurrent_agent(actions, **kwargs).learn(32, callback=watching)
    assert watching.looked == 2


def test_a_state_is_stored_with_the_memory_it_was_acted_on_with():
    def look(agent):
        ((states, _),) = RolloutSource(actor_for(agent)).new(agent)
        states = {key: t.reshape(8, 2, *t.shape[1:]) for key, t in rows(states).items()}  # (steps, envs, ...)
        for env in range(2):
            for step in range(7):
                keep = 1 - states[Beside("@start")][step, env]
                memory = tuple(keep * states[key][step, env][:, None] for key in (Beside("@hidden"), Beside("@cell")))
                features = agent.policy.extract_features(states[Beside("@observation")][step, env][None])
                with torch.no_grad():
                    _, (hidden, cell) = agent.policy.lstm_actor(features[None], memory)
                for key, value in ((Beside("@hidden"), hidden), (Beside("@cell"), cell)):
                    torch.testing.assert_close(states[key][step + 1, env], value[:, 0])
        assert states[Beside("@start")].sum() >= 2, "no episode began"

    recurrent_agent().learn(32, callback=AtRolloutEnd(look))


def test_at_an_episodes_start_the_memory_is_forgotten():
    agent, observations = recurrent_agent(), observe(VECTOR)
    memory = {key: torch.randn(6, 2, 5) for key in (Beside("@hidden"), Beside("@cell"))}
    actor = actor_for(agent)

    def asked(start: float, scale: float) -> torch.Tensor:
        items = {key: scale * value for key, value in memory.items()}
        return actor.parameters(
            agent.policy, {Beside("@observation"): observations, Beside("@start"): torch.full((6,), start), **items}
        ).detach()

    assert torch.equal(asked(1.0, 1.0), asked(1.0, 7.0))
    assert not torch.equal(asked(0.0, 1.0), asked(0.0, 7.0))


def test_a_recurrent_policy_with_a_method_of_its_own_is_asked_through_that():
    base = type(recurrent_agent().policy)

    class Own(base):
        def get_distribution(self, obs, lstm_states, episode_starts):
            return super().get_distribution(2 * obs, lstm_states, episode_starts)

    agent = recurrent_agent(policy=Own)
    states = {Beside("@observation"): observe(VECTOR), Beside("@start"): torch.tensor([1.0, 0, 0, 1, 0, 0])}
    states |= {key: torch.randn(6, 2, 5) for key in (Beside("@hidden"), Beside("@cell"))}
    actor = actor_for(agent)
    found = actor.family.normalized(actor.parameters(agent.policy, states))
    torch.testing.assert_close(found, told_by_recurrent(agent.policy, states), rtol=1e-4, atol=1e-5)


# Against what was done


@pytest.mark.parametrize("name", ["PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO"])
def test_the_actions_of_a_rollout_are_as_likely_as_the_parameters_say(name):
    def look(agent):
        actor, buffer = actor_for(agent), agent.rollout_buffer
        ((states, _),) = RolloutSource(actor).new(agent)
        states = rows(states)
        found = actor.parameters(agent.policy, states if len(states) > 1 else from_items(states))
        actions = torch.from_numpy(buffer.actions.reshape(len(found), -1))
        if isinstance(actor.family, Gaussian):
            mean, log_std = found.chunk(2, dim=-1)
            log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
        else:
            parts = actor.family.normalized(found).split(actor.family.sizes, dim=-1)
            chosen = [part.gather(-1, actions[:, i : i + 1].long()) for i, part in enumerate(parts)]
            log_prob = torch.cat(chosen, dim=-1).sum(-1)
        expected = torch.from_numpy(buffer.log_probs.reshape(-1))
        torch.testing.assert_close(log_prob, expected, rtol=1e-4, atol=1e-5)

    if name == "MaskablePPO":
        agent = masked_agent(spaces.MultiDiscrete([2, 3, 4]))
    else:
        agent = small_agent(name)
        disturb(agent.policy, 0.3)
    watching = AtRolloutEnd(look)
    agent.learn(32, callback=watching)
    assert watching.looked >= 2
