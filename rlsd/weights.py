"""Taking the weights, and nothing else, out of an SB3 zip that may come from anybody.

SB3's ``load`` unpickles the zip's ``data`` entry, which can run any code. Here only the tensors are read, and each is
compared with the agent's own by name, shape and number type before any is taken over.
"""

from __future__ import annotations

import copy
import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from rlsd.checkpoint import check_sizes, existing


def load_weights(path: str | os.PathLike[str], agent: BaseAlgorithm) -> None:
    """Put the weights of a saved agent into an agent that exists, without running code from the file.

    The agent must be built alike: same algorithm, spaces and networks. Its hyperparameters, buffers and distillation
    stay its own.

    :param path: an SB3 zip, with or without rlsd's entries.
    :param agent: takes the weights, the optimizer's state and variables such as SAC's entropy coefficient.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when the file is damaged or holds other tensors than the agent's; the agent is unchanged then.
    """
    names, variables = agent._get_torch_save_params()
    own: Any = agent.get_parameters()
    file = existing(path)
    try:
        with zipfile.ZipFile(file) as archive:
            check_sizes(archive)
            found = {name: _read(archive, f"{name}.pth", agent) for name in names}
            extra = _read(archive, "pytorch_variables.pth", agent) if variables else {}
        for name in names:
            if name.endswith("optimizer"):
                optimizer = recursive_getattr(agent, name)
                _compare_optimizer(name, found[name], optimizer)
                # The learning rate and other settings stay the agent's own: a file could say anything.
                found[name]["param_groups"] = optimizer.state_dict()["param_groups"]
            else:
                _compare(name, found[name], own[name])
        extra = {name: extra[name] for name in variables if extra.get(name) is not None}
        _compare("variables", extra, {name: recursive_getattr(agent, name) for name in extra})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise ValueError(f"{file} is damaged: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    tensors: Any = found
    agent.set_parameters(tensors, exact_match=True, device=agent.device)
    for name, value in extra.items():
        recursive_getattr(agent, name).data.copy_(value)
    if "weights" in extra:  # ARS: the policy is made from its weights, which were just replaced
        agent.weights = parameters_to_vector(agent.policy.parameters()).detach()  # type: ignore[attr-defined]


def _read(archive: zipfile.ZipFile, entry: str, agent: BaseAlgorithm) -> dict[str, Any]:
    try:
        info = archive.getinfo(entry)
    except KeyError:
        raise ValueError(f"it has no entry {entry!r}: it is not of this algorithm") from None
    data = io.BytesIO(archive.read(info))
    with zipfile.ZipFile(data) as inner:  # torch trusts the sizes it finds there
        check_sizes(inner)
    data.seek(0)
    read = torch.load(data, map_location="cpu", weights_only=True)
    if not isinstance(read, dict):
        raise ValueError(f"its entry {entry!r} holds a {type(read).__name__}, not named tensors")
    return dict(read)


def _compare(where: str, found: Mapping[Any, Any], own: Mapping[Any, Any]) -> None:
    for name in sorted(found.keys() ^ own.keys(), key=str):
        side = "the agent has it and the file does not" if name in own else "the file has it and the agent does not"
        raise ValueError(f"{where} does not fit this agent: {name!r}, {side}")
    for name, tensor in own.items():
        other = found[name]
        if not isinstance(other, Tensor) or other.shape != tensor.shape or other.dtype != tensor.dtype:
            got = f"{tuple(other.shape)} {other.dtype}" if isinstance(other, Tensor) else type(other).__name__
            raise ValueError(
                f"{where} does not fit this agent: {name!r} is {got}, {tuple(tensor.shape)} {tensor.dtype} expected"
            )


def _compare_optimizer(where: str, found: Mapping[str, Any], own: torch.optim.Optimizer) -> None:
    """Check that an optimizer's state is what this one keeps: the same names, shapes and number types."""
    groups, state = found.get("param_groups"), found.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict):
        raise ValueError(f"{where} does not fit this agent: it has no 'param_groups' or no 'state'")
    expected = _kept(own)
    count = sum(len(group["params"]) for group in groups)
    if count != len(expected) or not set(state) <= set(range(count)):
        raise ValueError(f"{where} does not fit this agent: it is for {count} parameters, {len(expected)} expected")
    for number, values in state.items():
        _compare(f"{where}, parameter {number}", _as_tensors(values), _as_tensors(expected[number]))


def _kept(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return what an optimizer keeps of each parameter once it has made a step."""
    stepped = copy.deepcopy(optimizer)
    parameters = [parameter for group in stepped.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    stepped.step()
    return [stepped.state[parameter] for parameter in parameters]


def _as_tensors(values: Mapping[str, Any]) -> dict[str, Any]:
    """Make single numbers alike: the count of steps is a number or a tensor, by optimizer and torch's version."""
    number = torch.zeros(())
    return {
        name: number if isinstance(value, (int, float)) or getattr(value, "shape", None) == () else value
        for name, value in values.items()
        if value is not None
    }
