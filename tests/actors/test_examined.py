"""An adapter is asked when the agent is built, so that nothing is distilled that does not act."""

from __future__ import annotations

import threading
import types
import warnings

import pytest
import torch
from agents import ALL_ALGORITHMS, KINDS, MORE_KINDS, build, copied, differences, untouched_generators
from gymnasium import spaces
from helpers import ALGORITHMS, small_agent, vec_env
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import Actor as SACActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

import rlsd
from rlsd.actors import ActorCritic, QLearner, SquashedGaussianActor, actor_for, base, examined
from rlsd.actors.base import plain_name

HOLDING = {"teacher": {"every": 8}, "states": {"capacity": 32, "batch_size": 4}, "strength": 0.5}
WAY_OUT = r"\. Write an adapter, class YourActor\(rlsd\.actors\.{}\) .* rlsd\.register_actor\({}, YourActor\)$"


def refused(name: str, policy, method: str, adapter: str, **kwargs) -> None:
    agent = small_agent(name, policy=policy, **kwargs)
    before = copied(dict(agent.policy.state_dict()))
    with untouched_generators(), pytest.raises(TypeError, match=f"its {method}.. does otherwise") as caught:
        rlsd.distill(agent, HOLDING)
    assert "\n" not in str(caught.value)
    caught.match(WAY_OUT.format(adapter, policy.__name__))
    assert not differences(before, dict(agent.policy.state_dict()))
    assert type(agent).__name__ == name


# Actor-critic policies


class OwnHead(ActorCriticPolicy):
    """Acts and learns by a head that its get_distribution does not know."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.head = nn.Linear(self.mlp_extractor.latent_dim_pi, self.action_net.out_features)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))

    def _acting(self, obs):
        pi, vf = self.mlp_extractor(self.extract_features(obs))
        return torch.distributions.Categorical(logits=self.head(pi)), self.value_net(vf)

    def forward(self, obs, deterministic=False):
        acting, values = self._acting(obs)
        actions = acting.logits.argmax(-1) if deterministic else acting.sample()
        return actions, values, acting.log_prob(actions)

    def evaluate_actions(self, obs, actions):
        acting, values = self._acting(obs)
        return values, acting.log_prob(actions), acting.entropy()

    def _predict(self, observation, deterministic=False):
        return self(observation, deterministic)[0]


class TellingHead(OwnHead):
    """The same, and says so."""

    def get_distribution(self, obs):
        return self._acting(obs)[0]


class OwnForward(ActorCriticPolicy):
    def forward(self, obs, deterministic=False):
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, values, 2.0 * log_prob


class OwnJudgement(ActorCriticPolicy):
    def evaluate_actions(self, obs, actions):
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values, 0.5 * log_prob, entropy


class OwnEyes(ActorCriticPolicy):
    """Sees otherwise than SB3, whose get_distribution does not know of it."""

    def extract_features(self, obs, features_extractor=None):
        features = super().extract_features(obs, features_extractor)
        return 3.0 * features if self.share_features_extractor else tuple(3.0 * one for one in features)


class OwnExtractor(ActorCriticPolicy):
    """SB3's example of a network of one's own, with a flaw: called it does otherwise than asked in parts."""

    def _build_mlp_extractor(self):
        super()._build_mlp_extractor()
        extractor = self.mlp_extractor
        both = extractor.forward
        extractor.forward = lambda features: tuple(-part for part in both(features))


class Filtered(ActorCriticPolicy):
    """Does something else in evaluations, which is nobody's business in training."""

    def _predict(self, observation, deterministic=False):
        return super()._predict(observation, True) * 0


@pytest.mark.parametrize(
    ("policy", "method"),
    [(OwnHead, "forward"), (OwnForward, "forward"), (OwnJudgement, "evaluate_actions"), (OwnExtractor, "forward")],
)
def test_an_actor_critic_policy_that_acts_or_learns_in_another_part_is_refused(policy, method):
    refused("PPO", policy, method, "ActorCritic")


