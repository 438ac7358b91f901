"""One environment as SB3's ``make_vec_env`` makes it: monitored, then wrapped."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor

AnyEnv = gym.Env[Any, Any]
Wrapper = Callable[[AnyEnv], AnyEnv]
"""Takes an environment and returns it wrapped: a ``gymnasium.Wrapper`` class or a function."""


@dataclass(frozen=True)
class SingleEnv:
    """Makes the environment of one index when called; can be sent to another process.

    It carries the whole specification, not the id: a fresh process knows only the environments of Gymnasium itself.

    :param source: a Gymnasium specification, or a function that returns an environment
    :param env_kwargs: passed to it
    :param wrappers: put around the monitored environment, the first one innermost; without any, MiniGrid's
        ``FlatObsWrapper`` around its environments
    :param action_seed: seed of this environment's action space
    :param monitor_file: episode returns and lengths are written to ``<monitor_file>.monitor.csv``
    """

    source: EnvSpec | Callable[..., AnyEnv]
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Sequence[Wrapper] = ()
    action_seed: int | None = None
    monitor_file: Path | None = None

    def __call__(self) -> AnyEnv:
        """Make the environment."""
        env = self.bare()
        if self.action_seed is not None:
            env.action_space.seed(self.action_seed)
        env = Monitor(env, filename=None if self.monitor_file is None else str(self.monitor_file))
        for wrapper in self.wrappers or _usual(env):
            env = wrapper(env)
        return env

    def bare(self) -> AnyEnv:
        """Make the environment without ``Monitor`` and wrappers."""
        if not isinstance(self.source, EnvSpec):
            return self.source(**self.env_kwargs)
        if "render_mode" not in self.env_kwargs:
            try:  # as SB3 does, so that videos can be made of any environment that knows how
                return gym.make(self.source, render_mode="rgb_array", **self.env_kwargs)
            except TypeError:
                pass
        return gym.make(self.source, **self.env_kwargs)


def _usual(env: AnyEnv) -> tuple[Wrapper, ...]:
    """Return what makes vectors of observations that SB3 does not take: MiniGrid's hold a text.

    rl_zoo3 puts the same wrapper around its MiniGrid environments.
    """
    if isinstance(env.observation_space, spaces.Dict) and "mission" in env.observation_space.spaces:
        with suppress(ImportError):
            return (importlib.import_module("minigrid.wrappers").FlatObsWrapper,)
    return ()
