"""Raw observations of a rollout whose buffer holds normalised ones, through what stands around ``VecNormalize``."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from rlsd.observations import as_items, raw_of, wrappers_around


class RawObservations(BaseCallback):
    """Records, during one rollout, the raw observations that the agent acted on.

    On-policy buffers hold normalised observations only, so with ``VecNormalize`` the raw ones are taken at each step.
    ``VecNormalize`` itself remembers just the latest, which is the one the *next* action is taken on.

    :param env: the agent's environment; what stands around its ``VecNormalize`` is known, see
        :func:`rlsd.observations.normalizing_env`.
    """

    def __init__(self, env: VecEnv) -> None:
        super().__init__()
        self._env, self._around = wrappers_around(env)
        self._frames = {id(wrapper): _Frames(wrapper) for wrapper in self._around if isinstance(wrapper, VecFrameStack)}
        self._steps: list[dict[str, np.ndarray]] = []
        self._latest: dict[str, np.ndarray] | None = None

    def _on_rollout_start(self) -> None:
        self._steps.clear()
        self._latest = self._raw(None)

    def _on_step(self) -> bool:
        if self._latest is not None:
            self._steps.append(self._latest)
        self._latest = self._raw(self.locals["dones"])
        return True

    def _raw(self, dones: np.ndarray | None) -> dict[str, np.ndarray] | None:
        """Return the latest observations as the policy would see them if they were not normalised.

        :param dones: which episodes ended just before them; None at the start of a rollout.
        """
        observations: Any = getattr(self._env, "old_obs", None)
        if observations is None:
            return None
        for wrapper in self._around:
            if isinstance(wrapper, VecTransposeImage):
                observations = wrapper.transpose_observations(observations)
            elif isinstance(wrapper, VecFrameStack):
                assert isinstance(self._env, VecNormalize)
                observations = self._frames[id(wrapper)].stacked(self._env, observations, dones)
        return {key: np.array(value) for key, value in as_items(observations).items()}

    def take(self) -> dict[str, np.ndarray] | None:
        """Return the recorded observations, ``(steps * n_envs, *shape)`` by key, and forget them; None for none."""
        steps, self._steps = self._steps, []
        if not steps:
            return None
        return {key: np.concatenate([step[key] for step in steps]) for key in steps[0]}


class _Frames:
    """Stacks raw frames as a ``VecFrameStack`` stacks those that were normalised.

    Where an episode has just begun, the stack is filled up with what normalises to the zeros that the policy sees. The
    frames from before a rollout are mapped back from what the policy sees, by today's statistics.
    """

    def __init__(self, wrapper: VecFrameStack) -> None:
        self._wrapper = wrapper
        self._raw: dict[str, np.ndarray] = {}

    def stacked(self, normalizer: VecNormalize, observations: Any, dones: np.ndarray | None) -> Any:
        frames, stacks = as_items(observations), self._wrapper.stacked_obs
        for key, frame in frames.items():
            part: Any = stacks.sub_stacked_observations[key] if isinstance(observations, dict) else stacks
            axis = part.stack_dimension % frame.ndim
            if dones is None or key not in self._raw:
                raw = raw_of(normalizer, key, part.stacked_obs)
            else:
                raw = np.roll(self._raw[key], -frame.shape[axis], axis=axis)
                raw[dones] = raw_of(normalizer, key, np.zeros_like(part.stacked_obs[:1]))
            newest = [slice(None)] * frame.ndim
            newest[axis] = slice(-frame.shape[axis], None)
            raw[tuple(newest)] = frame
            self._raw[key] = raw
        return dict(self._raw) if isinstance(observations, dict) else next(iter(self._raw.values()))
