"""Leaving out torch's checks of distribution arguments while an agent learns, and the threads it learns with.

Leaving out the checks is bit-identical: they compute nothing that training uses. They are left out of an on-policy
agent's update only, whose observations have been acted on before. What they were good for there, an error as soon as a
network gives NaN, is done between rollouts by looking at the parameters (:mod:`rlsd.faults`).

One thread is not promised to be bit-identical: a sum split among threads may round otherwise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

#: Parameters up to which a network of linear layers is small: its work is too little to be worth the threads' meeting.
SMALL = 200_000

_SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_THREADS_AT_IMPORT = torch.get_num_threads()


class _Off:
    """Counts who needs the checks off, and who on: agents may learn in several threads, or one inside the other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = self.needing = 0
        self.before: bool = __debug__

    def count(self, users: int = 0, needing: int = 0) -> None:
        """Record some more or fewer, and switch the checks accordingly."""
        with self.lock:
            if self.users == 0:
                self.before = Distribution._validate_args
            self.users += users
            self.needing += needing
            Distribution.set_default_validate_args(self.before and (self.users == 0 or self.needing > 0))


_OFF = _Off()


@contextmanager
def no_validation() -> Iterator[None]:
    """Leave out torch's checks of distribution arguments; when the last one inside is done, they are as before."""
    _OFF.count(users=1)
    try:
        yield
    finally:
        _OFF.count(users=-1)


@contextmanager
def validation() -> Iterator[None]:
    """Have the checks, if there were any, within :func:`no_validation`."""
    _OFF.count(needing=1)
    try:
        yield
    finally:
        _OFF.count(needing=-1)


@contextmanager
def one_thread(agent: Any) -> Iterator[None]:
    """Give torch one thread when the agent's networks are small and on the CPU; then as many as before.

    A choice that was made stays: ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` in the environment, or another number of
    threads than torch had when rlsd was imported.
    """
    before = torch.get_num_threads()
    chosen = any(name in os.environ for name in _SET_BY_USER) or before != _THREADS_AT_IMPORT
    if chosen or before == 1 or not is_small(agent):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_small(agent: Any) -> bool:
    """Tell whether an agent's networks are linear layers on the CPU with few parameters."""
    policy: nn.Module = agent.policy
    if agent.device.type != "cpu" or any(isinstance(module, nn.Conv2d) for module in policy.modules()):
        return False
    return sum(parameter.numel() for parameter in policy.parameters()) <= SMALL
