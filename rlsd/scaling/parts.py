"""Vector environments in pieces: where they come from, and how those in the middle of their episodes move on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlsd import environment_state
from rlsd.scaling.fragment import some_of

#: What a worker makes its environments from: what a user gave, pickled, or environments that exist, one by one.
Origin = bytes | list[bytes]


@dataclass(frozen=True)
class Frozen:
    """Environments in the middle of their episodes.

    :param in_pieces: whether each is by itself in ``states``, or those of a worker together.
    :param raw: what they show; None before they were reset.
    """

    in_pieces: bool
    states: list[bytes]
    raw: Any

    def of(self, number: int, n_envs: int) -> Frozen:
        """Return what one of the workers gets, each with ``n_envs`` environments."""
        some = slice(number * n_envs, (number + 1) * n_envs)
        states = self.states[some] if self.in_pieces else self.states[number : number + 1]
        return Frozen(self.in_pieces, states, None if self.raw is None else some_of(self.raw, some))


#: What a ``DummyVecEnv`` holds for all of its environments, and for each.
_SHARED = ("observation_space", "action_space", "keys", "metadata", "render_mode")
_LISTS = ("envs", "buf_infos", "reset_infos", "_seeds", "_options")
_ARRAYS = ("buf_dones", "buf_rews")


def origin_of(env: str | Callable[[], Any] | VecEnv) -> Origin:
    """Return what workers can make environments from.

    :raises ValueError: when it cannot be pickled: which, and why.
    """
    if isinstance(env, VecEnv):
        if is_one_by_one(env):
            return pieces(env)
        kind = type(env).__name__
        raise ValueError(f"the environments of a {kind} cannot go to workers: give an id, or a function that makes one")
    if isinstance(env, gym.Env):
        raise ValueError(f"one {env} cannot be in several workers: give an id, or a function that makes one")
    try:
        return bytes(cloudpickle.dumps(env))
    except Exception as error:  # whatever a user's function holds
        name = getattr(env, "__name__", repr(env))
        raise ValueError(f"{name} cannot be pickled for the workers: {_reason(error)}") from error


def make(origin: Origin, n_envs: int) -> VecEnv:
    """Make a worker's environments.

    :param origin: of these alone.
    :raises ValueError: when it makes another number of them.
    """
    if isinstance(origin, list):
        return merged(origin)
    source = cloudpickle.loads(origin)
    first = None if isinstance(source, str) else source(n_envs) if _takes_a_number(source) else source()
    if isinstance(first, VecEnv):
        if first.num_envs != n_envs:
            raise ValueError(f"each worker has {n_envs} environments, and the function makes {first.num_envs}")
        return first
    made = [] if first is None else [first]
    return make_vec_env(source if first is None else lambda: made.pop() if made else source(), n_envs)


def pieces(env: VecEnv) -> list[bytes]:
    """Freeze every environment by itself, in the middle of its episode.

    :raises ValueError: when one cannot be pickled, or they are not single ones of this process.
    """
    if not is_one_by_one(env):
        raise ValueError(f"a {type(env).__name__} keeps its environments together")
    assert isinstance(env, DummyVecEnv)
    frozen = []
    for number in range(env.num_envs):
        try:
            frozen.append(environment_state.freeze(_only(env, number)))
        except ValueError as error:
            raise ValueError(f"environment {number} cannot go to a worker, since {error}") from error
    return frozen


def merged(frozen: Sequence[bytes]) -> DummyVecEnv:
    """Thaw environments into one vector environment."""
    parts: list[Any] = [environment_state.thaw(data) for data in frozen]
    env = parts[0]
    for name in _LISTS:
        setattr(env, name, [one for part in parts for one in getattr(part, name)])
    for name in _ARRAYS:
        setattr(env, name, np.concatenate([getattr(part, name) for part in parts]))
    env.buf_obs = {key: np.concatenate([part.buf_obs[key] for part in parts]) for key in env.buf_obs}
    env.num_envs = len(parts)
    assert isinstance(env, DummyVecEnv)
    return env


def _takes_a_number(source: Callable[..., Any]) -> bool:
    """Tell whether a function has to be told how many environments to make."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(source).parameters.values()
    return any(one.kind in kinds and one.default is inspect.Parameter.empty for one in parameters)


def is_one_by_one(env: VecEnv) -> bool:
    """Tell whether a vector environment does no more than to call single ones in turn."""
    own = type(env)
    return isinstance(env, DummyVecEnv) and own.step_wait is DummyVecEnv.step_wait and own.reset is DummyVecEnv.reset


def _only(env: DummyVecEnv, number: int) -> DummyVecEnv:
    one, some = DummyVecEnv.__new__(DummyVecEnv), slice(number, number + 1)
    for name in _SHARED:
        setattr(one, name, getattr(env, name))
    for name in (*_LISTS, *_ARRAYS):
        setattr(one, name, getattr(env, name)[some])
    one.buf_obs = {key: array[some] for key, array in env.buf_obs.items()}  # type: ignore[assignment]
    one.num_envs = 1
    return one


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
