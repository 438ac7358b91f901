"""PPO's and A2C's rollout buffer, handing out minibatches from tensors that were made once a rollout.

Bit-identical to SB3's: the same permutation is drawn from numpy's global generator, and each float is computed by the
same operations in the same precision. SB3 computes the advantages one step at a time with a dozen small operations
each; only the recursion has to be done so.

An agent's own buffer is lent this class while it learns, so what is saved or copied meanwhile is SB3's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor

_NAMES = ("observations", "actions", "values", "log_probs", "advantages", "returns")
_CACHE = "_rlsd_tensors"


class TensorRolloutBuffer(RolloutBuffer):
    """See the module. ``observations`` and all else can be read as the numpy arrays they are in SB3."""

    @staticmethod
    def suits(buffer: Any) -> bool:
        """Tell whether a buffer is SB3's own, which can be lent this class."""
        return type(buffer) is RolloutBuffer

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: Tensor,
        log_prob: Tensor,
    ) -> None:
        """Take up one step of every environment."""
        position = self.pos
        if isinstance(self.observation_space, spaces.Discrete):
            obs = obs.reshape((self.n_envs, *self.obs_shape))
        self.observations[position] = obs
        self.actions[position] = action.reshape((self.n_envs, self.action_dim))
        self.rewards[position] = reward
        self.episode_starts[position] = episode_start
        self.values[position] = value.numpy(force=True).reshape(-1)
        self.log_probs[position] = log_prob.numpy(force=True)
        self.pos = position + 1
        if self.pos == self.buffer_size:
            self.full = True

    def compute_returns_and_advantage(self, last_values: Tensor, dones: np.ndarray) -> None:
        """Compute advantages and returns, most of it for all steps at once."""
        if type(self.gamma) is not float or type(self.gae_lambda) not in (float, int):
            # Numpy's scalars would raise the precision, as they do in SB3.
            super().compute_returns_and_advantage(last_values, dones)
            return
        following = np.empty_like(self.values)
        following[:-1], following[-1] = self.values[1:], last_values.numpy(force=True).reshape(-1)
        going_on = np.empty_like(self.episode_starts)
        going_on[:-1], going_on[-1] = 1.0 - self.episode_starts[1:], 1.0 - dones.astype(np.float32)
        delta = self.rewards + self.gamma * following * going_on - self.values
        discount = self.gamma * self.gae_lambda * going_on
        advantages = self.advantages
        carried = np.zeros(self.n_envs, np.float32)
        for step in range(self.buffer_size - 1, -1, -1):
            np.multiply(discount[step], carried, out=carried)
            carried += delta[step]
            advantages[step] = carried
        self.returns = self.advantages + self.values

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Give the rollout in minibatches, in a new order."""
        assert self.full, "the rollout is not complete"
        if "_get_samples" in self.__dict__:  # somebody listens to what is drawn: see rlsd.states.Minibatch
            yield from super().get(batch_size)
            return
        size = self.buffer_size * self.n_envs
        indices = np.random.permutation(size)  # noqa: NPY002 - SB3's generator, drawn from as SB3 does
        if not self.generator_ready:
            for name in _NAMES:
                self.__dict__[name] = self.swap_and_flatten(self.__dict__[name])
            self.generator_ready = True
        step = size if batch_size is None else batch_size
        order = torch.from_numpy(indices).to(self.device)
        for start in range(0, size, step):
            rows = order[start : start + step]
            yield RolloutBufferSamples(*(tensor.index_select(0, rows) for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the whole flattened rollout on the device, in the order of SB3's samples.

        Only once :meth:`get` has begun. On the CPU they are the arrays themselves; elsewhere they were copied once.
        """
        arrays = tuple(self.__dict__[name] for name in _NAMES)
        cached = self.__dict__.get(_CACHE)
        # By identity: somebody may have put another array in the place of one.
        if cached is None or any(one is not other for one, other in zip(cached[0], arrays, strict=True)):
            made = tuple(self._tensor(name, array) for name, array in zip(_NAMES, arrays, strict=True))
            cached = self.__dict__[_CACHE] = (arrays, made)
        tensors: tuple[Tensor, ...] = cached[1]
        return tensors

    def _tensor(self, name: str, array: np.ndarray) -> Tensor:
        if name == "actions":
            array = array.astype(np.float32, copy=False)
        elif name != "observations":
            array = array.reshape(-1)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def reset(self) -> None:
        """Forget the rollout."""
        self.__dict__.pop(_CACHE, None)
        super().reset()

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key != _CACHE}
        return object.__new__, (RolloutBuffer,), state


def give_back(buffer: Any) -> None:
    """Make a buffer SB3's own again, in place."""
    buffer.__dict__.pop(_CACHE, None)
    buffer.__class__ = RolloutBuffer
