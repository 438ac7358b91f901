"""What all kinds of workers are told."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rlsd.scaling.fleet import Fleet, Site


@dataclass(frozen=True)
class Workers(ABC):
    """How many workers there are, and how they collect: see :class:`rlsd.RayWorkers`."""

    n: int
    envs_per_worker: int = 1
    fragment: int = 32
    overlap: bool = False
    block: int = 16
    infos: str = "ended"

    def __post_init__(self) -> None:
        lowest = {"n": 1, "envs_per_worker": 1, "fragment": 1, "block": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.infos not in ("ended", "all"):
            raise ValueError(f"infos must be 'ended' or 'all', got {self.infos!r}")

    @property
    def n_envs(self) -> int:
        """Environments of all workers together."""
        return self.n * self.envs_per_worker

    @abstractmethod
    def fleet(self, sites: Sequence[Site]) -> Fleet:
        """Start the workers."""
