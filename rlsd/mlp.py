"""Multi-layer perceptrons forward and backward by hand: autograd's operations without autograd's bookkeeping.

On networks of two times 64 units the bookkeeping costs more than the arithmetic. What is done here is what autograd
does for ``nn.Linear``, ``nn.Tanh`` and ``nn.ReLU``, operation by operation and operand by operand, so the gradients are
the same to the last bit wherever the matrix products are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import Tensor, nn

_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_relu_backward = torch.ops.aten.threshold_backward.grad_input
_HEADS = (CategoricalDistribution, MultiCategoricalDistribution, BernoulliDistribution, DiagGaussianDistribution)


class Layer:
    """One linear layer and the activation after it.

    :param linear: the layer.
    :param activation: ``nn.Tanh``, ``nn.ReLU`` or None.
    """

    def __init__(self, linear: nn.Linear, activation: type[nn.Module] | None) -> None:
        self.weight, self.bias = cast(nn.Parameter, linear.weight), linear.bias
        self.outputs, self.inputs = self.weight.shape
        self.activation = activation


def layers_of(*modules: nn.Module, trained: bool = True) -> list[Layer] | None:
    """Return the layers of modules that are applied one after the other, None when they are not known by hand.

    :param trained: refuse parameters that take no gradient, or tell somebody of it.
    """
    found: list[Layer] = []
    flat = [m for module in modules for m in (module if type(module) is nn.Sequential else [module])]
    if not all(untouched(module) for module in [*modules, *flat]):
        return None
    for module in flat:
        kind = type(module)
        if kind is nn.Linear and _plain(cast(nn.Linear, module), trained):
            found.append(Layer(cast(nn.Linear, module), None))
        elif kind in (nn.Tanh, nn.ReLU) and found and found[-1].activation is None:
            found[-1].activation = kind
        else:
            return None
    return found


def untouched(module: nn.Module) -> bool:
    """Tell whether calling a module is its class's ``forward`` and no more."""
    everywhere = nn.modules.module
    hooks: tuple[Any, ...] = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
        everywhere._global_forward_hooks,
        everywhere._global_forward_pre_hooks,
        everywhere._global_backward_hooks,
        everywhere._global_backward_pre_hooks,
    )
    return not any(hooks) and "forward" not in module.__dict__


def _plain(linear: nn.Linear, trained: bool) -> bool:
    if linear.bias is None:
        return False
    return all(
        type(p) is nn.Parameter
        and p.dtype == torch.float32
        and p.device.type == "cpu"
        and (not trained or (p.requires_grad and not p._backward_hooks))
        for p in (linear.weight, linear.bias)
    )


class Pass:
    """The way through some layers for batches of one size, in memory that is kept from one batch to the next.

    :param layers: the layers.
    :param rows: the size of the batches.
    :param quick: let numpy compute the hyperbolic tangents: in a tenth of torch's time, and rounded otherwise.
    """

    def __init__(self, layers: Sequence[Layer], rows: int, quick: bool = False) -> None:
        self.layers = layers
        self.outputs = [torch.empty(rows, layer.outputs) for layer in layers]
        self.slopes = [torch.empty(rows, layer.outputs) for layer in layers[:-1]]
        kinds = [layer.activation for layer in layers]
        self._activate = [_activation(kind, out, quick) for kind, out in zip(kinds, self.outputs, strict=True)]
        self._slope = [_BACKWARD[kind] for kind in kinds]
        self._addresses: list[int] = []

    def bind(self) -> None:
        """Take up where the parameters lie. Needed before the first pass and whenever their storage was exchanged."""
        addresses = [p.data_ptr() for layer in self.layers for p in (layer.weight, layer.bias)]
        if addresses != self._addresses:
            self._weights = [layer.weight.detach() for layer in self.layers]
            self._forward = [
                (layer.bias.detach(), weight.t(), out, activate)
                for layer, weight, out, activate in zip(
                    self.layers, self._weights, self.outputs, self._activate, strict=True
                )
            ]
            self._turned = [slope.t() for slope in self.slopes]
            self._addresses = addresses

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output for a batch ``(rows, inputs)``; the next pass overwrites it."""
        self._x = x
        for bias, weight, out, activate in self._forward:
            torch.addmm(bias, x, weight, out=out)
            if activate is not None:
                activate()
            x = out
        return x

    def backward(self, gradient: Tensor, into: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Write the gradients of the latest pass by each layer's weight and bias.

        :param gradient: by the last layer's output before its activation.
        :param into: a place for each layer's two gradients.
        """
        turned = gradient.t()
        for i in range(len(self.layers) - 1, -1, -1):
            x = self.outputs[i - 1] if i else self._x
            weight, bias = into[i]
            torch.mm(turned, x, out=weight)
            torch.sum(gradient, 0, out=bias)
            if i:
                slope, back = self.slopes[i - 1], self._slope[i - 1]
                torch.mm(gradient, self._weights[i], out=slope)
                if back is not None:
                    back(slope, x)
                gradient, turned = slope, self._turned[i - 1]


