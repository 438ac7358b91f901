"""What every adapter answers alike, and which adapter a policy gets."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from agents import copied, differences, generators, untouched_generators
from helpers import ALGORITHMS, disturb, observe, small_agent, small_ppo
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import rlsd
from rlsd.actors import Actor, ActorCritic, actor_for, base
from rlsd.distributions import Categorical
from rlsd.observations import Beside, as_items

every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def states_for(agent, n: int = 6, seed: int = 0):
    """States as they are stored, with what else decided the action in them."""
    observations = observe(agent.observation_space, n, seed)
    generator = torch.Generator().manual_seed(seed)
    context = {}
    if hasattr(agent.policy, "lstm_actor"):
        layers, hidden = agent.policy.lstm_actor.num_layers, agent.policy.lstm_actor.hidden_size
        context = {
            key: torch.randn(n, layers, hidden, generator=generator) for key in (Beside("@hidden"), Beside("@cell"))
        }
        context[Beside("@start")] = (torch.arange(n) % 3 == 0).float()
    elif "Maskable" in type(agent.policy).__name__:
        mask = torch.rand(n, actor_for(agent).family.size, generator=generator) > 0.4
        mask[:, 0] = mask[:, -1] = True
        context = {Beside("@mask"): mask.to(torch.uint8)}
    return {**as_items(observations), **context} if context else observations


def answer(agent, module=None, seed: int = 0) -> torch.Tensor:
    actor = actor_for(agent)
    module = actor.module(agent.policy) if module is None else module
    return actor.parameters(module, states_for(agent, seed=seed)).detach()


@every_algorithm
def test_one_state_has_as_many_parameters_as_its_family(name):
    agent = small_agent(name)
    found = answer(agent)
    assert found.shape == (6, actor_for(agent).family.size)
    assert torch.isfinite(found).all()


@every_algorithm
def test_what_is_frozen_acts_as_the_policy_did_and_shares_nothing(name):
    agent = small_agent(name)
    agent.learn(24)
    actor = actor_for(agent)
    agent.policy.set_training_mode(False)
    before = answer(agent)
    with untouched_generators():
        frozen = actor.frozen(agent.policy)
    assert torch.equal(answer(agent, frozen), before)
    own = [*agent.policy.parameters(), *agent.policy.buffers()]
    shared = {t.untyped_storage().data_ptr() for t in own if t.numel()}
    tensors = [*frozen.parameters(), *frozen.buffers()]
    assert not shared & {t.untyped_storage().data_ptr() for t in tensors if t.numel()}
    disturb(agent.policy)
    assert torch.equal(answer(agent, frozen), before), "the copy moved with the policy"
    assert not torch.equal(answer(agent), before)


@every_algorithm
def test_what_is_frozen_asks_for_no_gradient_is_in_evaluation_mode_and_has_no_optimizer(name):
    agent = small_agent(name)
    agent.policy.train(True)
    asked = [p.requires_grad for p in agent.policy.parameters()]
    frozen = actor_for(agent).frozen(agent.policy)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(module.training for module in frozen.modules())
    assert getattr(frozen, "optimizer", None) is None
    assert [p.requires_grad for p in agent.policy.parameters()] == asked
    assert all(module.training for module in agent.policy.modules())


class Remembering(BaseFeaturesExtractor):
    """Keeps what it gave last, alone and among others, and has a weight that is computed anew at each pass."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.net = nn.utils.weight_norm(nn.Linear(3, 4))
        self.last, self.layers, self.by_name = None, [], {}
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, observations):
        self.last = torch.relu(self.net(observations))
        self.layers, self.by_name, self.seen = [self.last * 1], {"last": self.last * 1}, self.last.mean(0)
        return self.last


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_a_policy_that_holds_tensors_of_a_graph_is_frozen_with_their_values(name):
    agent = small_agent(name, policy_kwargs={"net_arch": [4], "features_extractor_class": Remembering})
    actor = actor_for(agent)
    live = actor.module(agent.policy)
    actor.parameters(live, states_for(agent)).sum().backward()
    frozen = actor.frozen(agent.policy)
    extractor, mine = frozen.features_extractor, live.features_extractor
    for kept, own in [
        (extractor.last, mine.last),
        (extractor.layers[0], mine.layers[0]),
        (extractor.by_name["last"], mine.by_name["last"]),
        (extractor.seen, mine.seen),
        (extractor.net.weight, mine.net.weight),
    ]:
        assert own.grad_fn is not None, "the policy's own was taken out of its graph"
        assert kept.grad_fn is None
        assert torch.equal(kept, own)
        assert kept.data_ptr() != own.data_ptr()
    before = answer(agent, frozen)
    assert torch.equal(before, answer(agent))
    disturb(agent.policy)
    assert torch.equal(answer(agent, frozen), before)


