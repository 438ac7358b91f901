"""Leaving out torch's checks of distribution arguments while an agent learns, and the threads it learns with.

Leaving out the checks is bit-identical: they compute nothing that training uses. What they were good for, an error as
soon as a network gives NaN, is done between rollouts by looking at the parameters (:mod:`rlsd.faults`).

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
    """Counts who needs the checks off: agents may learn in several threads, or one inside the other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.before: bool = __debug__


_OFF = _Off()


@contextmanager
def no_validation() -> Iterator[None]:
    """Leave out torch's checks of distribution arguments; when the last one inside is done, they are as before."""
    with _OFF.lock:
        if _OFF.users == 0:
            _OFF.before = Distribution._validate_args
            Distribution.set_default_validate_args(False)
        _OFF.users += 1
    try:
        yield
    finally:
        with _OFF.lock:
            _OFF.users -= 1
            if _OFF.users == 0:
                Distribution.set_default_validate_args(_OFF.before)


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