def _activation(kind: type[nn.Module] | None, out: Tensor, quick: bool) -> Callable[[], Any] | None:
    if kind is nn.Tanh and quick:
        array = out.numpy()
        return lambda: np.tanh(array, out=array)
    if kind is nn.Tanh:
        return out.tanh_
    return out.relu_ if kind is nn.ReLU else None


# From the gradient by an activation's output, and that output, to the gradient by its input, in place.
_BACKWARD: dict[type[nn.Module] | None, Callable[[Tensor, Tensor], Any] | None] = {
    nn.Tanh: lambda gradient, out: _tanh_backward(gradient, out, grad_input=gradient),
    nn.ReLU: lambda gradient, out: _relu_backward(gradient, out, 0, grad_input=gradient),
    None: None,
}


class Inputs:
    """From observations as a policy sees them to the flat features of its perceptrons.

    :param policy: a policy with a :class:`FlattenExtractor`.
    """

    def __init__(self, policy: BaseModel) -> None:
        self.space, self.images = policy.observation_space, policy.normalize_images
        pixels = policy.normalize_images and is_image_space(policy.observation_space)
        self._as_they_are = isinstance(self.space, spaces.Box) and not pixels

    def __call__(self, observations: Tensor) -> Tensor:
        """Return ``(batch, features)``."""
        if not self._as_they_are:
            observations = cast(Tensor, preprocess_obs(observations, self.space, normalize_images=self.images))
        return observations.float().flatten(1)


class ActorMLP:
    """The acting part of an actor-critic policy, from observations to its action distributions' parameters.

    A gradient by the parameters ``(batch, size)`` becomes one by the weights without autograd::

        actor = mlp.of(agent.policy)
        answers = actor.forward(observations).requires_grad_()
        (slope,) = torch.autograd.grad(loss(answers), answers)
        for parameter, gradient in actor.backward(slope): ...

    Made by :func:`of`. It holds the policy's parameters, whatever storage they have at the time of a pass.
    """

    def __init__(self, layers: list[Layer], log_std: nn.Parameter | None, inputs: Inputs, quick: bool = False) -> None:
        self._layers, self._log_std, self._inputs, self._quick = layers, log_std, inputs, quick
        self._size = layers[-1].outputs
        #: In the order in which :meth:`backward` gives their gradients.
        self.parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
        if log_std is not None:
            self.parameters.append(log_std)
        self._sizes = [p.numel() for p in self.parameters]
        self._passes: dict[int, Pass] = {}

    @torch.no_grad()
    def forward(self, observations: Tensor) -> Tensor:
        """Return a new tensor of parameters ``(batch, size)``: logits, or means and log standard deviations."""
        rows = len(observations)
        if rows not in self._passes:
            self._passes[rows] = Pass(self._layers, rows, self._quick)
        self._pass = self._passes[rows]
        self._pass.bind()
        head = self._pass.forward(self._inputs(observations))
        if self._log_std is None:
            return head.clone()
        return torch.cat([head, self._log_std.expand_as(head)], dim=-1)

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
        """Return new gradients by each weight, from the gradient by what the latest :meth:`forward` returned.

        They are views, one behind the other, of one flat tensor: ``gradients[0][1]._base`` has them all.
        """
        flat = torch.empty(sum(self._sizes))
        places: list[Tensor] = list(flat.split(self._sizes))
        parts = [place.view(parameter.shape) for place, parameter in zip(places, self.parameters, strict=True)]
        if self._log_std is not None:
            torch.sum(gradient[:, self._size :], 0, out=parts[-1])
            gradient = gradient[:, : self._size]
        self._pass.backward(gradient, list(zip(parts[0::2], parts[1::2], strict=False)))
        return list(zip(self.parameters, parts, strict=True))


