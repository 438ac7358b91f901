"""How well an agent does at present, judged by the episodes it trains on, with exploration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from rlsd.plain import SavedState, State

#: Enough episodes to tell something, and few enough to tell it in time: a mean over many lags behind the policy.
EPISODES = 20
#: Fewer do not tell how far chance carries their mean: they may be alike by chance, and a single one always is. Where
#: ``stats_window_size`` keeps fewer, the latest 20 count all the same, and are kept here.
FEWEST = 5


class SmoothedReturn(NamedTuple):
    """The mean return of the latest training episodes, and the standard error of that mean."""

    mean: float
    error: float


def mean_and_error(returns: Sequence[float]) -> SmoothedReturn:
    """Return the mean of some returns, two at least, and the standard error of that mean."""
    n = len(returns)
    mean = sum(returns) / n
    variance = sum((value - mean) ** 2 for value in returns) / max(n - 1, 1)
    return SmoothedReturn(mean, math.sqrt(variance / n))


class Episodes:
    """The returns of an agent's training episodes, through all calls of ``learn()``, each of which makes SB3 forget.

    The distiller of an agent has one and hands it to all who judge by returns. Where the environment has no
    ``Monitor``, so that SB3 knows of no return, it adds up the rewards itself as soon as somebody asked. Where SB3
    keeps too few episodes, it records each as it ends.
    """

    def __init__(self) -> None:
        #: How many have ended.
        self.count = 0
        self._returns: list[float] = []  # the latest: 20 at least, and all that ended before the latest sync but one
        self._latest: Any = None  # of those that SB3 told of: its own dict, known again by its identity
        self._asked = False
        # Of the running episodes, by environment: rewards so far, and whether these are all that there were.
        self._sums = np.zeros(0)
        self._whole = np.zeros(0, dtype=bool)
        self._at = -1  # the agent's step when a reward was last added

    def sync(self, agent: BaseAlgorithm) -> None:
        """Record the episodes that ended, as far as SB3 still has them."""
        if self._asked and _keeps_too_few(agent):
            return  # the recorder sees each
        new: list[float] = []
        for episode in reversed(agent.ep_info_buffer or ()):
            if episode is self._latest:
                break
            new.append(float(episode["r"]))
        self._latest = agent.ep_info_buffer[-1] if agent.ep_info_buffer else None
        if new:
            self._add(new[::-1])

    def _add(self, new: list[float]) -> None:
        self._returns = self._returns[-EPISODES:] + new
        self.count += len(new)

    def smoothed(self, agent: BaseAlgorithm) -> SmoothedReturn | None:
        """Return how the latest 20 training episodes went, None before as many have ended.

        Of as many as SB3 keeps, where its ``stats_window_size`` is less, but 5 or more.
        """
        self.sync(agent)
        self._asked = True
        kept = agent._stats_window_size
        n = min(EPISODES, kept) if kept >= FEWEST else EPISODES
        return None if len(self._returns) < n else mean_and_error(self._returns[-n:])

    def since(self, agent: BaseAlgorithm, before: int) -> list[float]:
        """Return the returns of those that ended after the first ``before``, in order, as far as they are known."""
        self.sync(agent)
        self._asked = True
        n = self.count - before
        return self._returns[-n:] if n else []

    def recorder(self, agent: BaseAlgorithm) -> BaseCallback | None:
        """Return the callback that must watch the coming rollout, None while SB3 tells of episodes or nobody asks."""
        if not self._asked or (agent.ep_info_buffer and not _keeps_too_few(agent)):
            return None
        if self._at != agent.num_timesteps or len(self._sums) != agent.n_envs:  # some steps were not watched
            self._sums, self._whole = np.zeros(agent.n_envs), np.zeros(agent.n_envs, dtype=bool)
        return _Rewards(self)

    def begin(self, agent: BaseAlgorithm) -> None:
        """Called when the environment was reset: all episodes are at their beginning."""
        self._sums, self._whole = np.zeros(agent.n_envs), np.ones(agent.n_envs, dtype=bool)
        self._at = agent.num_timesteps

    def rewarded(
        self, agent: BaseAlgorithm, rewards: np.ndarray, dones: np.ndarray, infos: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add the rewards of a step, ``(n_envs,)``, and record the episodes that ended without a word to SB3."""
        normalizing = agent.get_vec_normalize_env()
        self._sums += rewards if normalizing is None else normalizing.get_original_reward()
        self._at = agent.num_timesteps
        for i in np.flatnonzero(dones).tolist():
            told = infos[i].get("episode")
            if told is None and self._whole[i]:
                self._add([float(self._sums[i])])
            elif told is not None and _keeps_too_few(agent):
                self._add([float(told["r"])])
            self._sums[i], self._whole[i] = 0.0, True

    def state(self) -> State:
        """Return where it stands, as plain data."""
        return {
            "returns": list(self._returns),
            "asked": self._asked,
            "sums": self._sums.tolist(),
            "whole": self._whole.tolist(),
            "at": self._at,
        }

    def load(self, agent: BaseAlgorithm, state: SavedState) -> None:
        """Load what :meth:`state` returned, of the episodes that had ended when the agent was saved."""
        self._returns = [float(value) for value in state["returns"]]
        self.count, self._asked = len(self._returns), bool(state["asked"])
        self._sums, self._whole = np.array(state["sums"], dtype=float), np.array(state["whole"], dtype=bool)
        self._at = int(state["at"])
        self._latest = agent.ep_info_buffer[-1] if agent.ep_info_buffer else None


def _keeps_too_few(agent: BaseAlgorithm) -> bool:
    """Tell whether SB3 forgets episodes that count, and a recorder can see them: ARS has no rollouts."""
    return agent._stats_window_size < FEWEST and hasattr(agent, "collect_rollouts")


class _Rewards(BaseCallback):
    """Shows rewards, as the environment gives them, during one rollout."""

    def __init__(self, episodes: Episodes) -> None:
        super().__init__()
        self._episodes = episodes

    def _on_step(self) -> bool:
        seen = self.locals
        self._episodes.rewarded(self.model, seen["rewards"], seen["dones"], seen["infos"])
        return True
