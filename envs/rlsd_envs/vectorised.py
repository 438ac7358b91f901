"""The backend ``gymnasium``: an environment's own vectorised version where it has one, else Gymnasium's loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlsd_envs.autoreset import AnyVectorEnv
from rlsd_envs.cartpole import SeededCartPole
from rlsd_envs.errors import UnsupportedByBackend
from rlsd_envs.single import AnyEnv, SingleEnv

_CARTPOLE = "gymnasium.envs.classic_control.cartpole"
_TWINS: dict[tuple[str, str], tuple[Callable[..., AnyVectorEnv], frozenset[str]]] = {
    (f"{_CARTPOLE}:CartPoleEnv", f"{_CARTPOLE}:CartPoleVectorEnv"): (
        SeededCartPole,
        frozenset({"render_mode", "max_episode_steps", "sutton_barto_reward"}),
    )
}
"""Vectorised versions whose trajectories are those of the single environment, and the settings for which they are.

A pair comes in here with a test that steps both side by side.
"""

_NO_LIMIT = 2**31 - 1  # steps; the versions above count in 32 bits


def has_exact_twin(spec: EnvSpec, env_kwargs: Mapping[str, Any]) -> bool:
    """Whether there is a vectorised version that runs exactly the environment that ``gym.make`` would make."""
    entry = _TWINS.get((str(spec.entry_point), str(spec.vector_entry_point)))
    if entry is None or spec.additional_wrappers:
        return False
    settings = {**spec.kwargs, **env_kwargs}
    limit = settings.get("max_episode_steps", 1)
    return (
        set(settings) <= entry[1]
        and settings.get("render_mode") in (None, "rgb_array")
        and isinstance(limit, int)
        and limit > 0
    )


def make_gymnasium(
    source: EnvSpec | Callable[..., AnyEnv], n_envs: int, env_kwargs: Mapping[str, Any]
) -> tuple[AnyVectorEnv, str]:
    """Make the environments, and say what they are.

    :param source: a Gymnasium specification, or a function that returns an environment
    :param n_envs: number of environments
    :param env_kwargs: settings of the environment
    :raises UnsupportedByBackend: a vectorised version does not take these settings
    """
    if isinstance(source, EnvSpec) and source.vector_entry_point is not None:
        return _vectorised(source, n_envs, env_kwargs)
    single = SingleEnv(source, env_kwargs)
    loop = SyncVectorEnv([single.bare] * n_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    return loop, "it has no vectorised version, so that Gymnasium loops over single ones"


def _vectorised(spec: EnvSpec, n_envs: int, env_kwargs: Mapping[str, Any]) -> tuple[AnyVectorEnv, str]:
    if "ale_py" in str(spec.vector_entry_point):
        raise UnsupportedByBackend(f"The vectorised version of {spec.id!r} is run by backend='ale'.")
    if has_exact_twin(spec, env_kwargs):
        version = _TWINS[(str(spec.entry_point), str(spec.vector_entry_point))][0]
        settings = {
            "max_episode_steps": spec.max_episode_steps,
            "render_mode": "rgb_array",
            **spec.kwargs,
            **env_kwargs,
        }
        settings["max_episode_steps"] = settings["max_episode_steps"] or _NO_LIMIT
        env = version(num_envs=n_envs, **settings)
        env.spec = spec
        return env, "its vectorised version, which runs the same trajectories as single environments"
    try:
        env = gym.make_vec(spec, n_envs, vectorization_mode="vector_entry_point", **env_kwargs)
    except TypeError as error:
        raise UnsupportedByBackend(f"The vectorised version of {spec.id!r} cannot be made: {error}.") from error
    return env, "its vectorised version, not proven to run the same trajectories as single environments"
