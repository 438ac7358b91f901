"""What an agent is trained on, and what its episodes are judged by: not always the same rewards, nor the same episodes.

SB3 puts ``Monitor`` inside of ``AtariWrapper``: the statistics are of whole games with their true scores, while
training sees clipped rewards and, if wanted, an end at each lost life. Compiled Atari environments mix the two; these
objects take them apart again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlsd_envs.infos import Info

Rows = NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """The rewards of one step, and the games that it ended.

    :ivar rewards: what the agent is trained on ``(n_envs,)``
    :ivar true_rewards: what counts for the episode's return ``(n_envs,)``
    :ivar game_over: the environments whose statistics end here ``(n_envs,)``
    """

    rewards: NDArray[Any]
    true_rewards: NDArray[Any]
    game_over: Rows


class Scoring:
    """Training and statistics see the same rewards and the same episodes."""

    def restart(self, info: Info) -> None:
        """All environments were reset, and said ``info``."""

    def __call__(self, rewards: NDArray[Any], terminated: Rows, truncated: Rows, info: Info) -> Score:
        """Judge one step by what the environments returned, each ``(n_envs,)``, and by what they said."""
        return Score(rewards, rewards, terminated | truncated)


class AleScoring(Scoring):
    """For ale-py: rewards are clipped here and not in the environment; a lost life is not the end of the game.

    :param clip: train on the rewards' signs, as in Mnih et al. (2015)
    """

    def __init__(self, clip: bool) -> None:
        self.clip = clip

    def __call__(self, rewards: NDArray[Any], terminated: Rows, truncated: Rows, info: Info) -> Score:
        """Judge one step."""
        return Score(np.sign(rewards) if self.clip else rewards, rewards, info["game_over"])


class EnvPoolAtariScoring(Scoring):
    """For EnvPool's Atari, whose ``info`` has the rewards before clipping and the true end of the game."""

    def __call__(self, rewards: NDArray[Any], terminated: Rows, truncated: Rows, info: Info) -> Score:
        """Judge one step."""
        return Score(rewards, info["reward"], (info["terminated"] != 0) | truncated)
