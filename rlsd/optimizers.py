"""The optimizers of a policy, and their state as named tensors: what Adam remembers of each parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def optimizers_of(policy: Any) -> dict[str, Optimizer]:
    """Return the optimizers that SB3 made for a policy, by the name of what they train: all of it, actor, critic."""
    owners = {"policy": policy, "actor": getattr(policy, "actor", None), "critic": getattr(policy, "critic", None)}
    found = {name: getattr(owner, "optimizer", None) for name, owner in owners.items()}
    return {name: optimizer for name, optimizer in found.items() if isinstance(optimizer, Optimizer)}


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters of an optimizer, in its own order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def forget(optimizer: Optimizer) -> None:
    """Let an optimizer start over."""
    optimizer.state = defaultdict(dict)


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return all that an optimizer remembers, by the number of the parameter and the name of the quantity.

    Plain numbers, which some optimizers count in, become tensors under a name that ends in ``#``.
    """
    out: dict[str, Tensor] = {}
    for number, parameter in enumerate(parameters_of(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                out[f"{number}/{name}"] = value
            elif value is not None:
                out[f"{number}/{name}#"] = torch.tensor(value)
    return out


def load_state(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take up copies of what :func:`state_tensors` returned.

    :raises ValueError: when it is another optimizer's.
    """
    forget(optimizer)
    parameters = parameters_of(optimizer)
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        if int(number) >= len(parameters):
            raise ValueError(f"the saved optimizer does not fit: it has a parameter number {number}")
        state = optimizer.state[parameters[int(number)]]
        if name.endswith("#"):
            state[name[:-1]] = tensor.item()
            continue
        parameter = parameters[int(number)]
        # A count of steps stays where torch keeps it, on the host.
        state[name] = tensor.detach().clone() if tensor.dim() == 0 else tensor.detach().to(parameter.device).clone()
