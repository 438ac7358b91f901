"""The updates of SAC, TD3, DDPG and DQN, owned: what SB3's ``train`` computes, by gradients derived by hand.

They are copies of SB3's loops, deliberately, and held equal to them by tests. Gradients by hand are moreover compared
with autograd's once for every policy; where a bit differs, or anything is not known here, SB3's own update runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

from rlsd.speed import update_dqn, update_sac, update_td3
from rlsd.speed.off_policy_base import Update
from rlsd.speed.replay import TensorReplayBuffer

_BUFFERS = (ReplayBuffer, TensorReplayBuffer, NStepReplayBuffer)
#: Of the largest entry: what hand and autograd may differ by when they need not be equal.
TOLERANCE = 1e-4


class Maker(Protocol):
    """Makes an update for an agent."""

    def __call__(self, agent: Any, rows: int, quick: bool) -> Update | None:
        """Return it, None when the agent must be left to SB3."""


#: By the class whose ``train`` it stands for; DDPG's is TD3's.
_MAKERS: dict[type[OffPolicyAlgorithm], Maker] = {SAC: update_sac.make, TD3: update_td3.make, DQN: update_dqn.make}
_UPDATES: WeakKeyDictionary[BasePolicy, tuple[tuple[int, bool], Update]] = WeakKeyDictionary()


def train(agent: Any, exact: bool, call: partial[None]) -> bool:
    """Do an agent's update in place of its ``train``.

    :param exact: leave parameters, optimizers and log as SB3 would, to the last bit. If False, they are equal up to
        rounding.
    :param call: its ``train`` with the arguments.
    :return: whether it was done; if not, nothing was changed.
    """
    owner = next((cls for cls in _MAKERS if isinstance(agent, cls)), None)
    if owner is None or not _trains_as(agent, owner):
        return False
    gradient_steps, batch_size = _arguments(64 if owner is SAC else 100, *call.args, **call.keywords)
    update = _update_of(agent, _MAKERS[owner], batch_size, not exact)
    if update is None:
        return False
    agent.policy.set_training_mode(True)
    optimizers = update.optimizers(agent)
    agent._update_learning_rate(optimizers)
    with torch.no_grad(), _engaged(update, optimizers):
        for number in range(gradient_steps):
            data = agent.replay_buffer.sample(batch_size, env=agent._vec_normalize_env)
            update.step(agent, data, agent.gamma if data.discounts is None else data.discounts, number)
    update.record(agent, gradient_steps)
    return True


@contextmanager
def _engaged(update: Update, optimizers: list[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for adam, optimizer in zip(update.adams, optimizers, strict=True):
            stack.enter_context(adam.engaged(optimizer))
        update.bind()
        yield


def _arguments(usual: int, gradient_steps: int, batch_size: int | None = None) -> tuple[int, int]:
    return gradient_steps, usual if batch_size is None else batch_size


def _update_of(agent: Any, make: Maker, rows: int, quick: bool) -> Update | None:
    known = _UPDATES.get(agent.policy)
    if known is not None and known[0] == (rows, quick) and _fits(known[1], agent):
        return known[1]
    _UPDATES.pop(agent.policy, None)
    plain = agent.device.type == "cpu" and type(agent.replay_buffer) in _BUFFERS
    if not plain or isinstance(agent.observation_space, spaces.Dict):
        return None
    made = make(agent, rows, quick)
    if made is None or not _agrees(made, agent, quick):
        return None
    _UPDATES[agent.policy] = (rows, quick), made
    return made


def _trains_as(agent: Any, owner: type) -> bool:
    # The classes that rlsd makes only wrap the method of the class below them.
    owners = [cls for cls in type(agent).__mro__ if "train" in cls.__dict__ and not cls.__module__.startswith("rlsd.")]
    return owners[0] is owner and "train" not in agent.__dict__


def _fits(update: Update, agent: Any) -> bool:
    optimizers = update.optimizers(agent)
    return (
        update.unchanged()
        and type(agent.replay_buffer) in _BUFFERS
        and len(optimizers) == len(update.adams)
        and all(adam.fits(optimizer) for adam, optimizer in zip(update.adams, optimizers, strict=True))
    )


@torch.no_grad()
def _agrees(update: Update, agent: Any, quick: bool) -> bool:
    """Tell whether the gradients by hand are autograd's, to the last bit unless ``quick``."""
    update.bind()
    with np.errstate(all="ignore"), torch.enable_grad():
        for ours, theirs in update.compare(agent):
            for one, other in zip(ours, theirs, strict=True):
                if not (
                    bool((one - other).abs().max() <= TOLERANCE * other.abs().max()) if quick else one.equal(other)
                ):
                    return False
    return True
