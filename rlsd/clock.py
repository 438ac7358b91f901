"""Environment steps through all calls of ``learn()``, each of which may count them anew."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.plain import SavedState, State


class StepCounter:
    """An agent's environment steps, added up through all calls of ``learn()``.

    The distiller of an agent has one and hands it to all who count steps. It begins with those that the agent has made.
    """

    def __init__(self) -> None:
        self._total = 0
        self._seen = 0  # SB3's count when it was last looked at

    def steps(self, agent: BaseAlgorithm) -> int:
        """Return the agent's steps by now. None were made where its count was set back since the last look."""
        now = agent.num_timesteps
        self._total += max(now - self._seen, 0)
        self._seen = now
        return self._total

    def rebase(self, agent: BaseAlgorithm) -> None:
        """Called when SB3's count was set to another number, and not by steps."""
        self._seen = agent.num_timesteps

    def state(self) -> State:
        """Return where it stands, as plain data."""
        return {"total": self._total, "seen": self._seen}

    def load(self, agent: BaseAlgorithm, state: SavedState) -> None:
        """Load what :meth:`state` returned."""
        self._total, seen = int(state["total"]), int(state["seen"])
        self._seen = seen if seen <= agent.num_timesteps else 0  # saved by a learn() that had just begun anew
