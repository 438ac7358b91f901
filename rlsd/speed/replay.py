"""An off-policy agent's replay buffer, sampled as tensors.

Bit-identical to SB3's: the same numbers are drawn from numpy's global generator in the same order. On the CPU the
agent's own buffer is lent a class that reads its arrays as tensors, while it learns. On another device the transitions
themselves lie there, so that no minibatch has to be moved; what is saved or copied is SB3's buffer all the same.

Dictionaries, hindsight, n-step returns and ``optimize_memory_usage`` are left to SB3.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rlsd import memory

_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_CACHE = "_rlsd_tensors"
#: Steps that wait on the host before they are moved together.
_WAITING = 256


class TensorReplayBuffer(ReplayBuffer):
    """See the module: SB3's arrays, read as tensors."""

    @staticmethod
    def suits(buffer: Any) -> bool:
        """Tell whether a buffer is SB3's own, which can be lent this class."""
        return type(buffer) is ReplayBuffer and not buffer.optimize_memory_usage

    def tensors(self) -> dict[str, Tensor]:
        """Return the buffer's arrays by name, ``(rows * n_envs, *shape)``."""
        cached = self.__dict__.get(_CACHE)
        if cached is None or cached[0] is not self.observations:
            flat = {name: _flat(torch.from_numpy(self.__dict__[name]), self.n_envs) for name in _ARRAYS}
            cached = self.__dict__[_CACHE] = (self.observations, flat)
        tensors: dict[str, Tensor] = cached[1]
        return tensors

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is not None:  # its statistics are numpy's
            return super()._get_samples(batch_inds, env)
        tensors = self.tensors()
        columns = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))  # noqa: NPY002 - as SB3 does
        slots = torch.from_numpy(batch_inds * self.n_envs + columns).to(self.device)
        picked = {name: tensors[name].index_select(0, slots) for name in _ARRAYS}
        ended = picked["dones"] * (1 - picked["timeouts"])
        return ReplayBufferSamples(
            picked["observations"],
            picked["actions"],
            picked["next_observations"],
            ended.reshape(-1, 1),
            picked["rewards"].reshape(-1, 1),
        )

    def plain_state(self) -> dict[str, Any]:
        """Return the attributes of the plain buffer that holds the same."""
        return {key: value for key, value in self.__dict__.items() if key != _CACHE}

    def __reduce_ex__(self, protocol: Any) -> Any:
        return object.__new__, (ReplayBuffer,), self.plain_state()


class DeviceReplayBuffer(TensorReplayBuffer):
    """See the module: transitions that lie on the device. ``observations`` and so on read as numpy arrays, by copy.

    :param buffer: SB3's own, whose content is taken over.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.__dict__.update({key: value for key, value in vars(buffer).items() if key not in _ARRAYS})
        self._tensors = {}
        self._waiting = {}
        for name in _ARRAYS:
            array = getattr(buffer, name)
            whole = torch.zeros(array.shape, dtype=torch.from_numpy(array[:1]).dtype, device=self.device)
            whole[: buffer.size()] = torch.from_numpy(array[: buffer.size()]).to(self.device)
            self._tensors[name] = whole
            self._waiting[name] = np.zeros((min(_WAITING, len(array)), *array.shape[1:]), array.dtype)
            self.__dict__[name] = Rows(self, name)
        self._flat = {name: _flat(tensor, self.n_envs) for name, tensor in self._tensors.items()}
        self._waiting_from, self._waiting_count = self.pos, 0

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Take up one step of every environment."""
        cut_short = [info.get("TimeLimit.truncated", False) for info in infos] if self.handle_timeout_termination else 0
        waiting, row = self._waiting, self._waiting_count
        shape = waiting["observations"].shape[1:]
        waiting["observations"][row] = np.asarray(obs).reshape(shape)
        waiting["next_observations"][row] = np.asarray(next_obs).reshape(shape)
        waiting["actions"][row] = action.reshape((self.n_envs, self.action_dim))
        waiting["rewards"][row], waiting["dones"][row], waiting["timeouts"][row] = reward, done, cut_short
        self._waiting_count += 1
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0
        if self.pos == 0 or self._waiting_count == len(waiting["rewards"]):
            self.flush()

    def flush(self) -> None:
        """Move to the device what waits on the host."""
        first, count = self._waiting_from, self._waiting_count
        if count:
            for name, tensor in self._tensors.items():
                tensor[first : first + count] = torch.from_numpy(self._waiting[name][:count]).to(self.device)
        self._waiting_from, self._waiting_count = self.pos, 0

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._waiting_from, self._waiting_count = 0, 0

    def tensors(self) -> dict[str, Tensor]:  # noqa: D102
        self.flush()
        return self._flat

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is None:
            return super()._get_samples(batch_inds)
        self.flush()
        return ReplayBuffer._get_samples(self, batch_inds, env)

    def plain_state(self) -> dict[str, Any]:  # noqa: D102
        self.flush()
        own = {"_tensors", "_flat", "_waiting", "_waiting_from", "_waiting_count"}
        state = {key: value for key, value in self.__dict__.items() if key not in own}
        return state | {name: tensor.cpu().numpy() for name, tensor in self._tensors.items()}


