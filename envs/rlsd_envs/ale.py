"""The backend ``ale``: many Atari games in one process, by ale-py's own threads.

It gives what SB3's ``make_atari_env`` with ``VecFrameStack(4)`` gives: 84x84 grey pictures, 4 in a stack, frames
skipped and maximised over, no-ops and the fire button at the start, rewards clipped in training but not in statistics.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from rlsd_envs.errors import UnsupportedByBackend
from rlsd_envs.infos import Info

# Typed where it is installed and unknown where it is not: to the type checker it is neither.
AtariVectorEnv: Any = importlib.import_module("ale_py.vector_env").AtariVectorEnv

_MAX_SEED = 2**31  # ale-py takes signed 32-bit seeds


class SameStepAtari(VectorEnv[Any, Any, Any]):
    """ale-py's ``AtariVectorEnv``, with a seed for each game and the true end of a game told apart from a lost life.

    :param num_envs: number of games
    :param kwargs: as for ``AtariVectorEnv``
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        shared = dict(VectorEnv.metadata)
        self._games = AtariVectorEnv(num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs)
        VectorEnv.metadata = shared  # ale-py 0.12 writes its mode into the dictionary of all of Gymnasium's classes
        self.num_envs = num_envs
        self.single_observation_space = self._games.single_observation_space
        self.single_action_space = self._games.single_action_space
        self.observation_space = self._games.observation_space
        self.action_space = self._games.action_space
        self._frames: NDArray[np.int32] = np.zeros(num_envs, dtype=np.int32)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], Info]:
        """Begin new games.

        :param seed: one number, counted up over the games, or one for each
        :return: pictures ``(n_envs, 4, 84, 84)`` and what the games say
        """
        seeds = None
        if seed is not None:
            numbers = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
            seeds = np.array([-1 if number is None else number % _MAX_SEED for number in numbers])
        observations, info = self._games.reset(seed=seeds, options=options)
        self._frames = info["episode_frame_number"]
        return observations, info

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Step all games; ``info["game_over"]`` ``(n_envs,)`` are those that have begun again."""
        observations, rewards, terminated, truncated, info = self._games.step(actions)
        frames = info["episode_frame_number"]
        ended = terminated | truncated
        info["game_over"] = ended & (frames < self._frames)
        self._frames = frames
        if "final_obs" in info:
            # After a lost life the game goes on, and ale-py leaves the row of the last picture unfilled.
            alive = ended & ~info["game_over"]
            info["final_obs"][alive] = observations[alive]
        return observations, rewards, terminated, truncated, info

    def close_extras(self, **kwargs: Any) -> None:
        """End ale-py's threads."""
        self._games.close()


def make_ale(
    spec: EnvSpec, n_envs: int, env_kwargs: Mapping[str, Any], vec_env_kwargs: Mapping[str, Any]
) -> SameStepAtari:
    """Make the games of one id.

    :param spec: an ALE specification; sticky actions and the limit of frames are taken from it
    :param n_envs: number of games
    :param env_kwargs: of ``AtariVectorEnv``, such as ``life_loss_info`` to end an episode at each lost life
    :param vec_env_kwargs: of ``AtariVectorEnv``, such as ``num_threads``
    :raises UnsupportedByBackend: not an Atari game, or a setting that would change the task
    """
    if "ale_py" not in str(spec.entry_point):
        raise UnsupportedByBackend(f"{spec.id!r} is not an Atari game; backend='ale' runs ids such as 'ALE/Pong-v5'.")
    settings = {**spec.kwargs, **env_kwargs, **vec_env_kwargs}
    if settings.pop("render_mode", None) not in (None, "rgb_array"):
        raise UnsupportedByBackend("backend='ale' draws no pictures; use backend='dummy' to render.")
    if settings.get("episodic_life"):
        raise UnsupportedByBackend(
            "episodic_life=True makes ale-py restart the whole game at a lost life; life_loss_info=True ends the "
            "episode and lets the game go on, as SB3's AtariWrapper does."
        )
    # One picture a step would leave nothing to skip or maximise over; the ids without frame skip mean 4 by hand.
    if settings.get("frameskip") == 1 or isinstance(settings.get("frameskip"), tuple):
        settings["frameskip"] = 4
    settings["reward_clipping"] = False  # done by AleScoring, after the statistics
    for key in ("mode", "difficulty", "obs_type"):
        if settings.pop(key, None) is not None:
            raise UnsupportedByBackend(f"backend='ale' cannot set {key!r}; use backend='dummy' or 'subproc'.")
    return SameStepAtari(num_envs=n_envs, **settings)
