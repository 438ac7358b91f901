"""Tasks that follow one another in one environment, as an agent meets them that is told nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from rlsd_envs.flipped import Flipped
from rlsd_envs.registry import find_spec
from rlsd_envs.single import AnyEnv


class TaskSequence(gym.Env[Any, Any]):
    """Variants of one environment, one after the other. The next one begins with an episode::

        tasks = [{}, {"flipped": True}, {"gravity": 20.0}]
        env = TaskSequence("CartPole-v1", tasks, steps=30_000)

    After the last comes the first again. Steps are those of this copy: of 8 copies each takes an eighth of an agent's.

    :param env_id: the environment: vectors as observations.
    :param tasks: the variants. ``flipped`` inverts actions as :class:`Flipped` does; any other key is an attribute of
        the environment, such as CartPole's ``gravity``, and the value it is set to.
    :param steps: environment steps of each.
    :param visible: whether the observation tells the task, as a number for each of them, 1 for the present.
    :param start: with which task to begin; with ``steps=0`` it is the only one, to be evaluated on.
    :raises ValueError: when there is no task, or the environment lacks an attribute.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        env_id: str = "CartPole-v1",
        tasks: Sequence[Mapping[str, Any]] = ({}, {"flipped": True}),
        steps: int = 30_000,
        visible: bool = True,
        start: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if not tasks or not 0 <= start < len(tasks):
            raise ValueError(f"tasks must be a list that has number start={start}, got {len(tasks)} of them.")
        self.render_mode = render_mode
        self._envs = [_variant(env_id, task, render_mode) for task in tasks]
        self._steps, self._visible, self._start = int(steps), bool(visible), int(start)
        self.task, self.taken = self._start, 0
        first = self._envs[0]
        self.action_space = first.action_space
        self.observation_space = _wider(first.observation_space, len(tasks)) if visible else first.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, of the next task if its time has come."""
        super().reset(seed=seed)
        if self._steps:
            self.task = (self._start + self.taken // self._steps) % len(self._envs)
        if seed is None:  # each variant goes on with numbers of its own
            observation, info = self._envs[self.task].reset(options=options)
        else:
            for env in self._envs:
                env.reset(seed=seed)
            observation, info = self._envs[self.task].reset(seed=seed, options=options)
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take an action in the present task."""
        self.taken += 1
        observation, *rest = self._envs[self.task].step(action)
        return (self._observed(observation), *rest)

    def render(self) -> Any:
        """Draw the present task."""
        return self._envs[self.task].render()

    def close(self) -> None:
        """Close all variants."""
        for env in self._envs:
            env.close()

    def _observed(self, observation: Any) -> Any:
        if not self._visible:
            return observation
        return np.concatenate((observation, np.eye(len(self._envs), dtype=observation.dtype)[self.task]))


class Offsets(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Continual Gym Control: every level adds another constant to all observations, the first none.

    Published with TRAC (Muppidi et al. 2024) and C-CHAIN (Tang et al. 2025): ten levels of 160,000 steps, offsets of
    ``N(0, 2^2)``. A level begins with an episode. The offsets depend on ``seed`` and the level alone, so that all
    copies of a vector environment have the same.

    :param env: has vectors as observations.
    :param scale: standard deviation of an offset, in the observation's own units.
    :param steps: environment steps of a level, in this copy.
    :param levels: how many there are; the last one stays.
    :param seed: of the offsets.
    :raises ValueError: when observations are no vectors.
    """

    def __init__(self, env: AnyEnv, scale: float = 2.0, steps: int = 160_000, levels: int = 10, seed: int = 0) -> None:
        RecordConstructorArgs.__init__(self, scale=scale, steps=steps, levels=levels, seed=seed)
        super().__init__(env)
        shape = _vector(env.observation_space).shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
        drawn = [np.random.default_rng([seed, level]).normal(0.0, scale, shape) for level in range(levels)]
        self._offsets = [np.zeros(shape, np.float32), *(one.astype(np.float32) for one in drawn[1:])]
        self._steps = int(steps)
        self.level, self.taken = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, at the next level if its time has come."""
        self.level = min(self.taken // self._steps, len(self._offsets) - 1)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action, and see the outcome through the offset."""
        self.taken += 1
        observation, *rest = self.env.step(action)
        return (self._observed(observation), *rest)

    def _observed(self, observation: Any) -> Any:
        return (observation + self._offsets[self.level]).astype(np.float32)


def make_offsets(env_id: str, scale: float = 2.0, steps: int = 160_000, **settings: Any) -> Offsets:
    """Make a registered environment and put :class:`Offsets` around it.

    :param env_id: such as ``"CartPole-v1"``.
    :param settings: ``levels`` and ``seed`` of :class:`Offsets`; the rest for the environment's own constructor.
    :raises UnknownEnvironment: no such id.
    """
    own = {key: settings.pop(key) for key in ("levels", "seed") if key in settings}
    return Offsets(gym.make(find_spec(env_id), disable_env_checker=True, **settings), scale, steps, **own)


def _variant(env_id: str, task: Mapping[str, Any], render_mode: str | None) -> AnyEnv:
    env: AnyEnv = gym.make(find_spec(env_id), disable_env_checker=True, render_mode=render_mode)
    _vector(env.observation_space)
    inner = env.unwrapped
    for name, value in task.items():
        if name == "flipped":
            continue
        if not hasattr(inner, name):
            raise ValueError(f"{env_id} has no attribute {name!r} that a task could set.")
        setattr(inner, name, value)
    return _Inverted(env) if task.get("flipped") else env


class _Inverted(Flipped):
    """Inverts actions, and leaves the observation as it is."""

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env, flipped=True)
        self.observation_space = env.observation_space

    def _observed(self, observation: Any) -> Any:
        return observation


def _vector(space: spaces.Space[Any]) -> spaces.Box:
    if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
        raise ValueError(f"observations must be vectors, not {space}.")
    return space


def _wider(space: spaces.Space[Any], by: int) -> spaces.Box:
    inner = _vector(space)
    low, high = np.append(inner.low, np.zeros(by)), np.append(inner.high, np.ones(by))
    return spaces.Box(low.astype(inner.dtype), high.astype(inner.dtype), dtype=inner.dtype.type)
