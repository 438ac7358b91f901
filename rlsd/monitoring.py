"""What TensorBoard shows of a distillation. Every figure is explained in docs/metrics.md."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor


class Figures:
    """Figures of one update: sums that stay on the device until they are read together, once.

    :param device: where the losses are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._seconds = 0.0
        self._since = time.perf_counter()
        #: The latest figures that were logged, by TensorBoard key.
        self.latest: dict[str, float] = {}

    def add(self, key: str, value: Tensor) -> None:
        """Add a scalar tensor to a figure's mean, without waiting for it."""
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
        """Read the means, with one transfer from the device, and start over."""
        values = torch.stack([s.float() for s in self._sums.values()]).tolist() if self._sums else []
        means = {key: value / self._counts[key] for key, value in zip(self._sums, values, strict=True)}
        self._sums, self._counts = {}, {}
        return means

    def fraction(self) -> float:
        """Return the share of the time since the last call that distillation took, and start over."""
        now = time.perf_counter()
        fraction = self._seconds / max(now - self._since, 1e-9)
        self._seconds, self._since = 0.0, now
        return min(fraction, 1.0)

    def log(self, logger: Logger, figures: dict[str, float]) -> None:
        """Hand the figures to SB3's logger, which writes them with its own at the next dump."""
        self.latest = figures
        for key, value in figures.items():
            logger.record(key, value)