def test_a_policy_whose_own_method_was_put_on_it_later_is_refused():
    agent = small_agent("PPO")

    def forward(self, obs, deterministic=False):
        actions, values, log_prob = ActorCriticPolicy.forward(self, obs, deterministic)
        return actions, values, 2.0 * log_prob

    agent.policy.forward = types.MethodType(forward, agent.policy)
    with pytest.raises(TypeError, match=r"its forward\(\) does otherwise"):
        rlsd.distill(agent, HOLDING)


@pytest.mark.parametrize("kwargs", [{}, {"policy_kwargs": {"net_arch": [6], "share_features_extractor": False}}])
@pytest.mark.parametrize("policy", [TellingHead, OwnEyes, Filtered])
def test_what_acts_is_held_where_the_policy_tells_it(policy, kwargs):
    if policy is TellingHead and kwargs:
        pytest.skip("its extractor is shared")
    ends = []
    for strength in (0.0, 10.0):
        distill = HOLDING | {"strength": strength}
        agent = small_agent("PPO", wrap=rlsd.SelfDistilled, policy=policy, distill=distill, **kwargs)
        agent.learn(32)
        ends.append(dict(agent.policy.state_dict()))
    assert agent.distiller.deposits > 0
    acting = "head.weight" if policy is TellingHead else "action_net.weight"
    assert not torch.equal(ends[0][acting], ends[1][acting])


def test_own_eyes_are_those_through_which_the_teacher_sees():
    policy = small_agent("PPO", policy=OwnEyes).policy
    agent = types.SimpleNamespace(policy=policy)
    states = torch.randn(4, 3)
    found = actor_for(agent).parameters(policy, states)
    log_probs = torch.stack([policy.evaluate_actions(states, torch.full((4,), i))[1] for i in range(3)], dim=1)
    torch.testing.assert_close(torch.log_softmax(found, 1), log_probs)


# The others


def masked_base():
    return type(small_agent("MaskablePPO").policy)


def test_a_masked_policy_with_a_head_of_its_own_is_refused():
    class OwnMasked(masked_base()):
        def forward(self, obs, deterministic=False, action_masks=None):
            actions, values, log_prob = super().forward(2.0 * obs, deterministic, action_masks)
            return actions, values, log_prob

    refused("MaskablePPO", OwnMasked, "forward", "MaskedActorCritic")


def test_a_recurrent_policy_that_remembers_otherwise_is_refused():
    class OwnMemory(type(small_agent("RecurrentPPO").policy)):
        def forward(self, obs, lstm_states, episode_starts, deterministic=False):
            return super().forward(obs, lstm_states, 1.0 - episode_starts, deterministic)

    refused("RecurrentPPO", OwnMemory, "forward", "RecurrentActorCritic")


class TiltedActor(SACActor):
    def forward(self, obs, deterministic=False):
        return (2.0 * super().forward(obs, deterministic)).clamp(-1, 1)


class MisjudgingActor(SACActor):
    def action_log_prob(self, obs):
        action, log_prob = super().action_log_prob(obs)
        return action, 0.5 * log_prob


def sac_with(actor):
    class Own(SACPolicy):
        def make_actor(self, features_extractor=None):
            kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
            return actor(**kwargs).to(self.device)

    Own.__name__ = f"With{actor.__name__}"
    return Own


@pytest.mark.parametrize(("actor", "method"), [(TiltedActor, "_predict"), (MisjudgingActor, "action_log_prob")])
@pytest.mark.parametrize("sde", [False, True])
def test_a_sac_actor_that_acts_or_learns_otherwise_is_refused(actor, method, sde):
    refused("SAC", sac_with(actor), method, "SquashedGaussianActor", use_sde=sde)


class OppositeTD3(TD3Policy):
    def _predict(self, observation, deterministic=False):
        return -super()._predict(observation, deterministic)


class DelayedTD3(TD3Policy):
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return 0.5 * actions, state


@pytest.mark.parametrize(("policy", "method"), [(OppositeTD3, "_predict"), (DelayedTD3, "predict")])
@pytest.mark.parametrize("name", ["TD3", "DDPG"])
def test_a_deterministic_policy_that_acts_otherwise_is_refused(name, policy, method):
    refused(name, policy, method, "DeterministicActor")