class Rows:
    """One array of a :class:`DeviceReplayBuffer`: what is picked of it, is copied to the host."""

    def __init__(self, buffer: DeviceReplayBuffer, name: str, shape: tuple[int, ...] | None = None) -> None:
        self._buffer, self._name = buffer, name
        self.shape = tuple(buffer._tensors[name].shape) if shape is None else shape

    def __getitem__(self, index: Any) -> np.ndarray:
        self._buffer.flush()
        parts = index if isinstance(index, tuple) else (index,)
        moved = tuple(torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in parts)
        return self._buffer._tensors[self._name].reshape(self.shape)[moved].cpu().numpy()

    def __setitem__(self, index: Any, value: Any) -> None:
        self._buffer.flush()
        tensor = self._buffer._tensors[self._name].view(self.shape)
        tensor[index] = torch.as_tensor(np.asarray(value), dtype=tensor.dtype, device=tensor.device)

    def reshape(self, *shape: int) -> Rows:
        """Return the same array in another shape."""
        return Rows(self._buffer, self._name, shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The number type."""
        dtype: np.dtype[Any] = self._buffer._waiting[self._name].dtype
        return dtype

    @property
    def nbytes(self) -> int:
        """The bytes it takes on the device."""
        return self._buffer._tensors[self._name].nbytes


def lend(agent: Any) -> None:
    """Have an agent's replay buffer sampled as tensors, if it is one that can be.

    A buffer that would not fit on the agent's device stays on the host, and a warning says why.
    """
    buffer = getattr(agent, "replay_buffer", None)
    if not TensorReplayBuffer.suits(buffer):
        return
    assert isinstance(buffer, ReplayBuffer)
    if buffer.device.type == "cpu":
        buffer.__class__ = TensorReplayBuffer
        return
    needed, allowed = sum(getattr(buffer, name).nbytes for name in _ARRAYS), memory.budget(buffer.device)
    if allowed is None or needed <= allowed:
        agent.replay_buffer = DeviceReplayBuffer(buffer)
        return
    warnings.warn(
        f"the replay buffer stays on the host: its {memory.readable(needed)} are more than the budget of "
        f"{memory.readable(allowed)} on {buffer.device}. Lower buffer_size={agent.buffer_size}, or set "
        f"{memory.VARIABLE}, or say Speed(tensor_replay=False)",
        stacklevel=2,
    )


def give_back(agent: Any, device_too: bool = False) -> None:
    """Make an agent's replay buffer SB3's own again, where that costs nothing.

    :param device_too: also where it lies on another device, from which it is copied.
    """
    buffer: Any = getattr(agent, "replay_buffer", None)
    if type(buffer) is TensorReplayBuffer:
        buffer.__dict__.pop(_CACHE, None)
        lent: Any = buffer
        lent.__class__ = ReplayBuffer
    elif device_too and isinstance(buffer, DeviceReplayBuffer):
        plain = ReplayBuffer.__new__(ReplayBuffer)
        plain.__dict__.update(buffer.plain_state())
        agent.replay_buffer = plain


def _flat(tensor: Tensor, n_envs: int) -> Tensor:
    """Return the rows of every environment one after the other, ``(rows * n_envs, *shape)``, sharing memory."""
    return tensor.view(tensor.shape[0] * n_envs, *tensor.shape[2:])
