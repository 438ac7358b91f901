"""The backend ``envpool``: compiled environments, stepped by threads."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlsd_envs.errors import UnsupportedByBackend
from rlsd_envs.infos import Info
from rlsd_envs.registry import unknown_message

# Typed where it is installed and unknown where it is not: to the type checker it is neither.
envpool: Any = importlib.import_module("envpool")

_MAX_SEED = 2**31  # EnvPool takes signed 32-bit seeds


class Pool(VectorEnv[Any, Any, Any]):
    """EnvPool's environments, with a seed for each, and reset on demand.

    EnvPool fixes its seeds when it is made. It is therefore made at the first reset, and anew at each reset that brings
    other seeds.

    :param env_id: one of ``envpool.list_all_envs()``
    :param num_envs: number of environments
    :param settings: as for ``envpool.make``: those of the task (``num_levels`` and ``start_level`` of Procgen,
        ``max_episode_steps``) and ``num_threads``
    :raises UnsupportedByBackend: EnvPool has no such environment, or not these settings
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, env_id: str, num_envs: int, settings: Mapping[str, Any]) -> None:
        known = envpool.list_all_envs()
        if env_id not in known:
            message = unknown_message(env_id, known, " in EnvPool")
            raise UnsupportedByBackend(f"{message} Ids of Gymnasium run with backend='dummy' or 'subproc'.")
        self.env_id = env_id
        self.num_envs = num_envs
        self.settings = dict(settings)
        self.render_mode = self.settings.get("render_mode")
        blueprint = self._blueprint()
        self.max_episode_steps = int(blueprint.config.max_episode_steps)
        with _no_warnings():
            self.single_observation_space = blueprint.gymnasium_observation_space
            self.single_action_space = blueprint.gymnasium_action_space
            self.observation_space = batch_space(self.single_observation_space, num_envs)
            self.action_space = batch_space(self.single_action_space, num_envs)
        self.is_atari = hasattr(blueprint.config, "episodic_life") and hasattr(blueprint.config, "reward_clip")
        self._pool: Any = None
        self._seeds: list[int] = []
        self._used = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Info]:
        """Reset the environments of ``options["reset_mask"]``, or all of them.

        :param seed: one number, counted up over the environments, or one for each; None goes on with the generators
        :return: the observations of the environments that were reset, in order, and what they say
        """
        options = options or {}
        unknown = set(options) - {"reset_mask"}
        if unknown:
            raise UnsupportedByBackend(f"EnvPool takes no options at a reset; given were {sorted(unknown)}.")
        if "reset_mask" in options:
            return self._continue(np.flatnonzero(options["reset_mask"]).astype(np.int32))
        self._make(seed)
        self._used = True
        observations, info = self._pool.reset()
        return observations, info

    def step(self, actions: NDArray[Any]) -> tuple[Any, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Step all environments."""
        return self._pool.step(actions)  # type: ignore[no-any-return]

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return one picture ``(height, width, 3)`` for each environment."""
        return tuple(self._pool.render(env_ids=np.arange(self.num_envs)))

    def close(self, **kwargs: Any) -> None:
        """End EnvPool's threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self.closed = True

    def _continue(self, ids: NDArray[np.int32]) -> tuple[Any, Info]:
        """Let some environments take the step in which EnvPool itself would begin their next episode.

        A reset by hand would be another thing where an episode ends with a lost life, after which the game goes on.
        """
        actions = np.zeros((len(ids), *(self.single_action_space.shape or ())), self.single_action_space.dtype)
        observations, _, _, _, info = self._pool.step(actions, ids)
        return observations, info

    def _make(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None and self._pool is not None:
            return
        wanted = _seeds(seed, self.num_envs)
        if self._pool is not None and not self._used and wanted == self._seeds:
            return
        self.close()
        self.closed = False
        with _no_warnings():
            self._pool = envpool.make(self.env_id, "gymnasium", num_envs=self.num_envs, seed=wanted, **self.settings)
            _ = self._pool.observation_space, self._pool.action_space  # made at first use, and kept
        self._seeds = wanted

    def _blueprint(self) -> Any:
        try:
            return envpool.make_spec(self.env_id, num_envs=self.num_envs, **self.settings)
        except TypeError as error:
            raise UnsupportedByBackend(f"EnvPool's {self.env_id!r} does not take these settings: {error}.") from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence what Gymnasium has to say about the precision of bounds and about old versions of environments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _seeds(seed: int | Sequence[int | None] | None, n_envs: int) -> list[int]:
    numbers = range(seed, seed + n_envs) if isinstance(seed, int) else seed or [None] * n_envs
    fresh = np.random.SeedSequence().generate_state(n_envs)
    return [int(fresh[i] if own is None else own) % _MAX_SEED for i, own in enumerate(numbers)]


def adopt_gymnasium_spaces(pool: Pool) -> str:
    """Take the spaces of Gymnasium's environment of the same id where only bounds or the actions' precision differ.

    An agent trained on one can then be loaded with the other: SB3 refuses spaces that are not equal.

    :return: how the two environments differ, for the user to read
    """
    single = _gymnasium_twin(pool.env_id)
    if single is None:
        return "EnvPool's own environment; Gymnasium has none of this id to compare it with"
    differences = []
    if _same_kind(pool.single_observation_space, single.observation_space, with_dtype=True):
        pool.single_observation_space = single.observation_space
    else:
        differences.append(f"observations {pool.single_observation_space} instead of {single.observation_space}")
    if _same_kind(pool.single_action_space, single.action_space, with_dtype=False):
        pool.single_action_space = single.action_space
    else:
        differences.append(f"actions {pool.single_action_space} instead of {single.action_space}")
    limit = single.spec.max_episode_steps if single.spec is not None else None
    if limit != pool.max_episode_steps:
        differences.append(f"{pool.max_episode_steps} steps at most instead of {limit}")
    if not differences:
        return "EnvPool's own environment, with the spaces and the episode limit of Gymnasium's"
    return "EnvPool's own environment, which is not Gymnasium's: " + "; ".join(differences)


def _gymnasium_twin(env_id: str) -> gym.Env[Any, Any] | None:
    spec = gym.registry.get(env_id)
    if spec is None:
        return None
    try:
        with _no_warnings():
            env = gym.make(spec)
            env.close()
            return env
    except Exception:  # it is only there to compare with, and its packages may be missing
        return None


def _same_kind(own: gym.Space[Any], other: gym.Space[Any], with_dtype: bool) -> bool:
    if type(own) is not type(other) or own.shape != other.shape:
        return False
    if isinstance(own, gym.spaces.Box):
        return own.dtype == other.dtype or not with_dtype
    return own == other