class SecondHead(QNetwork):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.second = nn.Linear(self.features_dim, int(self.action_space.n))

    def _predict(self, observation, deterministic=True):
        return self.second(self.extract_features(observation, self.features_extractor)).argmax(1)


class SecondHeadPolicy(DQNPolicy):
    def make_q_net(self):
        return SecondHead(**self._update_features_extractor(self.net_args)).to(self.device)


@pytest.mark.parametrize("n", [2, 5])
def test_a_q_network_that_prefers_by_another_head_is_refused(n):
    refused("DQN", SecondHeadPolicy, "_predict", "QLearner", env=vec_env(action_space=spaces.Discrete(n)))


def test_an_ars_policy_that_acts_otherwise_is_refused():
    class Own(type(small_agent("ARS").policy)):
        def forward(self, obs):
            return torch.tanh(super().forward(obs)) + 0.5

    refused("ARS", Own, "_predict", "RandomSearchActor")


# What is no reason to refuse


@pytest.mark.parametrize("name", ALL_ALGORITHMS)
def test_no_policy_of_sb3_is_refused_and_none_notices(name):
    for kind in ("discrete", "box", "gsde", "dict", "regularized", "goal"):
        spec = KINDS.get(kind) or MORE_KINDS[kind]
        discrete = isinstance(spec.actions, spaces.Discrete)
        wanted = {"DQN": True, "QRDQN": True, "MaskablePPO": True, "SAC": False, "TQC": False, "CrossQ": False}
        wanted |= {"TD3": False, "DDPG": False}
        unfit = wanted.get(name, discrete) != discrete or (kind == "goal" and hasattr(ALL_ALGORITHMS[name], "rollout"))
        if unfit or (kind == "gsde" and name in ("TD3", "DDPG", "ARS")) or (name == "ARS" and kind != "box"):
            continue
        if kind == "goal" and name not in ("DQN", "QRDQN"):
            continue
        agent = build(ALL_ALGORITHMS[name], kind)
        before = copied(dict(agent.policy.state_dict())), [m.training for m in agent.policy.modules()]
        with untouched_generators():
            examined(agent)
        assert not differences(before[0], dict(agent.policy.state_dict()))
        assert [m.training for m in agent.policy.modules()] == before[1]


