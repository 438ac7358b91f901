"""Networks as the plain functions they compute: without calling a module, and nothing else is different."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsd.speed.mlp import untouched

Function = Callable[[Tensor], Tensor]


def function_of(*modules: nn.Module) -> Function | None:
    """Return what the modules compute one after the other, None when calling them does more than that.

    What is known layer by layer is computed directly, with the very operations of the layers' own ``forward``; any
    other layer is called. A module with a hook, a parametrisation or a ``forward`` of its own must be called.
    """
    steps: list[Function] = []
    for module in modules:
        if not untouched(module):
            return None
        if type(module) is nn.Sequential:
            inner = function_of(*module)
            if inner is None:
                return None
            steps.append(inner)
        elif type(module) is not nn.Identity:
            steps.append(_layer(module))
    return _chain(steps)


def _layer(module: nn.Module) -> Function:
    kind = type(module)
    if kind is nn.Linear:
        assert isinstance(module, nn.Linear)
        return partial(F.linear, weight=module.weight, bias=module.bias)
    if kind is nn.Tanh:
        return torch.tanh
    if kind is nn.ReLU and not module.inplace:
        return torch.relu
    if kind is nn.Conv2d and module.padding_mode == "zeros":
        assert isinstance(module, nn.Conv2d)
        return partial(
            F.conv2d,
            weight=module.weight,
            bias=module.bias,
            stride=module.stride,
            padding=module.padding,
            dilation=module.dilation,
            groups=module.groups,
        )
    if kind is nn.Flatten:
        assert isinstance(module, nn.Flatten)
        return partial(torch.flatten, start_dim=module.start_dim, end_dim=module.end_dim)
    return module


def _chain(steps: list[Function]) -> Function:
    if len(steps) == 1:
        return steps[0]

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run
