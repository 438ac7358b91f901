"""Noticing that an agent is beyond repair, before its last good checkpoint is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


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


def report(name: str, agent: Any) -> str:
    """Return the sentence that tells of it."""
    return (
        f"the agent's parameter {name!r} is not finite at {agent.num_timesteps} steps: its own loss has diverged, "
        "or an observation or a reward was not finite (distillation never lets a non-finite gradient through). "
        "Lower the learning rate, clip rewards or gradients, or look at the environment with SB3's VecCheckNan"
    )


def refuse(agent: Any) -> None:
    """Raise when a parameter of the agent's policy is not finite.

    :raises ValueError: naming it, as torch's checks of the action distribution would.
    """
    name = nonfinite_parameter(agent)
    if name is not None:
        raise ValueError(report(name, agent))


def no_action(policy: nn.Module, observations: Tensor) -> ValueError:
    """Return the error of a policy whose answer to some observations is not a number: it says which is to blame."""
    if not bool(torch.isfinite(observations).all()):
        return ValueError(
            "the agent was given an observation that is not finite, and did not act on it. Repair the environment or "
            "its wrappers: SB3's VecCheckNan finds where it comes from"
        )
    name = _nonfinite(policy)
    if name is not None:
        return ValueError(
            f"the agent's parameter {name!r} is not finite, and it did not act: its own loss has diverged. "
            "Lower the learning rate, or clip rewards or gradients"
        )
    return ValueError(
        "the agent's action is not a number, though its observation and its parameters are finite: they are too large. "
        "Normalize observations, with SB3's VecNormalize for instance, or lower the learning rate"
    )
