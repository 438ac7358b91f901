"""Environment steps through several calls of ``learn()``, each of which may count them anew."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm


class Clock:
    """Notices when ``learn()`` has begun to count an agent's environment steps anew."""

    def __init__(self) -> None:
        #: The agent's environment steps when it was last looked at.
        self.seen = 0
        self._learn: float | None = None  # which learn() that was, by the time at which it began

    def restarted(self, agent: BaseAlgorithm) -> bool:
        """Look at the agent, and tell whether its steps were counted anew since the last look."""
        before, self.seen = self.seen, agent.num_timesteps
        learn, self._learn = self._learn, agent.start_time
        return self._learn != learn and agent._num_timesteps_at_start < before

    def load(self, agent: BaseAlgorithm, seen: int) -> None:
        """Take up the steps that were seen last."""
        self.seen, self._learn = seen, agent.start_time
