"""The door to acceleration: for agents that exist, and for those that :func:`SelfDistilled`'s class builds."""

from __future__ import annotations

from typing import TypeVar

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd import acceleration
from rlsd.acceleration import SpeedLike
from rlsd.devices import usable_device
from rlsd.speed import replay
from rlsd.speed.accelerator import Accelerator
from rlsd.speed.parts import NOTHING, Speed, resolve_speed
from rlsd.wrapping import SelfDistilled, is_wrapped, undistill

AgentT = TypeVar("AgentT", bound=BaseAlgorithm)


def accelerate(
    agent: AgentT, speed: str | Speed | None = "exact", rollout_device: str | torch.device | None = None
) -> AgentT:
    """Make an agent that exists train faster, in place, and return the agent. It may be distilled or not.

    ``"exact"`` leaves out only what changes no bit: the agent trains to the same parameters as plain SB3. ``None`` for
    both is the way back. Not for the middle of a ``learn``.

    :param speed: ``"exact"``, ``"max"``, which may also round otherwise, a :class:`Speed` that names the parts, or
        ``None`` for none of them.
    :param rollout_device: where the agent acts, when not where it trains: ``"cpu"`` beside a GPU.
    :raises TypeError: when it is no agent.
    :raises ValueError: when an argument is wrong, this machine has no such device, or the algorithm cannot act there.
    """
    if not isinstance(agent, BaseAlgorithm):
        raise TypeError(f"accelerate takes an SB3 agent, got {agent!r}")
    accelerator = made(speed, rollout_device)
    if accelerator is None:
        replay.give_back(agent, device_too=True)
        if is_wrapped(type(agent)):
            agent.accelerator = None  # type: ignore[attr-defined]
            idle = agent.distiller is None and agent.weight_average is None  # type: ignore[attr-defined]
            return undistill(agent) if idle else agent
        return agent
    accelerator.check(agent)
    if not is_wrapped(type(agent)):
        agent.__class__ = SelfDistilled(type(agent))
        agent.distiller = agent._distill_config = None  # type: ignore[attr-defined]
    agent.accelerator = accelerator  # type: ignore[attr-defined]
    return agent


def made(speed: str | SpeedLike | None, rollout_device: str | torch.device | None) -> Accelerator | None:
    """Return the accelerator that is meant, None for plain SB3's training.

    :raises ValueError: when an argument is wrong, or this machine has no such device.
    """
    device = None if rollout_device is None else usable_device("rollout_device", rollout_device)
    parts = resolve_speed(speed)
    return None if parts is None and device is None else Accelerator(parts or NOTHING, device)


acceleration.register(made)
