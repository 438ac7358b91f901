"""Taking the weights, and nothing else, out of an SB3 zip that may come from anybody.

SB3's ``load`` unpickles the zip's ``data`` entry, which can run any code. Here only the tensors are read, without an
unpickler, and each is compared with the agent's own by name, shape, number type and range before any is taken over.
"""

from __future__ import annotations

import copy
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from rlsd.io.archives import check_sizes
from rlsd.io.checkpoint import existing
from rlsd.io.tensor_files import Outline, TensorFile, kind, outline, plain, size_of

#: What is never below 0, by the last part of its name: counts, variances, an optimizer's means of squares.
_NEVER_NEGATIVE = frozenset(
    [
        *("step", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "acc_delta", "sum", "mu_product"),
        *("running_var", "num_batches_tracked", "ra_var", "steps"),  # the last two in CrossQ
    ]
)
#: Of ``log_std`` and the like: beyond it a float of 32 bits is 0 or infinite.
_LARGEST_LOGARITHM = 87.0
#: Beyond it a float of 64 bits counts no more.
_MOST_STEPS = 2**53


def load_weights(path: str | os.PathLike[str], agent: BaseAlgorithm) -> None:
    """Put the weights of a saved agent into an agent that exists, without running code from the file.

    The agent must be built alike: same algorithm, spaces and networks. Its hyperparameters, buffers and distillation
    stay its own.

    :param path: an SB3 zip, with or without rlsd's entries, compressed or not.
    :param agent: takes the weights, the optimizer's state and variables such as SAC's entropy coefficient.
    :raises FileNotFoundError: when there is no such file.
    :raises ValueError: when the file is damaged or holds other tensors than the agent's, or numbers that no training
        leaves, such as NaN or a negative variance; the agent is unchanged then.
    """
    names, variables = agent._get_torch_save_params()
    own: Any = agent.get_parameters()
    file = existing(path)
    found: dict[str, Any] = {}
    extra: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            check_sizes(archive)
            for name in names:
                if name.endswith("optimizer"):
                    found[name] = _read_optimizer(archive, name, recursive_getattr(agent, name))
                else:
                    found[name] = read_tensors(archive, name, own[name])
            if variables:
                extra = _read_variables(archive, {name: recursive_getattr(agent, name) for name in variables})
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: {_in_short(error)}") from error
    except Exception as error:  # whatever a damaged file makes zipfile raise
        raise ValueError(f"{file} is damaged: {type(error).__name__}: {_in_short(error)}") from error
    _put(agent, found, extra, file)


