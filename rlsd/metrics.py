"""What TensorBoard shows of a distillation. Every metric is explained in docs/metrics.md."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from rlsd.plain import SavedState, State


class Metrics:
    """Metrics since the last line of the log: sums that stay on the device until they are read together, once.

    :param device: where the losses are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seconds = 0.0
        self._since = time.perf_counter()

    def add(self, key: str, value: Tensor) -> None:
        """Add a scalar tensor to the mean of a metric, without waiting for it."""
        value = value.detach()
        self._sums[key] = self._sums[key] + value if key in self._sums else value
        self._counts[key] = self._counts.get(key, 0) + 1

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time spent inside towards ``time/distill_fraction``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    def means(self) -> dict[str, float]:
        """Read the means since the last :meth:`restart`, with one transfer from the device."""
        return {key: total / self._counts[key] for key, total in self._read().items()}

    def fraction(self) -> float:
        """Return the share of the time since the last :meth:`restart` that distillation took."""
        return min(self._seconds / max(time.perf_counter() - self._since, 1e-9), 1.0)

    def state(self) -> dict[str, list[float]]:
        """Return sums and counts as plain data, with one transfer from the device; no times."""
        return {key: [total, float(self._counts[key])] for key, total in self._read().items()}

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        """Load what :meth:`state` returned."""
        self._sums = {key: torch.tensor(total, device=self._device) for key, (total, _) in state.items()}
        self._counts = {key: int(count) for key, (_, count) in state.items()}

    def _read(self) -> dict[str, float]:
        values = torch.stack([s.float() for s in self._sums.values()]).tolist() if self._sums else []
        return dict(zip(self._sums, values, strict=True))

    def restart(self) -> None:
        """Begin new means."""
        self._sums, self._counts = {}, {}
        self._seconds, self._since = 0.0, time.perf_counter()


@dataclass
class Activity:
    """Counts the agent's updates, and of them those in which a penalty was injected.

    :param updates: calls of the agent's ``train()``, or ARS's updates.
    :param pulled: how many of them had a penalty.
    :param first: environment steps at the first of these, None before.
    :param last: environment steps at the latest of these.
    """

    updates: int = 0
    pulled: int = 0
    first: int | None = None
    last: int | None = None

    def count(self, pulled: bool, steps: int) -> None:
        """Count an update that has just ended.

        :param pulled: whether it had a penalty.
        :param steps: the agent's environment steps.
        """
        self.updates += 1
        if pulled:
            self.pulled += 1
            self.first, self.last = steps if self.first is None else self.first, steps

    def __str__(self) -> str:
        if self.pulled:
            return f"pulled in {self.pulled:,} of {self.updates:,} updates, steps {self.first:,} to {self.last:,}"
        return f"idle in all {self.updates:,} updates" if self.updates != 1 else "idle in its one update"

    def state(self) -> State:
        """Return it as plain data."""
        return asdict(self)

    def load(self, state: SavedState) -> None:
        """Load what :meth:`state` returned."""
        for name in asdict(self):
            value = state.get(name)
            setattr(self, name, None if value is None else int(value))
        self.updates, self.pulled = self.updates or 0, self.pulled or 0
