"""Multi-layer perceptrons forward and backward by hand: autograd's operations without autograd's bookkeeping.

On networks of two times 64 units the bookkeeping costs more than the arithmetic. What is done here is what autograd
does for ``nn.Linear``, ``nn.Tanh`` and ``nn.ReLU``, operation by operation and operand by operand, so the gradients are
the same to the last bit wherever the matrix products are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import Tensor, nn

_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_relu_backward = torch.ops.aten.threshold_backward.grad_input


class Layer:
    """One linear layer and the activation after it.

    :param linear: the layer.
    :param activation: ``nn.Tanh``, ``nn.ReLU`` or None.
    """

    def __init__(self, linear: nn.Linear, activation: type[nn.Module] | None) -> None:
        self.weight, self.bias = cast(nn.Parameter, linear.weight), linear.bias
        self.outputs, self.inputs = self.weight.shape
        self.activation = activation


def layers_of(*modules: nn.Module) -> list[Layer] | None:
    """Return the layers of modules that are applied one after the other, None when they are not known by hand."""
    found: list[Layer] = []
    flat = [m for module in modules for m in (module if type(module) is nn.Sequential else [module])]
    if not all(untouched(module) for module in [*modules, *flat]):
        return None
    for module in flat:
        kind = type(module)
        if kind is nn.Linear and _plain(cast(nn.Linear, module)):
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


def _plain(linear: nn.Linear) -> bool:
    """Whether both parameters are ordinary ones that take a gradient and tell nobody of it."""
    if linear.bias is None:
        return False
    return all(
        type(p) is nn.Parameter
        and p.dtype == torch.float32
        and p.device.type == "cpu"
        and p.requires_grad
        and not p._backward_hooks
        for p in (linear.weight, linear.bias)
    )


class MLPBuffers:
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

    def backward(
        self,
        gradient: Tensor,
        into: Sequence[tuple[Tensor, Tensor]] | None,
        inputs: Tensor | None = None,
    ) -> None:
        """Write the gradients of the latest pass by each layer's weight and bias, and by its input.

        :param gradient: by the last layer's output before its activation.
        :param into: a place for each layer's two gradients; None to leave them out.
        :param inputs: a place for the gradient by the input's last columns, as many as it has; None to leave it out.
        """
        turned = gradient.t()
        for i in range(len(self.layers) - 1, -1, -1):
            if into is not None:
                weight, bias = into[i]
                torch.mm(turned, self.outputs[i - 1] if i else self._x, out=weight)
                torch.sum(gradient, 0, out=bias)
            if i:
                slope, back = self.slopes[i - 1], self._slope[i - 1]
                torch.mm(gradient, self._weights[i], out=slope)
                if back is not None:
                    back(slope, self.outputs[i - 1])
                gradient, turned = slope, self._turned[i - 1]
            elif inputs is not None:
                torch.mm(gradient, self._weights[0][:, -inputs.shape[1] :], out=inputs)

    def through_last(self, gradient: Tensor) -> Tensor:
        """Return the gradient by the last layer's output before its activation, from that after it, in place."""
        back = _BACKWARD[self.layers[-1].activation]
        if back is not None:
            back(gradient, self.outputs[-1])
        return gradient


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


class Preprocessor:
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


def is_standard(policy: ActorCriticPolicy) -> bool:
    """Tell whether between the observations and the perceptrons there is nothing but a flattening."""
    return (
        type(policy.features_extractor) is type(policy.pi_features_extractor) is FlattenExtractor
        and type(policy.vf_features_extractor) is FlattenExtractor
        and type(policy.mlp_extractor) is MlpExtractor
        and not isinstance(policy.observation_space, spaces.Dict)
        and all(untouched(m) for m in (policy, policy.features_extractor, policy.mlp_extractor))
    )
