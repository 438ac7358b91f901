"""From an environment's id to its Gymnasium specification, with a helpful answer when there is none."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from rlsd_envs.errors import UnknownEnvironment

EnvId = str | Callable[..., gym.Env[Any, Any]]
"""What names an environment: a registered id such as ``"CartPole-v1"``, or a class or function that returns one."""

# Packages that register their environments only once they are imported, by the start of their ids.
_PROVIDERS: dict[str, tuple[str, str | None]] = {
    "ALE/": ("ale_py", None),
    "MinAtar/": ("minatar.gym", "register_envs"),
    "MiniGrid-": ("minigrid", None),
    "BabyAI-": ("minigrid", None),
}
#: How to install a package, where an extra of rlsd brings it.
_INSTALL = dict.fromkeys(("ale_py", "minatar", "minigrid"), "'rlsd[envs]'")
_LEGACY_ATARI = re.compile(r"\w+(NoFrameskip|Deterministic)-v\d+")


def find_spec(env_id: str) -> EnvSpec:
    """Return the specification registered under an id, importing the package that registers it where that is known.

    :param env_id: such as ``"CartPole-v1"``, ``"ALE/Pong-v5"`` or, to import a module first, ``"my_module:My-v0"``
    :raises UnknownEnvironment: nothing is registered under it
    """
    _import_provider(env_id)
    module, _, name = env_id.rpartition(":")
    if module:
        _import_module(module, env_id)
    try:
        return gym.spec(name)
    except gym.error.Error:
        raise UnknownEnvironment(unknown_message(env_id, gym.registry)) from None


def unknown_message(env_id: str, known: Iterable[str], where: str = "") -> str:
    """Return the one line that tells the user that an id is unknown, with the nearest ones that are known."""
    nearest = nearest_ids(env_id, known)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    if not where and _envpool_has(env_id):
        return f"Unknown environment {env_id!r} to Gymnasium. EnvPool has it: use backend='envpool'."
    missing = _missing_provider(env_id)
    if missing:
        install = f"pip install {_INSTALL.get(missing, missing)}"
        hint = f" Ids that begin so come with the package '{missing}', which is not installed: {install}." + hint
    return f"Unknown environment {env_id!r}{where}.{hint}"


def nearest_ids(env_id: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known ids nearest to a misspelt one, the nearest first; capitals do not count.

    :param env_id: what the user wrote
    :param known: all ids that exist
    :param count: at most so many
    """
    # Reversed, so that of two versions that are as near, the newer (registered later) comes first.
    by_lower = {name.lower(): name for name in reversed(list(known))}
    found = difflib.get_close_matches(env_id.lower(), list(by_lower), n=count, cutoff=0.6)
    return [by_lower[name] for name in found]


def _provider(env_id: str) -> tuple[str, str | None] | None:
    if _LEGACY_ATARI.fullmatch(env_id):
        return _PROVIDERS["ALE/"]
    return next((entry for prefix, entry in _PROVIDERS.items() if env_id.startswith(prefix)), None)


def _import_provider(env_id: str) -> None:
    provider = _provider(env_id)
    if provider is None or env_id in gym.registry:
        return
    module, function = provider
    with suppress(ImportError):
        imported = importlib.import_module(module)
        if function is not None:
            getattr(imported, function)()


def _missing_provider(env_id: str) -> str | None:
    provider = _provider(env_id)
    if provider is None:
        return None
    package = provider[0].split(".")[0]
    return package if importlib.util.find_spec(package) is None else None


def _envpool_has(env_id: str) -> bool:
    try:
        return env_id in importlib.import_module("envpool").list_all_envs()
    except ImportError:
        return False


def _import_module(module: str, env_id: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        message = f"Cannot import the module {module!r} that the environment {env_id!r} names: {error}."
        raise UnknownEnvironment(message) from error
