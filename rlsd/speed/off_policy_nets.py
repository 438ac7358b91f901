"""The networks of an off-policy agent by hand: SAC's and TD3's critics, SAC's actor, the head of its distribution."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn
from torch.nn import functional as F

from rlsd.actors.comparing import overrides_none
from rlsd.speed.adam_lists import ListAdam
from rlsd.speed.mlp import Layer, MLPBuffers, layers_of
from rlsd.speed.update_metrics import refuse_nan

_HALF_LOG_TWO_PI = math.log(math.sqrt(2 * math.pi))
_OF_CRITIC = ("forward", "q1_forward", "extract_features", "parameters")
Places = list[tuple[Tensor, Tensor]]


class Unchanged:
    """Tells whether some modules still are what they were: the same layers and parameters, and no hooks."""

    def __init__(self, *modules: nn.Module) -> None:
        self._parameters = [p for module in modules for p in module.parameters()]
        self._all = [part.__dict__ for module in modules for part in module.modules()]
        self._held = [(of[name], tuple(of[name].values())) for of in self._all for name in ("_modules", "_parameters")]
        everywhere = nn.modules.module
        self._hooks: list[dict[int, Any]] = [
            *(everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks),
            *(everywhere._global_backward_hooks, everywhere._global_backward_pre_hooks),
        ]
        names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        self._hooks += [of[name] for of in self._all for name in names]

    def __call__(self) -> bool:
        """Tell."""
        return (
            not any(self._hooks)
            and all(len(held) == len(of) and all(map(operator.is_, of.values(), held)) for of, held in self._held)
            and not any("forward" in of for of in self._all)
            and not any(p._backward_hooks for p in self._parameters)
        )


def known(*stacks: list[Layer] | None) -> bool:
    """Tell whether all stacks of layers are known by hand, and none is empty or ends in an activation to undo."""
    return all(stack for stack in stacks)


def places(layers: list[Layer], adam: ListAdam) -> Places:
    """Return where the gradients of layers belong."""
    return [(adam.place(layer.weight), adam.place(layer.bias)) for layer in layers]


def are_critics(*critics: Any) -> bool:
    """Tell whether these are SB3's critics on perceptrons that are known by hand."""
    for critic in critics:
        if type(critic) is not ContinuousCritic or not overrides_none(critic, ContinuousCritic, _OF_CRITIC):
            return False
        stacks = [layers_of(network) for network in critic.q_networks]
        if type(critic.features_extractor) is not FlattenExtractor or not known(*stacks):
            return False
        if any(stack[-1].activation is not None for stack in stacks if stack):
            return False
    return True


