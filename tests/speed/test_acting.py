"""Acting leanly gives what SB3's own policies give, to the last bit, and leaves what it does not know to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from agents import build, copied, differences, generators, make_env
from gymnasium import spaces
from helpers import ACTING, make_policy, observe
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from torch import nn

from rlsd.speed.acting import lean_methods
from rlsd.speed.standing_in import standing_in

VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
LEAN = {
    "Discrete": {},
    "Box": {},
    "Box of two axes": {},
    "no hidden layers": {"net_arch": []},
    "ReLU": {"activation_fn": nn.ReLU},
    "ELU, a layer that is called": {"activation_fn": nn.ELU},
    "separate extractors": {"share_features_extractor": False},
}


def _both(policy: Any, observations: Any, call: str = "forward", **kwargs: Any) -> tuple[Any, Any]:
    """What a policy answers by itself and leanly, each with the generators it leaves."""
    answers = []
    for methods in ({}, lean_methods(policy)):
        torch.manual_seed(5)
        with torch.no_grad(), standing_in(policy, methods):
            out = getattr(policy, call)(observations, **kwargs)
        answers.append(copied((out, generators())))
    return answers[0], answers[1]


@pytest.mark.parametrize("name", LEAN)
@pytest.mark.parametrize("n", [1, 8, 33])
def test_an_actor_critic_acts_as_by_itself(name: str, n: int) -> None:
    policy = make_policy(VECTOR, ACTING.get(name, ACTING["Discrete"])[0], **LEAN[name])
    assert lean_methods(policy).keys() == {"forward", "predict_values", "predict"}
    assert not differences(*_both(policy, observe(VECTOR, n)))
    assert not differences(*_both(policy, observe(VECTOR, n), "predict_values"))
    assert not differences(*_both(policy, observe(VECTOR, n), deterministic=True))
    seen = observe(VECTOR, n).numpy()
    for deterministic in (True, False):
        assert not differences(*_both(policy, seen, "predict", deterministic=deterministic))
    assert not differences(*_both(policy, seen[0], "predict", deterministic=True)), "one observation is not a batch"


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("actions", ["Discrete", "Box"])
def test_an_actor_critic_that_sees_images_acts_as_by_itself(actions: str, share: bool) -> None:
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    policy = make_policy(space, ACTING[actions][0], net_arch=[], share_features_extractor=share)
    assert lean_methods(policy)
    assert not differences(*_both(policy, observe(space)))
    assert not differences(*_both(policy, observe(space).numpy(), "predict", deterministic=True))


@pytest.mark.parametrize("space", [spaces.Box(-1.0, 1.0, (2, 3), np.float64), spaces.Box(0, 255, (5,), np.uint8)])
def test_other_arrays_of_numbers_are_seen_as_by_itself(space: spaces.Box) -> None:
    policy = make_policy(space, spaces.Discrete(3))
    assert lean_methods(policy)
    assert not differences(*_both(policy, observe(space)))


@pytest.mark.parametrize("name", [name for name in ACTING if "Multi" in name or "gSDE" in name])
def test_actions_without_a_lean_form_are_left_to_the_policy(name: str) -> None:
    space, kwargs = ACTING[name]
    assert lean_methods(make_policy(VECTOR, space, **kwargs)) == {}


def _overriding(name: str) -> type[Any]:
    from stable_baselines3.common.policies import ActorCriticPolicy

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(Own, self), name)(*args, **kwargs)

    Own = type("Own", (ActorCriticPolicy,), {name: method})
    return Own


@pytest.mark.parametrize(
    "name", ["forward", "extract_features", "_get_action_dist_from_latent", "predict_values", "__call__"]
)
def test_a_policy_with_a_method_of_its_own_acts_by_itself(name: str) -> None:
    assert lean_methods(make_policy(VECTOR, spaces.Discrete(3), cls=_overriding(name))) == {}


@pytest.mark.parametrize("name", ["predict", "_predict", "get_distribution", "obs_to_tensor"])
def test_a_policy_that_predicts_in_a_way_of_its_own_is_asked(name: str) -> None:
    methods = lean_methods(make_policy(VECTOR, spaces.Discrete(3), cls=_overriding(name)))
    assert methods.keys() == {"forward", "predict_values"}


def test_a_module_that_is_watched_is_called() -> None:
    policy = make_policy(VECTOR, spaces.Discrete(3))
    for module in (policy, policy.mlp_extractor, policy.mlp_extractor.policy_net[0], policy.value_net):
        handle = module.register_forward_hook(lambda *_: None)
        assert lean_methods(policy) == {}
        handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert lean_methods(policy) == {}
    handle.remove()
    nn.utils.parametrizations.weight_norm(policy.value_net)
    assert not differences(*_both(policy, observe(VECTOR)))
    policy.forward = policy.forward
    assert lean_methods(policy) == {}


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [(SAC, "box"), (SAC, "box_image"), (TD3, "box"), (TD3, "box_image"), (DQN, "discrete"), (DQN, "image_chw")],
)
def test_off_policy_agents_act_as_by_themselves(algorithm: type[Any], kind: str) -> None:
    policy = build(algorithm, kind).policy
    observations = make_env(kind).reset()
    assert lean_methods(policy).keys() == {"predict"}
    assert not differences(*_both(policy, observations, "predict"))
    assert not differences(*_both(policy, observations[0], "predict")), "one observation alone is not a batch"
    assert not differences(*_both(policy, observations, "predict", deterministic=True))
    before = observations.copy()
    lean_methods(policy)["predict"](observations)
    assert (observations == before).all()


def test_off_policy_agents_that_act_otherwise_are_left_to_themselves() -> None:
    assert lean_methods(build(SAC, "gsde").policy) == {}
    assert lean_methods(build(SAC, "box_dict").policy) == {}
    assert lean_methods(build(DQN, "discrete_observations").policy) == {}


@pytest.mark.parametrize(
    ("algorithm", "kind", "call"),
    [
        *[(cls, kind, call) for cls, kind in ((PPO, "discrete"), (A2C, "box")) for call in ("forward", "mode")],
        *[(SAC, "box", "sample"), (SAC, "box", "mode")],
    ],
)
@pytest.mark.parametrize("broken", ["observation", "parameter"])
def test_what_is_not_a_number_is_refused_as_by_itself(algorithm: type[Any], kind: str, call: str, broken: str) -> None:
    policy, observations = build(algorithm, kind).policy, make_env(kind).reset()
    if broken == "parameter":
        next(policy.parameters()).data.fill_(float("nan"))
        (policy.actor.mu if algorithm is SAC else policy.action_net).bias.data.fill_(float("nan"))
    else:
        observations[1, 0] = np.nan
    seen = torch.as_tensor(observations) if call == "forward" else observations
    name, how = ("forward", {}) if call == "forward" else ("predict", {"deterministic": call == "mode"})
    for methods, message in (({}, "Expected parameter"), (lean_methods(policy), f"{broken} .*is not finite")):
        with torch.no_grad(), standing_in(policy, methods), pytest.raises(ValueError, match=message):
            getattr(policy, name)(seen, **how)


def test_what_is_infinite_is_acted_on_as_by_itself() -> None:
    policy = make_policy(VECTOR, ACTING["Box"][0])
    observations = torch.tensor([[float("inf"), 0.0, 0.0], [float("-inf"), 0.0, 0.0]])
    assert not differences(*_both(policy, observations))
    with torch.no_grad():
        policy.action_net.bias.copy_(torch.tensor([float("inf"), float("-inf")]))
    assert not differences(*_both(policy, observations))
    assert not differences(*_both(policy, observations.numpy(), "predict", deterministic=True))


def test_a_rollout_acts_leanly(monkeypatch: pytest.MonkeyPatch) -> None:
    import rlsd
    from rlsd.speed import acting

    drawn = []
    monkeypatch.setattr(acting.torch, "multinomial", lambda *a, _own=torch.multinomial: drawn.append(1) or _own(*a))
    monkeypatch.setattr(torch.distributions.Categorical, "sample", lambda *_: pytest.fail("a Distribution was made"))
    build(rlsd.SelfDistilled(PPO), distill=None).learn(16)
    assert len(drawn) == 8
