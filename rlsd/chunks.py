"""Many states through a network a few at a time: as many as there is room for, whatever network it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")

#: States that go through first, by which it is told how many may go through at a time.
FIRST = 16
#: And never more: a forward of so many is large enough for the smallest network.
LARGEST = 4096
#: Bytes of all tensors that are made of the states that go through at a time: on the host, and on another device, which
#: is idle while few go through.
_ROOM, _ROOM_ON_DEVICE = 8 * 2**20, 256 * 2**20


class _Made(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nbytes, self.room = 0, _ROOM

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view and not func._schema.is_mutable:
            for tensor in tree_leaves(made):
                if isinstance(tensor, Tensor):
                    self.nbytes += tensor.numel() * tensor.itemsize
                    self.room = _ROOM if tensor.device.type == "cpu" else _ROOM_ON_DEVICE
        return made


class Pace:
    """How many states go through a network at a time: measured on the first few, and kept.

    It is part of what is saved, since how a matrix product rounds may depend on its size.
    """

    def __init__(self) -> None:
        #: None before it was measured.
        self.at_once: int | None = None

    def load(self, at_once: Any) -> None:
        """Take up what :attr:`at_once` was."""
        self.at_once = None if at_once is None else min(max(int(at_once), 1), LARGEST)

    def measure(self, work: Callable[[], T], count: int) -> T:
        """Return the result of some work on so many states, and measure it."""
        with _Made() as made:
            result = work()
        self.load(made.room * count // max(made.nbytes, 1))
        return result

    def in_chunks(self, work: Callable[[np.ndarray], T], rows: np.ndarray) -> list[T]:
        """Return the result of some work on many states, as many at a time as there is room for.

        :param work: takes the numbers of some of the states.
        :param rows: the numbers of all.
        """
        done: list[T] = []
        if self.at_once is None and len(rows) > FIRST:
            first, rows = rows[:FIRST], rows[FIRST:]
            done.append(self.measure(lambda: work(first), FIRST))
        at_once = self.at_once or FIRST
        return done + [work(rows[start : start + at_once]) for start in range(0, len(rows), at_once)]

    def joined(self, work: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> Tensor:
        """Return :meth:`in_chunks` in one tensor, the states in its first dimension."""
        return torch.cat(self.in_chunks(work, rows))
