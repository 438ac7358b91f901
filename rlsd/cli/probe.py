"""Makes environments by id, and finds out what they are like, with one clear line when that fails."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlsd.cli.errors import UserError, blame_input, choices
from rlsd.plain import shown

if TYPE_CHECKING:
    from gymnasium import Space
    from stable_baselines3.common.vec_env import VecEnv


def load_module(env_id: str) -> None:
    """Import the module that an id such as ``my_module:My-v0`` names: answers may be defined there, too.

    :raises UserError: when that fails.
    """
    module, _, _ = env_id.rpartition(":")
    if module:
        with blame_input(f"cannot import the module {module!r} that the environment {env_id!r} names"):
            importlib.import_module(module)


def make(env_id: str, n_envs: int, kind: str, seed: int, env_kwargs: Mapping[str, Any]) -> VecEnv:
    """Make ``n_envs`` copies of an environment.

    :param kind: one of ``rlsd_envs.BACKENDS``.
    :raises UserError: when there is no such environment, or it does not take these arguments.
    """
    from gymnasium.error import DependencyNotInstalled

    from rlsd_envs import UnknownEnvironment, make_vec_env
    from rlsd_envs.lifeline import sheltered

    try:
        with sheltered():  # an environment may start worker processes of its own
            return make_vec_env(env_id, n_envs=n_envs, backend=kind, seed=seed, env_kwargs=dict(env_kwargs))
    except UnknownEnvironment as error:
        raise UserError(str(error)) from error
    except DependencyNotInstalled as error:
        raise UserError(f"{env_id} needs packages that are not installed: pip install 'rlsd[envs]'") from error
    except Exception as error:
        with blame_input(f"cannot make {env_id} with {dict(env_kwargs)}" if env_kwargs else f"cannot make {env_id}"):
            raise error


def like(kind: str, other: str) -> str:
    """Return a backend that shows what another shows: that one, where its observations are its own, else any."""
    return kind if kind in ("ale", "envpool") else other


def backend_of(env_id: str, kind: str) -> str:
    """Return what ``--vec-env`` means: ``auto`` is ``ale`` for Atari, with SB3's preprocessing and four pictures."""
    return "ale" if kind == "auto" and env_id.startswith("ALE/") and importlib.util.find_spec("ale_py") else kind


def spaces_of(env_id: str, env_kwargs: Mapping[str, Any], kind: str = "dummy") -> tuple[Space[Any], Space[Any]]:
    """Make the environment once, and return its observation and its action space.

    :param kind: one of ``rlsd_envs.BACKENDS``.
    :raises UserError: when there is no such environment, or it does not take these arguments.
    """
    env = make(env_id, 1, kind, 0, env_kwargs)
    try:
        return env.observation_space, env.action_space
    finally:
        env.close()


def check_backend(kind: str) -> None:
    """Raise a :class:`UserError` when ``--vec-env`` names no backend."""
    from rlsd_envs import BACKENDS

    if kind not in BACKENDS:
        raise UserError(f"unknown --vec-env {shown(kind)}; {choices(kind, BACKENDS)}")