@every_algorithm
def test_the_optimizer_trains_what_acts(name):
    agent = small_agent(name)
    actor = actor_for(agent)
    optimizer = actor.optimizer(agent.policy)
    if name == "ARS":
        assert optimizer is None
        return
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    loss = actor.parameters(actor.module(agent.policy), states_for(agent)).sum()
    loss.backward()
    reached = [p for p in actor.module(agent.policy).parameters() if p.grad is not None]
    assert reached
    assert all(id(p) in trained for p in reached)


@every_algorithm
def test_asking_for_parameters_draws_nothing_and_leaves_no_trace(name):
    agent = small_agent(name)
    agent.learn(24)
    agent.policy.set_training_mode(False)
    before, flags = copied(dict(agent.policy.state_dict())), [m.training for m in agent.policy.modules()]
    attributes = {id(m): set(vars(m)) for m in agent.policy.modules()}
    held = getattr(getattr(actor_for(agent).module(agent.policy), "action_dist", None), "distribution", None)
    drawn = copied(generators())
    first = answer(agent)
    assert not differences(drawn, generators())
    assert not differences(before, dict(agent.policy.state_dict()))
    assert [m.training for m in agent.policy.modules()] == flags
    assert all(set(vars(m)) == attributes[id(m)] for m in agent.policy.modules())
    now = getattr(getattr(actor_for(agent).module(agent.policy), "action_dist", None), "distribution", None)
    assert now is held, "the distribution that the policy holds was overwritten"
    assert torch.equal(answer(agent), first)


@every_algorithm
def test_an_adapter_keeps_nothing_of_the_agent(name):
    agent = small_agent(name)
    held = [value for value in vars(actor_for(agent)).values() if isinstance(value, (nn.Module, torch.Tensor))]
    assert held == []


# Who is known


class Own(BasePolicy):
    """A policy that is none of SB3's: it acts by a table of scores."""

    def __init__(self, observation_space, action_space, lr_schedule=None, **kwargs):
        super().__init__(observation_space, action_space)
        self.scores = nn.Parameter(torch.zeros(1, int(action_space.n)))
        self.optimizer = torch.optim.Adam([self.scores])

    def _predict(self, observation, deterministic=False):
        return self.scores.argmax(-1).expand(len(observation))

    def forward(self, observation):
        return self.scores.expand(len(observation), -1)


class OwnActor(Actor):
    def __init__(self, policy):
        self.family = Categorical((int(policy.action_space.n),))

    def module(self, policy):
        return policy

    def optimizer(self, policy):
        return policy.optimizer

    def parameters(self, module, states):
        return module(states)


@pytest.fixture
def registry(monkeypatch):
    """The table of adapters, put back afterwards."""
    monkeypatch.setattr(base, "_ACTORS", dict(base._ACTORS))


@pytest.mark.usefixtures("registry")
def test_a_policy_of_ones_own_is_known_once_it_is_registered_and_so_are_its_subclasses():
    rlsd.register_actor(Own, OwnActor)

    class Nearer(Own):
        pass

    agent = small_ppo()
    for cls in (Own, Nearer):
        agent.policy = cls(agent.observation_space, agent.action_space)
        assert isinstance(actor_for(agent), OwnActor)
        assert answer(agent).tolist() == [[0.0, 0.0]] * 6


@pytest.mark.usefixtures("registry")
def test_an_adapter_of_ones_own_goes_before_that_of_the_policys_base():
    class Mine(ActorCriticPolicy):
        pass

    class MyActor(ActorCritic):
        pass

    rlsd.register_actor(Mine, MyActor)
    assert type(actor_for(small_ppo(policy=Mine))) is MyActor
    assert type(actor_for(small_ppo())) is ActorCritic