def of(policy: nn.Module, quick: bool = False) -> ActorMLP | None:
    """Return a policy's acting part as perceptron, None for a policy that acts in any other way.

    Served are SB3's actor-critic policies on the CPU with flat observations, any number of linear layers, tanh or
    ReLU, and any action space without gSDE.

    :param quick: see :class:`Pass`.
    """
    parts = _parts(policy, trained=True)
    return None if parts is None else ActorMLP(*parts, quick)


class FrozenMLP:
    """The acting part of an actor-critic policy that only answers: quickly, and for batches of any size.

    Made by :func:`frozen`. It holds the policy's parameters, and answers by what they are at the time.
    """

    def __init__(self, layers: list[Layer], log_std: nn.Parameter | None, inputs: Inputs) -> None:
        self._layers, self._log_std, self._inputs = layers, log_std, inputs

    @torch.no_grad()
    def __call__(self, observations: Tensor) -> Tensor:
        """Return a new tensor of parameters ``(batch, size)``: logits, or means and log standard deviations."""
        x = self._inputs(observations)
        for layer in self._layers:
            x = torch.addmm(layer.bias, x, layer.weight.t())
            activate = _activation(layer.activation, x, quick=True)
            if activate is not None:
                activate()
        return x if self._log_std is None else torch.cat([x, self._log_std.expand_as(x)], dim=-1)


def frozen(policy: nn.Module) -> FrozenMLP | None:
    """Return the acting part of a policy that is not trained; for those that :func:`of` serves, else None."""
    parts = _parts(policy, trained=False)
    return None if parts is None else FrozenMLP(*parts)


def _parts(policy: nn.Module, trained: bool) -> tuple[list[Layer], nn.Parameter | None, Inputs] | None:
    own = ("get_distribution", "_get_action_dist_from_latent", "extract_features")
    if not isinstance(policy, ActorCriticPolicy) or not overrides_none(policy, ActorCriticPolicy, own):
        return None
    if type(policy.action_dist) not in _HEADS or not is_standard(policy):
        return None
    layers = layers_of(policy.mlp_extractor.policy_net, policy.action_net, trained=trained)
    log_std = getattr(policy, "log_std", None)
    gaussian = type(policy.action_dist) is DiagGaussianDistribution
    if not layers or gaussian != (log_std is not None):
        return None
    return layers, log_std, Inputs(policy)


def overrides_none(thing: object, base: type, names: Iterable[str]) -> bool:
    """Tell whether an object's methods of these names are those of ``base``."""
    return all(getattr(type(thing), n) is getattr(base, n) and n not in thing.__dict__ for n in names)


def is_standard(policy: ActorCriticPolicy) -> bool:
    """Tell whether between the observations and the perceptrons there is nothing but a flattening."""
    return (
        type(policy.features_extractor) is type(policy.pi_features_extractor) is FlattenExtractor
        and type(policy.vf_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and not isinstance(policy.observation_space, spaces.Dict)
        and all(untouched(m) for m in (policy, policy.features_extractor, policy.mlp_extractor))
    )
