"""Noticing that an agent is beyond repair, before its last good checkpoint is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Numbers that are looked at together: a large replay buffer is never copied whole.
_CHUNK = 2**18


class NotFinite(ValueError):
    """An agent has become useless: a number in it, or in what it was given, is not finite."""


def nonfinite_parameter(agent: Any) -> str | None:
    """Return the name of a parameter of the agent's policy that is not finite, None when all are.

    Waits for the device once when all is well.
    """
    return _nonfinite(agent.policy)


def _nonfinite(policy: nn.Module) -> str | None:
    named = [(name, p.detach()) for name, p in policy.named_parameters()]
    if not named or bool(torch.isfinite(torch.stack(torch._foreach_norm([p for _, p in named]))).all()):
        return None
    return next((name for name, p in named if not bool(torch.isfinite(p).all())), None)


def in_zip(agent: Any) -> str | None:
    """Name the first part of an agent's zip that is not finite, None when all is."""
    name = nonfinite_parameter(agent)
    return f"parameter {name!r}" if name is not None else next(_broken_in_zip(agent), None)


def in_best(agent: Any) -> str | None:
    """Name the first part of an agent and its running statistics that is not finite, None when all is."""
    return in_zip(agent) or next(_broken_in_statistics(agent), None)


def in_checkpoint(agent: Any) -> str | None:
    """Name the first part of a checkpoint that is not finite, None when all is."""
    return in_best(agent) or next(_broken_in_memories(agent), None)


def _broken_in_zip(agent: Any) -> Iterator[str]:
    names, variables = agent._get_torch_save_params()
    # A policy may hold infinities on purpose, such as a mask of attention; what it has seen of its input may not.
    constants = {name.rpartition(".")[2] for name, _ in agent.policy.named_buffers() if "running_" not in name}
    distiller = getattr(agent, "distiller", None)
    found: list[tuple[str, Any]] = []
    for name in names:
        found += [(f"{name} {key}", value) for key, value in _numbers(_attribute(agent, name).state_dict())]
    found += [(f"variable {name}", _attribute(agent, name)) for name in variables]
    found += [(f"distillation {name}", tensor) for name, tensor in (distiller.tensors() if distiller else {}).items()]
    for name, value in found:
        if isinstance(value, Tensor) and value.is_floating_point():
            fine = ~value.isnan() if re.split("[ ./]", name)[-1] in constants else value.isfinite()
            if not bool(fine.all()):
                yield name
        elif isinstance(value, float) and not math.isfinite(value):
            yield name
    for name in ("_last_obs", "_last_original_obs"):
        for key, array in _numbers(getattr(agent, name, None)):
            if _any_bad(array):
                yield f"last observation {key}".rstrip()
    if any(not math.isfinite(episode["r"]) for episode in agent.ep_info_buffer or ()):
        yield "return of a recent episode"


def _broken_in_statistics(agent: Any) -> Iterator[str]:
    normalize = agent.get_vec_normalize_env()
    if normalize is None:
        return
    for key, array in _numbers({name: vars(normalize).get(name) for name in ("obs_rms", "ret_rms", "returns")}):
        if _any_bad(array):
            yield f"VecNormalize's {key}"


def _broken_in_memories(agent: Any) -> Iterator[str]:
    buffer = getattr(agent, "replay_buffer", None)
    if buffer is not None:
        rows = buffer.size()
        # What is hidden are the same numbers once more, as tensors.
        for key, array in _numbers({name: part for name, part in vars(buffer).items() if not name.startswith("_")}):
            if _any_bad(array, rows if np.shape(array)[:1] == (buffer.buffer_size,) else None):
                yield f"replay buffer's {key}"
    for key, value in _numbers(getattr(agent, "_last_lstm_states", None)):
        if _any_bad(value):
            yield f"recurrent memory {key}"


def _attribute(agent: Any, name: str) -> Any:
    for part in name.split("."):
        agent = getattr(agent, part)
    return agent


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield tensors, arrays and numbers within containers, and within running means and variances, by name."""
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    elif hasattr(value, "mean") and hasattr(value, "var") and hasattr(value, "count"):
        parts = vars(value).items()
    else:
        if isinstance(value, float) or hasattr(value, "__array__"):
            yield name, value
        return
    for key, part in parts:
        yield from _numbers(part, f"{name}.{key}" if name else str(key))


def _any_bad(array: Any, rows: int | None = None) -> bool:
    """Tell whether one of the first rows is not finite. Looks at a part at a time, where they lie."""
    if isinstance(array, float):
        return not math.isfinite(array)
    if isinstance(array, Tensor):
        return not bool(array.isfinite().all())
    if array.dtype.kind != "f":
        return False
    if not np.shape(array):
        return not np.isfinite(array)
    rows = len(array) if rows is None else rows
    step = max(_CHUNK // max(math.prod(array.shape[1:]), 1), 1)
    return any(not np.isfinite(np.asarray(array[i : min(i + step, rows)])).all() for i in range(0, rows, step))


def report(what: str, agent: Any) -> str:
    """Return the sentence that tells of it."""
    return (
        f"the agent's {what} is not finite at {agent.num_timesteps} steps: its own loss has diverged, "
        "or an observation or a reward was not finite (distillation never lets a non-finite gradient through). "
        "Lower the learning rate, clip rewards or gradients, or look at the environment with SB3's VecCheckNan"
    )


def refuse(agent: Any) -> None:
    """Raise when a parameter of the agent's policy is not finite.

    :raises NotFinite: naming it, as torch's checks of the action distribution would.
    """
    name = nonfinite_parameter(agent)
    if name is not None:
        raise NotFinite(report(f"parameter {name!r}", agent))


def no_action(policy: nn.Module, observations: Tensor) -> NotFinite:
    """Return the error of a policy whose answer to some observations is not a number: it says which is to blame."""
    if not bool(torch.isfinite(observations).all()):
        return NotFinite(
            "the agent was given an observation that is not finite, and did not act on it. Repair the environment or "
            "its wrappers: SB3's VecCheckNan finds where it comes from"
        )
    name = _nonfinite(policy)
    if name is not None:
        return NotFinite(
            f"the agent's parameter {name!r} is not finite, and it did not act: its own loss has diverged. "
            "Lower the learning rate, or clip rewards or gradients"
        )
    return NotFinite(
        "the agent's action is not a number, though its observation and its parameters are finite: they are too large. "
        "Normalize observations, with SB3's VecNormalize for instance, or lower the learning rate"
    )