class Choosy(BaseFeaturesExtractor):
    """Knows no observations but those of its environment."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 3)

    def forward(self, observations):
        if (observations > 0).all():
            raise ValueError("no such thing exists")
        return observations


class Outspoken(FlattenExtractor):
    def forward(self, observations):
        warnings.warn("seen", UserWarning, stacklevel=1)
        return super().forward(observations)


@pytest.mark.parametrize("extractor", [Choosy, Outspoken])
def test_a_policy_that_cannot_act_on_what_nobody_made_is_taken_as_it_is_and_none_warns(extractor):
    agent = small_agent("PPO", policy_kwargs={"net_arch": [4], "features_extractor_class": extractor})
    assert isinstance(examined(agent), ActorCritic)


# What is


class Locked(FlattenExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.lock = threading.Lock()


def test_a_policy_that_cannot_be_copied_is_refused_when_the_agent_is_built():
    with pytest.raises(TypeError, match=r"it cannot be copied, and a teacher is a copy .TypeError: .*lock"):
        rlsd.distill(small_agent("PPO", policy_kwargs={"features_extractor_class": Locked}), HOLDING)


class Strange(SACActor):
    def get_action_dist_params(self, obs):
        mean, log_std, more = super().get_action_dist_params(obs)
        return (mean, log_std), more

    def forward(self, obs, deterministic=False):
        (mean, _), _ = self.get_action_dist_params(obs)
        return mean.tanh()


def test_an_adapter_that_fails_is_found_out_when_the_agent_is_built():
    with pytest.raises(TypeError, match=r"asked how it acts, it fails .ValueError: not enough values"):
        rlsd.distill(small_agent("SAC", policy=sac_with(Strange)), HOLDING)


@pytest.fixture
def registry(monkeypatch):
    """The table of adapters, put back afterwards."""
    monkeypatch.setattr(base, "_ACTORS", dict(base._ACTORS))
    monkeypatch.setattr(base, "_REGISTERED", set(base._REGISTERED))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "policy", "adapter"),
    [("PPO", OwnHead, ActorCritic), ("DQN", SecondHeadPolicy, QLearner), ("SAC", None, SquashedGaussianActor)],
)
def test_an_adapter_that_the_user_names_is_believed(name, policy, adapter):
    policy = sac_with(TiltedActor) if policy is None else policy
    rlsd.register_actor(policy, adapter)
    assert type(examined(small_agent(name, policy=policy))) is adapter


@pytest.mark.usefixtures("registry")
def test_an_adapter_whose_answers_have_another_shape_is_refused_though_the_user_named_it():
    class Short(ActorCritic):
        def parameters(self, module, states):
            return super().parameters(module, states)[:, :1]

    rlsd.register_actor(OwnHead, Short)
    with pytest.raises(TypeError, match=r"Short\.parameters gives the shape \(4, 1\), its family has \(4, 3\)"):
        examined(small_agent("PPO", policy=OwnHead))


@pytest.mark.parametrize("what", ["teacher", "compress"])
def test_whoever_else_reads_a_policy_examines_it_too(what):
    own = small_agent("PPO", policy=OwnHead)
    if what == "compress":
        with pytest.raises(TypeError, match=r"its forward\(\) does otherwise"):
            rlsd.compress(own, {"net_arch": [2]}, states=10)
    else:
        with pytest.raises(ValueError, match=r"its forward\(\) does otherwise"):
            rlsd.distill(small_agent("PPO"), HOLDING | {"teacher": rlsd.Frozen(agent=own)})


def test_every_algorithm_was_looked_at():
    assert set(ALGORITHMS) == set(ALL_ALGORITHMS)
    assert BasePolicy.predict is DQNPolicy.predict, "off-policy algorithms act by it"


# torch.compile


def whole(agent):
    agent.policy = torch.compile(agent.policy, backend="eager")


def in_place(agent):
    agent.policy.compile(backend="eager")


def a_part(agent):
    policy = agent.policy
    name = next(
        name for name in ("mlp_extractor", "actor", "q_net", "quantile_net", "action_net") if hasattr(policy, name)
    )
    setattr(policy, name, torch.compile(getattr(policy, name), backend="eager"))


def its_method(agent):
    policy = getattr(agent.policy, "actor", agent.policy)
    policy.forward = torch.compile(policy.forward, backend="eager")


@pytest.mark.parametrize("compiling", [whole, in_place, a_part, its_method])
@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_a_compiled_policy_is_distilled_as_one_that_is_not(name, compiling):
    ends = []
    for compile_it in (lambda agent: None, compiling):
        agent = small_agent(name)
        compile_it(agent)
        rlsd.distill(agent, HOLDING | {"teacher": {"type": "ema", "every": 8}})
        agent.learn(24)
        ends.append({key.replace("_orig_mod.", ""): value for key, value in agent.policy.state_dict().items()})
        assert agent.distiller.deposits > 0
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", [name for name in ALL_ALGORITHMS if name not in ("PPO", "SAC", "DQN")])
def test_every_adapter_knows_a_compiled_policy(name):
    for compile_it in (whole, a_part):
        agent = small_agent(name)
        compile_it(agent)
        actor = examined(agent)
        frozen = actor.frozen(agent.policy)
        assert not [name for name, _ in frozen.named_parameters() if "_orig_mod" in name]
        live = {plain_name(name): p for name, p in actor.module(agent.policy).named_parameters()}
        assert all(torch.equal(p, live[name]) for name, p in frozen.named_parameters())


def test_a_copy_of_a_compiled_method_is_of_the_copy():
    agent = small_agent("PPO")
    its_method(agent)
    frozen = actor_for(agent).frozen(agent.policy)
    assert frozen.forward.__self__ is frozen
