"""What an observation goes through between the environments and the policy, frozen for one fragment."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

View = Callable[[Any], Any]


def check(env: VecEnv) -> None:
    """Raise when what is around an environment cannot be shown to workers.

    :raises ValueError: then.
    """
    for wrapper in _around(env):
        if not isinstance(wrapper, (VecNormalize, VecTransposeImage)):
            kind = type(wrapper).__name__
            raise ValueError(
                f"workers cannot see through a {kind}: put it around each worker's environments, in the function "
                "that makes them"
            )


def of(env: VecEnv) -> list[View]:
    """Return what an agent's observations go through, the innermost first, as it is now. It can be pickled."""
    found: list[View] = []
    for wrapper in _around(env):
        if isinstance(wrapper, VecTransposeImage) and not wrapper.skip:
            found.append(_Transposed(getattr(wrapper, "image_space_keys", None)))
        elif isinstance(wrapper, VecNormalize) and wrapper.norm_obs:
            found.append(_Normalized(wrapper))
    return found


def seen_through(views: list[View], raw: Any) -> Any:
    """Return observations as the policy sees them."""
    for view in views:
        raw = view(raw)
    return raw


class _Normalized:
    """As ``VecNormalize``, or a subclass of it, shows observations now."""

    def __init__(self, wrapper: VecNormalize) -> None:
        left_out = ("venv", "class_attributes", "returns", "old_obs", "old_reward", "ret_rms")
        self._kind = type(wrapper)
        self._state = {name: value for name, value in wrapper.__dict__.items() if name not in left_out}
        self._state["obs_rms"] = copy.deepcopy(wrapper.obs_rms)

    def __call__(self, observations: Any) -> Any:
        frozen = self._kind.__new__(self._kind)
        frozen.__dict__.update(self._state)
        return frozen.normalize_obs(observations)


@dataclass(frozen=True)
class _Transposed:
    """As ``VecTransposeImage`` shows observations.

    :param keys: of those that are images; None when they are no dict.
    """

    keys: list[str] | None

    def __call__(self, observations: Any) -> Any:
        if self.keys is None:
            return VecTransposeImage.transpose_image(observations)
        shown = {key: VecTransposeImage.transpose_image(observations[key]) for key in self.keys}
        return {**observations, **shown}


def _around(env: VecEnv) -> list[VecEnvWrapper]:
    wrappers: list[VecEnvWrapper] = []
    while isinstance(env, VecEnvWrapper):
        wrappers.insert(0, env)
        env = env.venv
    return wrappers
