"""ARS's way of acting: a network without a gradient, changed by the returns of its perturbed copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from rlsd.actors.base import Actor, uncompiled
from rlsd.actors.comparing import chosen_best, close, predicts_alike
from rlsd.distributions import Categorical, Family, Point
from rlsd.observations import Observations


class RandomSearchActor(Actor):
    """ARS's way of acting: deterministic. Discrete actions are compared by the softmax of their scores."""

    policies = ("sb3_contrib.ars.policies.ARSPolicy",)
    rounds = 6  # of two actions, both may prefer the same by chance

    def __init__(self, policy: nn.Module) -> None:
        space = cast(Any, policy).action_space
        discrete = isinstance(space, spaces.Discrete)
        self.family: Family = Categorical((int(space.n),)) if discrete else Point(spaces.flatdim(space))

    def module(self, policy: Any) -> nn.Module:  # noqa: D102
        return uncompiled(policy)

    def optimizer(self, policy: Any) -> None:  # noqa: D102
        return None

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        features = module.extract_features(states, module.features_extractor)
        return cast(Tensor, module.action_net(features))

    def mismatch(self, policy: Any, states: Observations) -> str:  # noqa: D102
        acted, answers = self.act(policy, states), self.parameters(policy, states)
        alike = chosen_best(answers, acted) if isinstance(self.family, Categorical) else close(acted, answers)
        if not alike:
            return "_predict"
        return "" if predicts_alike(policy, states) else "predict"

    def candidates(self, module: Any, states: Observations) -> Callable[[Tensor], Tensor]:
        """Return a function from the weights of many candidates to what each would do, all in one pass.

        :return: takes ``(candidates, weights)``, gives ``(candidates, batch, family.size)``.
        """
        features = module.extract_features(states, module.features_extractor)
        named = dict(module.action_net.named_parameters())
        if parameters_to_vector(module.parameters()).numel() != sum(p.numel() for p in named.values()):
            raise TypeError("cannot distil an ARS policy whose features are learned: only its action_net is searched")
        shapes = {name: parameter.shape for name, parameter in named.items()}
        sizes = [parameter.numel() for parameter in named.values()]

        def one(weights: Tensor) -> Tensor:
            parts = zip(shapes, weights.split(sizes), strict=True)
            replaced = {name: part.view(shapes[name]) for name, part in parts}
            return cast(Tensor, torch.func.functional_call(module.action_net, replaced, (features,)))

        return torch.func.vmap(one)


def search_around(agent: Any) -> None:
    """Let ARS search around what its policy is now: it keeps a copy of the weights. Others have none."""
    if getattr(agent, "weights", None) is not None:
        agent.weights = parameters_to_vector(agent.policy.parameters()).detach().to(agent.weights.device)