def read_tensors(archive: zipfile.ZipFile, name: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a zip's entry ``name.pth``, which must be like ``own`` in names, shapes and number types.

    :raises ValueError: when they are not, or hold numbers that no training leaves.
    """
    file = _open(archive, f"{name}.pth", len(own), size_of(own.values()))
    return _like(name, file, _mapping(file.content, f"its entry '{name}.pth'"), own)


def _put(agent: BaseAlgorithm, found: Any, extra: Mapping[str, Tensor], file: Any) -> None:
    """Change the agent, and change it back when it does not take what was found to fit."""
    before: Any = copy.deepcopy(agent.get_parameters())
    held = {name: recursive_getattr(agent, name).detach().clone() for name in extra}
    try:
        agent.set_parameters(found, exact_match=True, device=agent.device)
        for name, value in extra.items():
            recursive_getattr(agent, name).data.copy_(value)
    except Exception as error:  # a policy or an optimizer of anybody's
        agent.set_parameters(before, exact_match=True, device=agent.device)
        for name, value in held.items():
            recursive_getattr(agent, name).data.copy_(value)
        raise ValueError(f"{file} does not fit this agent: {type(error).__name__}: {_in_short(error)}") from error
    if "weights" in extra:  # ARS: the policy is made from its weights, which were just replaced
        agent.weights = parameters_to_vector(agent.policy.parameters()).detach()  # type: ignore[attr-defined]


def _open(archive: zipfile.ZipFile, entry: str, count: int, size: int) -> TensorFile:
    try:
        return TensorFile(archive, entry, count, size)
    except KeyError:
        raise ValueError(f"it has no entry {entry!r}: it is not of this algorithm") from None
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"its entry {entry!r} is damaged: {_in_short(error)}") from error


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    value = plain(value)
    if type(value) is not dict:
        raise ValueError(f"{where} holds a {kind(value)}, not named tensors")
    return value


def _read_variables(archive: zipfile.ZipFile, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    entry = "pytorch_variables.pth"
    file = _open(archive, entry, len(own), size_of(own.values()))
    found = _mapping(file.content, f"its entry {entry!r}")
    # None stands for one that the writer had not; SB3 passes it by too.
    given = {name: value for name, value in found.items() if name in own and value is not None}
    wanted = {name: tensor for name, tensor in own.items() if name not in found or name in given}
    return _like("variables", file, given, wanted)


def _read_optimizer(archive: zipfile.ZipFile, name: str, own: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state, which must be what this one keeps: the same names, shapes and number types."""
    expected = _kept(own)
    tensors = [value for kept in expected for value in kept.values() if isinstance(value, Tensor)]
    file = _open(archive, f"{name}.pth", len(tensors) + len(expected), size_of(tensors))
    content = _mapping(file.content, f"its entry '{name}.pth'")
    groups, state = content.get("param_groups"), plain(content.get("state"))
    if type(groups) is not list or type(state) is not dict:
        raise ValueError(f"{name} does not fit this agent: it has no 'param_groups' or no 'state'")
    lists = [plain(group).get("params") if type(plain(group)) is dict else None for group in groups]
    count = sum(len(params) if type(params) is list else 0 for params in lists)
    if count != len(expected) or not all(type(key) is int and 0 <= key < count for key in state):
        raise ValueError(f"{name} does not fit this agent: it is for {count} parameters, {len(expected)} expected")
    read = {}
    for number, values in state.items():
        where = f"{name}, parameter {number}"
        given = {key: value for key, value in _mapping(values, where).items() if value is not None}
        wanted = {key: value for key, value in expected[number].items() if value is not None}
        read[number] = _like(where, file, given, wanted)
    # The learning rate and other settings stay the agent's own: a file could say anything.
    return {"state": read, "param_groups": own.state_dict()["param_groups"]}


def _kept(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return an optimizer's state of each parameter after a step."""
    stepped = copy.deepcopy(optimizer)
    parameters = [parameter for group in stepped.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    stepped.step()
    return [stepped.state[parameter] for parameter in parameters]


def _like(where: str, file: TensorFile, found: Mapping[Any, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the found tensors in the form of the agent's own.

    :raises ValueError: for the first that cannot be.
    """
    for name in sorted(found.keys() ^ own.keys(), key=str):
        side = "the agent has it and the file does not" if name in own else "the file has it and the agent does not"
        raise ValueError(f"{where} does not fit this agent: {str(name)[:200]!r}, {side}")
    return {
        name: _one(f"{where} does not fit this agent: {name!r}", name.rpartition(".")[2], file, found[name], own[name])
        for name in own
    }


def _one(where: str, name: str, file: TensorFile, found: Any, own: Any) -> Any:
    read = found if type(found) in (int, float) else outline(found)
    # A count of steps is a number or a tensor, by optimizer and torch's version.
    if not isinstance(own, Tensor) or (own.shape == () and own.is_floating_point()):
        if isinstance(read, Outline) and read.shape == ():
            read = file.tensor(read).item()
        if type(read) not in (int, float):
            raise ValueError(f"{where} is {_described(read, found)}, a number expected")
        number: Any = read
        _check_range(where, name, number, number)
        if name == "step" and (number > _MOST_STEPS or number != int(number)):
            raise ValueError(f"{where} is no count of steps")
        return torch.tensor(number, dtype=own.dtype) if isinstance(own, Tensor) else type(own)(number)
    if not isinstance(read, Outline) or read.shape != tuple(own.shape) or read.dtype != own.dtype:
        raise ValueError(f"{where} is {_described(read, found)}, {tuple(own.shape)} {own.dtype} expected")
    tensor = file.tensor(read)
    if tensor.numel() and tensor.dtype != torch.bool:
        _check_range(where, name, float(tensor.min()), float(tensor.max()))
    return tensor


def _check_range(where: str, name: str, lowest: float, highest: float) -> None:
    try:
        finite = math.isfinite(lowest) and math.isfinite(highest)
    except OverflowError:  # a whole number too large for a float
        finite = False
    if not finite:
        raise ValueError(f"{where} is not finite")
    if lowest < 0 and name in _NEVER_NEGATIVE:
        raise ValueError(f"{where} is {lowest:g}, which is never below 0")
    if name.startswith("log_") and max(-lowest, highest) > _LARGEST_LOGARITHM:
        raise ValueError(f"{where} is from {lowest:g} to {highest:g}, and would be 0 or infinite without the logarithm")


def _described(read: Any, found: Any) -> str:
    if not isinstance(read, Outline):
        return kind(found)
    shape = str(read.shape)
    return f"{shape if len(shape) < 100 else shape[:100] + '...'} {read.dtype}"


def _in_short(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
