"""Environments that offer to collect for an agent by themselves, where SB3 would step them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from stable_baselines3.common.vec_env import VecEnv


class Collecting(Protocol):
    """What such an environment, the innermost, has."""

    def check_agent(self, agent: Any) -> None:
        """Raise :class:`ValueError` when it cannot collect for an agent as SB3 would."""

    def collecting(self, agent: Any) -> AbstractContextManager[VecEnv]:
        """Give what SB3's loop is to step, for one ``collect_rollouts``."""

    def drawn(self, agent: Any) -> tuple[Any, Any]:
        """Return the actions of an off-policy agent's next step, and as its replay buffer keeps them."""


def collector_in(env: VecEnv | None) -> Collecting | None:
    """Return the environment at the bottom when it collects by itself, None where SB3 steps it."""
    base: Any = None if env is None else env.unwrapped
    return cast(Collecting, base) if hasattr(base, "collecting") else None