@pytest.mark.usefixtures("registry")
def test_an_agent_with_a_policy_of_ones_own_can_be_distilled():
    class Mine(ActorCriticPolicy):
        pass

    class Sharper(ActorCritic):
        def parameters(self, module, states):
            return 2 * super().parameters(module, states)

    rlsd.register_actor(Mine, Sharper)
    agent = small_ppo(policy=Mine)
    rlsd.distill(agent, {"teacher": {"every": 8}, "states": {"capacity": 32, "batch_size": 4}})
    agent.learn(24)
    assert isinstance(agent.distiller.actor, Sharper)
    assert agent.distiller.deposits > 0


@pytest.mark.parametrize("wrong", [object(), "MlpPolicy", int, 3])
def test_only_a_policy_class_can_be_registered(wrong):
    with pytest.raises(TypeError, match="register_actor takes a policy class, got "):
        rlsd.register_actor(wrong, OwnActor)


@pytest.mark.parametrize("wrong", [object(), nn.Module, OwnActor.__init__, "actor"])
def test_only_an_adapter_can_be_registered(wrong):
    with pytest.raises(TypeError, match=r"register_actor takes an adapter, a subclass of rlsd\.actors\.Actor, got "):
        rlsd.register_actor(Own, wrong)


def test_without_an_adapter_the_error_says_what_to_do():
    agent = small_ppo()
    agent.policy = Own(agent.observation_space, agent.action_space)
    with pytest.raises(TypeError, match=r"cannot distil a PPO with a Own: .*rlsd\.register_actor\(Own, YourActor\)$"):
        actor_for(agent)
    before = dict(vars(agent))
    with pytest.raises(TypeError, match="cannot distil a PPO with a Own"):
        rlsd.distill(agent)
    assert type(agent).__name__ == "PPO"
    assert dict(vars(agent)) == before


@pytest.mark.parametrize("dtype", [np.float32, torch.float32])
def test_of_a_used_distribution_the_settings_stay_and_what_was_computed_goes(dtype):
    mean = torch.zeros(2, requires_grad=True) * 2
    used = SimpleNamespace(
        distribution=torch.distributions.Normal(mean, 1.0),
        weights=mean,
        distributions=[torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(mean, 1.0)],
        action_dims=[2, 3],
        epsilon=1e-6,
        dtype=dtype,
        low=torch.ones(2),
        prior=torch.distributions.Normal(0.0, 1.0),
    )
    clean = base.unused(used)
    assert (clean.distribution, clean.weights, clean.distributions) == (None, None, None)
    assert (clean.action_dims, clean.epsilon, clean.dtype) == ([2, 3], 1e-6, dtype)
    assert (clean.low, clean.prior) == (used.low, used.prior), "a setting of the user's is no result"
    assert used.weights is mean


@pytest.mark.parametrize("sde", [False, True])
def test_of_a_used_distribution_of_sb3s_all_that_it_computes_goes(sde):
    agent = small_agent("A2C", use_sde=sde)
    with torch.no_grad():
        agent.policy(observe(agent.observation_space))
    held = vars(base.unused(agent.policy.action_dist)).values()
    assert not [value for value in held if isinstance(value, (torch.Tensor, torch.distributions.Distribution))]


class Head(nn.Module):
    """A distribution that is a network, too, and keeps what it gave last."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.zeros(2))

    def proba_distribution(self, mean):
        self.distribution = torch.distributions.Normal(mean, self.spread.exp())
        return self

    def log_prob(self, actions):
        return self.distribution.log_prob(actions).sum(-1)

    def entropy(self):
        return self.distribution.entropy().sum(-1)

    def get_actions(self, deterministic=False):
        return self.distribution.mean if deterministic else self.distribution.sample()


class WithHead(ActorCriticPolicy):
    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.action_dist = None
        self.action_dist = Head()
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(self.action_net(latent_pi))


def test_a_distribution_that_has_weights_is_frozen_with_them_and_shares_none():
    agent = small_agent("A2C", policy=WithHead)
    agent.learn(16)
    actor = actor_for(agent)
    frozen = actor.frozen(agent.policy)
    before = answer(agent, frozen)
    assert torch.equal(before, answer(agent))
    with torch.no_grad():
        agent.policy.action_dist.spread.add_(1.0)
    assert torch.equal(answer(agent, frozen), before), "the copy moved with the policy"
    assert not torch.equal(answer(agent), before)