class Critics:
    """Q-networks of states and actions.

    :param critic: a ``ContinuousCritic`` whose networks are known.
    :param rows: the size of the minibatches.
    :param actions: numbers in an action.
    :param quick: only the gradients that are needed, in whatever rounding.
    :param adam: of the critic's optimizer; None for targets, which are not trained.
    """

    def __init__(self, critic: Any, rows: int, actions: int, quick: bool, adam: ListAdam | None = None) -> None:
        stacks = [layers_of(network) or [] for network in critic.q_networks]
        self.networks = [MLPBuffers(layers, rows, quick) for layers in stacks]
        self._into = [] if adam is None else [places(layers, adam) for layers in stacks]
        width = stacks[0][0].inputs
        self._x = torch.empty(rows, width)
        self._states, self._actions = self._x[:, : width - actions], self._x[:, width - actions :]
        self._by_inputs = [torch.empty(rows, actions if quick else width) for _ in stacks] if adam else []
        self._slope = torch.empty(rows, 1)
        self._each = torch.tensor(-1.0) / rows
        self._scale = float(np.float32(2.0 / rows))

    def bind(self) -> None:
        """Take up where the parameters lie now."""
        for network in self.networks:
            network.bind()

    def values(self, states: Tensor | None, actions: Tensor) -> list[Tensor]:
        """Return each network's values ``(rows, 1)``; the next call overwrites them.

        :param states: None for those of the call before.
        """
        if states is not None:
            self._states.copy_(states)
        self._actions.copy_(actions)
        return [network.forward(self._x) for network in self.networks]

    def lowest(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the lowest of the values."""
        first, *others = self.values(states, actions)
        for other in others:
            first = torch.minimum(first, other)
        return first

    def regress(self, states: Tensor, actions: Tensor, target: Tensor, weight: float) -> float:
        """Write the gradient of ``weight`` times the summed mean squared errors, which are returned."""
        loss: Any = 0.0
        for network, values, into in zip(self.networks, self.values(states, actions), self._into, strict=True):
            loss = loss + F.mse_loss(values, target)
            torch.sub(values, target, out=self._slope)
            network.backward(self._slope.mul_(self._scale).mul_(weight), into)
        return float((weight * loss).item())

    def slope_of_first(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first network's mean value for the states of the call before, and minus its slope by actions."""
        self._actions.copy_(actions)
        network, place = self.networks[0], self._by_inputs[0]
        values = network.forward(self._x)
        network.backward(self._slope.copy_(self._each.expand_as(self._slope)), None, place)
        return values.mean(), place[:, -actions.shape[1] :]

    def slope_of_lowest(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest values for the states of the call before, and minus their mean's slope by the actions."""
        found = self.values(None, actions)
        lowest, which = torch.min(torch.cat(found, dim=1), dim=1, keepdim=True)
        slopes = torch.zeros(len(lowest), len(found)).scatter_(1, which, self._each.expand_as(lowest))
        total: Tensor | None = None
        # Autograd goes through the networks from the last one to the first, and adds in this order.
        for i in range(len(found) - 1, -1, -1):
            self._slope.copy_(slopes[:, i : i + 1])
            self.networks[i].backward(self._slope, None, self._by_inputs[i])
            total = self._by_inputs[i] if total is None else total + self._by_inputs[i]
        assert total is not None
        return lowest, total[:, -actions.shape[1] :]


class Drawn(NamedTuple):
    """Actions drawn, and how they came about.

    :param actions: ``(rows, actions)``.
    :param log_prob: ``(rows, 1)``.
    :param graph: of both, down to mean and logarithm of the standard deviation; None when none was asked for.
    """

    actions: Tensor
    log_prob: Tensor
    graph: tuple[Tensor, Tensor, Tensor, Tensor] | None


class GaussianActor:
    """SAC's actor.

    :param actor: one whose layers are known.
    :param rows: the size of the minibatches.
    :param adam: of its optimizer; None where no gradient is asked for.
    """

    def __init__(self, actor: Any, rows: int, adam: ListAdam | None = None) -> None:
        trunk, mean, log_std = (layers_of(part) or [] for part in (actor.latent_pi, actor.mu, actor.log_std))
        self.trunk, self.mean, self.log_std = (MLPBuffers(part, rows) for part in (trunk, mean, log_std))
        self._parts = (self.trunk, self.mean, self.log_std)
        self._into = [] if adam is None else [places(part, adam) for part in (trunk, mean, log_std)]
        self._epsilon = actor.action_dist.epsilon
        self._latent_slope, self._other_slope = torch.empty(2, rows, trunk[-1].outputs).unbind()

    def bind(self) -> None:
        """Take up where the parameters lie now."""
        for part in self._parts:
            part.bind()

    def draw(self, states: Tensor, noise: Tensor | None = None) -> Drawn:
        """Draw actions, from torch's global generator unless the noise is given; with a graph if it is trained.

        :raises ValueError: when the distribution's parameters are NaN, where torch's checks would.
        """
        latent = self.trunk.forward(states)
        mean, raw = self.mean.forward(latent), self.log_std.forward(latent)
        if not self._into:
            return Drawn(*self._squash(mean, raw, noise), None)
        mean, raw = mean.detach().requires_grad_(), raw.detach().requires_grad_()
        with torch.enable_grad():
            actions, log_prob = self._squash(mean, raw, noise)
        return Drawn(actions.detach(), log_prob.detach(), (mean, raw, actions, log_prob))

    def _squash(self, mean: Tensor, raw: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        # SquashedDiagGaussianDistribution.log_prob_from_params, in its order.
        log_std = torch.clamp(raw, LOG_STD_MIN, LOG_STD_MAX)
        scale = torch.ones_like(mean) * log_std.exp()
        gaussian = mean + (torch.empty(mean.shape).normal_() if noise is None else noise) * scale
        actions = torch.tanh(gaussian)
        variance, log_scale = scale**2, scale.log()
        log_prob = -((gaussian - mean) ** 2) / (2 * variance) - log_scale - _HALF_LOG_TWO_PI
        log_prob = log_prob.sum(dim=1)
        log_prob = log_prob - torch.sum(torch.log(1 - actions**2 + self._epsilon), dim=1)
        if math.isnan(log_prob.detach().sum()) and bool((mean.isnan() | scale.isnan() | gaussian.isnan()).any()):
            refuse_nan()
        return actions, log_prob.reshape(-1, 1)

    def backward(self, drawn: Drawn, by_actions: Tensor, by_log_prob: Tensor) -> None:
        """Write the gradients of the actor's parameters, from those by the actions and log probabilities it drew."""
        assert drawn.graph is not None
        mean, raw, actions, log_prob = drawn.graph
        by_mean, by_log_std = torch.autograd.grad([actions, log_prob], [mean, raw], [by_actions, by_log_prob])
        slope = self._latent_slope
        self.log_std.backward(by_log_std, self._into[2], self._other_slope)
        self.mean.backward(by_mean, self._into[1], slope)
        self.trunk.backward(self.trunk.through_last(slope.add_(self._other_slope)), self._into[0])


def polyak(kept: list[Tensor], learned: list[Tensor], tau: float, quick: bool) -> None:
    """Move target parameters by a share ``tau`` towards those that are trained.

    :param quick: by one operation, which rounds otherwise.
    """
    if quick:
        torch._foreach_lerp_(kept, learned, tau)
    else:
        torch._foreach_mul_(kept, 1 - tau)
        torch._foreach_add_(kept, learned, alpha=tau)
