"""Noticing that an agent is beyond repair, before its last good checkpoint is."""

from __future__ import annotations

from typing import Any

import torch


def nonfinite_parameter(agent: Any) -> str | None:
    """Return the name of a parameter of the agent's policy that is not finite, None when all are.

    Waits for the device once when all is well.
    """
    named = [(name, p.detach()) for name, p in agent.policy.named_parameters()]
    if not named or bool(torch.isfinite(torch.stack(torch._foreach_norm([p for _, p in named]))).all()):
        return None
    return next((name for name, p in named if not bool(torch.isfinite(p).all())), None)


def report(name: str, agent: Any) -> str:
    """Return the sentence that tells of it."""
    return (
        f"the agent's parameter {name!r} is not finite at {agent.num_timesteps} steps: its own loss has diverged "
        "(distillation never lets a non-finite gradient through). Lower the learning rate, or clip rewards or gradients"
    )


def refuse(agent: Any) -> None:
    """Raise when a parameter of the agent's policy is not finite.

    :raises ValueError: naming it, as torch's checks of the action distribution would.
    """
    name = nonfinite_parameter(agent)
    if name is not None:
        raise ValueError(report(name, agent))
