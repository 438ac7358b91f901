"""What is lent to a module is taken back, and no copy takes it along."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cloudpickle
import pytest
import torch
from agents import copied, differences
from gymnasium import spaces
from helpers import VECTOR, disturb, make_policy, observe
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from rlsd.speed.standing_in import standing_in

COPIERS = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "cloudpickle": lambda module: cloudpickle.loads(cloudpickle.dumps(module)),
}


def policy() -> Any:
    made = make_policy(VECTOR, spaces.Discrete(3))
    made.optimizer = made.lr_schedule = None
    return made


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_a_module_is_itself_again_whatever_happens(error: type[BaseException] | None) -> None:
    module = policy()
    before = dict(module.__dict__)
    try:
        with standing_in(module, {"forward": lambda obs: "lent"}):
            assert module(torch.zeros(1)) == "lent"
            assert isinstance(module, ActorCriticPolicy)
            assert type(module).__name__ == "ActorCriticPolicy"
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert type(module) is ActorCriticPolicy
    assert module.__dict__ == before


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS.keys())
def test_a_copy_made_meanwhile_acts_by_itself(copier: Any) -> None:
    module, observations = policy(), observe(VECTOR)
    with standing_in(module, {"forward": lambda *_: pytest.fail("the copy asked the original")}):
        twin = copier(module)
    assert type(twin) is ActorCriticPolicy
    assert twin.__dict__.keys() == module.__dict__.keys()
    if copier is not copy.copy:
        disturb(module)
    with torch.no_grad():
        torch.manual_seed(0)
        acted = twin(observations)
        torch.manual_seed(0)
        assert bool(differences(acted, module(observations))) is (copier is not copy.copy)


def test_nothing_lent_is_nothing_changed() -> None:
    module = nn.Linear(2, 2)
    with standing_in(module, {}):
        assert type(module) is nn.Linear


def test_what_is_lent_in_between_comes_back_in_order() -> None:
    module = nn.Linear(2, 2)
    with standing_in(module, {"forward": lambda _: 1}):
        with standing_in(module, {"forward": lambda _: 2, "extra_repr": lambda: "lent"}):
            assert module(0) == 2
            assert type(copy.deepcopy(module)) is nn.Linear
        assert module(0) == 1
        assert module.extra_repr() != "lent"


def test_a_module_made_from_the_lent_class_acts_by_itself() -> None:
    module, observations = policy(), observe(VECTOR)
    with torch.no_grad(), standing_in(module, {"forward": lambda *_: pytest.fail("the new one asked the original")}):
        made: Any = type(module)(**module._get_constructor_parameters())
        made.optimizer = made.lr_schedule = None
        made.load_state_dict(module.state_dict())
        during = made(observations, deterministic=True)
    with torch.no_grad():
        expected = copied(module(observations, deterministic=True))
        assert not differences(copied(during), expected)
        assert not differences(copied(made(observations, deterministic=True)), expected)
    with standing_in(made, {"forward": lambda *_: "lent"}):
        assert made(observations) == "lent"
        twin = pickle.loads(pickle.dumps(made))
    assert type(twin) is ActorCriticPolicy
