"""A rollout's minibatches as matrices, one row for each: the operands of PPO's update and what it leaves to be told.

What is looked at only in the log is computed for all minibatches of an epoch together, from what stands here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

#: Bytes of features, of a whole rollout, up to which they are made of all observations at once.
_ROOM = 16 * 2**20
_NAMES = ("observations", "actions", "values", "log_probs", "advantages", "returns")


class Rollout:
    """A whole rollout as tensors.

    :param buffer: a full one.
    :param inputs: from observations to features.
    """

    def __init__(self, buffer: RolloutBuffer, inputs: Any) -> None:
        if not buffer.generator_ready:  # as its ``get`` does it
            for name in _NAMES:
                buffer.__dict__[name] = buffer.swap_and_flatten(buffer.__dict__[name])
            buffer.generator_ready = True
        self._observations, self._inputs = torch.from_numpy(buffer.observations), inputs
        wide = inputs(self._observations[:1]).nbytes * len(self) > max(_ROOM, self._observations.nbytes)
        # One-hot or as floats they may take a thousand times what they are kept in: then for each minibatch anew.
        self._features: Tensor | None = None if wide else inputs(self._observations)
        actions = torch.from_numpy(buffer.actions.astype(np.float32, copy=False))
        self.actions = actions.long().view(-1) if isinstance(buffer.action_space, spaces.Discrete) else actions
        numbers = (buffer.log_probs, buffer.advantages, buffer.returns, buffer.values)
        self.numbers = torch.from_numpy(np.stack([array.reshape(-1) for array in numbers]))

    def __len__(self) -> int:
        return len(self._observations)

    def features(self, numbers: Tensor, out: Tensor) -> None:
        """Write the features of the transitions of these numbers."""
        if self._features is None:
            out.copy_(self._inputs(self._observations[numbers]))
        else:
            torch.index_select(self._features, 0, numbers, out=out)


class Block:
    """``count`` minibatches of ``size`` transitions, for each of ``epochs`` epochs.

    Each quantity is a tensor ``(count, size, ...)``, a list of its rows as tensors and, named with ``_array``, one of
    its rows as numpy arrays on the same memory: numpy's additions and multiplications give the same bits as torch's
    and take a fifth of the time on so few numbers.

    :param features: numbers in an observation.
    :param actions: of how many numbers an action consists; None for the number of a discrete action.
    """

    def __init__(self, count: int, size: int, features: int, actions: int | None, epochs: int = 1) -> None:
        self.count, self.size, self.total = count, size, count * epochs
        #: Whose transitions they are, while an update runs.
        self.rollout: Rollout | None = None
        #: Of the minibatch worked on, in memory of its own, aligned as SB3's is: how a matrix product rounds may
        #: depend on that.
        self.features = torch.empty(size, features)
        shape = (count * size,) if actions is None else (count * size, actions)
        self._actions = torch.empty(shape, dtype=torch.long if actions is None else torch.float32)
        self.actions = self._actions.view(count, size, -1)
        # The inputs lie in the order (quantity, epoch, ...), and are selected for one epoch at a time.
        inputs = torch.empty(4, epochs, count * size)
        self.old_log_probs, self.advantages, self.returns, self.old_values = inputs.view(4, self.total, size).unbind()
        self._inputs = inputs.unbind(1)
        outputs = torch.empty(6, self.total, size)
        self.log_probs, self.ratios, self.plain, self.clipped, self.values, self.slopes = outputs.unbind()
        self._advantages, self._slopes = self.advantages.split(count), self.slopes.split(count)
        rows = [Row(self, k) for k in range(self.total)]
        self.rows = [rows[start : start + count] for start in range(0, self.total, count)]
        self._share = torch.tensor(-1.0) / size

    def load(self, order: Tensor, epoch: int, normalize: bool, quick: bool) -> list[Row]:
        """Take up the transitions of these numbers, in this order, and return their minibatches."""
        for row, numbers in zip(self.rows[epoch], order.split(self.size), strict=True):
            row.transitions = numbers
        rollout = self.rollout
        assert rollout is not None
        torch.index_select(rollout.actions, 0, order, out=self._actions)
        self._inputs[epoch].copy_(torch.index_select(rollout.numbers, 1, order))
        advantages = self._advantages[epoch]
        if normalize and self.size > 1:
            # Over one row and over the rows of a matrix, torch computes standard deviations differently.
            deviation = advantages.std(1) if quick else torch.stack([row.std() for row in advantages.unbind()])
            advantages.sub_(advantages.mean(1, keepdim=True)).div_(deviation.add_(1e-8).unsqueeze(1))
        # By the ratio, before clipping: the mean's gradient times what stands beside the ratio.
        torch.mul(advantages, self._share, out=self._slopes[epoch])
        return self.rows[epoch]


class Row:
    """One minibatch of a :class:`Block`, by views of its matrices made once."""

    def __init__(self, block: Block, k: int) -> None:
        self.number = k
        self.transitions: Tensor  # their numbers in the rollout
        self._block, self.actions = block, block.actions[k % block.count]
        self.actions_array = self.actions.numpy()
        self.log_probs, self.ratios = block.log_probs[k], block.ratios[k]
        self.log_probs_array, self.ratios_array = self.log_probs.numpy(), self.ratios.numpy()
        self.old_log_probs, self.old_values = block.old_log_probs[k].numpy(), block.old_values[k].numpy()
        self.advantages, self.returns = block.advantages[k].numpy(), block.returns[k].numpy()
        self.plain, self.clipped = block.plain[k].numpy(), block.clipped[k].numpy()
        self.values, self.slopes = block.values[k].numpy(), block.slopes[k].numpy()

    @property
    def features(self) -> Tensor:
        """Its observations as the networks take them, written anew over those of the minibatch before."""
        block = self._block
        assert block.rollout is not None
        block.rollout.features(self.transitions, block.features)
        return block.features
