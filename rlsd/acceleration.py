"""What may make an agent train faster, as the doors see it. :mod:`rlsd.speed` registers itself here."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from stable_baselines3.common.base_class import BaseAlgorithm


class SpeedLike(Protocol):
    """Which parts are on, see :class:`rlsd.Speed`."""

    @property
    def exact(self) -> bool:
        """Whether training is that of plain SB3, bit for bit."""


class Acceleration(Protocol):
    """The acceleration of one agent. It keeps no reference to the agent: every method is handed it again."""

    def check(self, agent: BaseAlgorithm) -> None:
        """Raise :class:`ValueError` when the agent cannot be accelerated so."""

    def learning(self, agent: BaseAlgorithm) -> AbstractContextManager[None]:
        """Have the parts in place that last for a whole ``learn``."""

    def collecting(self, agent: BaseAlgorithm) -> AbstractContextManager[None]:
        """Have the parts in place that last for one rollout."""

    def update(self, agent: BaseAlgorithm, train: partial[None]) -> None:
        """Do what ``train``, the agent's own with its arguments, would do."""

    def as_trained(self, agent: BaseAlgorithm) -> AbstractContextManager[None]:
        """Let the agent be on its training device, for what is made of it in the middle of a rollout."""

    def state_of(self, agent: BaseAlgorithm) -> dict[str, Any]:
        """Return the agent's attributes, to copy it by, as they are between rollouts."""

    def release(self, agent: BaseAlgorithm) -> None:
        """Leave nothing of it on the agent."""


class Maker(Protocol):
    """Makes an acceleration of what was asked for."""

    def __call__(self, speed: str | SpeedLike | None, rollout_device: str | torch.device | None) -> Acceleration | None:
        """Return it, None for plain SB3's training; raise :class:`ValueError` when an argument is wrong."""


_MAKERS: list[Maker] = []


def register(maker: Maker) -> None:
    """Have ``maker`` make the accelerations from now on."""
    _MAKERS[:] = [maker]


def accelerator_for(speed: str | SpeedLike | None, rollout_device: str | torch.device | None) -> Acceleration | None:
    """Return the acceleration that the arguments of the doors ask for, None for plain SB3's training.

    :raises ValueError: when one is wrong.
    """
    if not _MAKERS:
        # It registers as it is imported with the public names, and who asks may have imported wrapping.py alone.
        importlib.import_module("rlsd.api")
    return _MAKERS[0](speed, rollout_device)
