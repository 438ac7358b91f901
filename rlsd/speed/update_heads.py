"""Log probabilities, their gradients and entropies, of the action distributions in closed form.

Unless ``quick``, each is computed by the operations, in the order, in which SB3, ``torch.distributions`` and autograd
compute it, so that no bit differs.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rlsd.speed.update_blocks import Block, Row

_softmax_backward = torch.ops.aten._softmax_backward_data


class Head(Protocol):
    """From the actor's outputs on one block's minibatches to log probabilities, and gradients the way back."""

    def log_prob(self, row: Row, output: Tensor) -> None:
        """Write a minibatch's log probabilities."""

    def backward(self, row: Row, slope: np.ndarray, entropy: np.float32) -> Tensor:
        """Return the gradient by the actor's output.

        :param slope: the gradient by each log probability.
        :param entropy: the gradient by each entropy, with the sign turned.
        """

    def entropies(self, count: int) -> Tensor:
        """Return the entropies in the first ``count`` minibatches, ``(count, size)``."""


class DiscreteHead:
    """Logits of one choice.

    :param block: the minibatches.
    :param choices: how many there are to choose from.
    :param quick: use torch's fused kernels.
    """

    def __init__(self, block: Block, choices: int, quick: bool) -> None:
        self._quick = quick
        self._logits = torch.empty(block.total, block.size, choices)
        self._rows = self._logits.unbind()
        self._log_probs = list(block.log_probs.unsqueeze(2).unbind())
        self._exp, self._slope = torch.empty(block.size, choices), torch.empty(block.size, choices)
        self._exp_array, self._slope_array = self._exp.numpy(), self._slope.numpy()
        self._of_two = LogProbsOfTwo(block.size) if choices == 2 and not quick else None

    def log_prob(self, row: Row, output: Tensor) -> None:  # noqa: D102
        logits = self._rows[row.number]
        if self._quick:
            torch._log_softmax(output, -1, False, out=logits)
        elif self._of_two is not None:
            self._of_two(output.numpy(), logits.numpy())
        else:
            torch.sub(output, torch.logsumexp(output, -1, keepdim=True), out=logits)
        torch.gather(logits, 1, row.actions, out=self._log_probs[row.number])

    def backward(self, row: Row, slope: np.ndarray, entropy: np.float32) -> Tensor:  # noqa: D102
        logits = self._rows[row.number]
        torch.exp(logits, out=self._exp)
        chosen = torch.from_numpy(slope).unsqueeze(1)
        if entropy == 0.0:
            np.multiply(self._exp_array, -slope[:, None], self._slope_array)
            return self._slope.scatter_add_(1, row.actions, chosen)
        probs = self._exp if self._quick else torch.softmax(logits, -1)
        weight = float(entropy)
        total: Tensor = _softmax_backward(logits * weight, probs, -1, torch.float32)
        total.add_(probs * weight).scatter_add_(1, row.actions, chosen)
        return total.sub_(self._exp.mul_(total.sum(-1, keepdim=True)))

    def entropies(self, count: int) -> Tensor:  # noqa: D102
        logits = self._logits[:count]
        return -(logits * torch.softmax(logits, -1)).sum(-1)


class LogProbsOfTwo:
    """``logits - logsumexp(logits)`` for two choices, in half of torch's time and to its last bit.

    Torch adds ``exp(x - max)`` of both, of which one is ``exp(0)``, and of two numbers there is one order to add in.

    :param size: rows.
    """

    def __init__(self, size: int) -> None:
        self._largest, self._gap = np.empty(size, np.float32), torch.empty(size)
        self._gap_array = self._gap.numpy()

    def __call__(self, given: np.ndarray, out: np.ndarray) -> None:
        """Write ``(size, 2)`` for logits ``(size, 2)``."""
        first, second, gap = given[:, 0], given[:, 1], self._gap_array
        np.maximum(first, second, out=self._largest)
        np.subtract(first, second, out=gap)
        np.negative(np.abs(gap, out=gap), out=gap)
        torch.exp(self._gap, out=self._gap)
        gap += np.float32(1.0)
        torch.log(self._gap, out=self._gap)
        gap += self._largest
        np.subtract(first, gap, out=out[:, 0])
        np.subtract(second, gap, out=out[:, 1])


class GaussianHead:
    """Means of independent normal distributions, with standard deviations that are parameters.

    :param block: the minibatches.
    :param log_std: the parameter.
    :param into: where its gradient belongs.
    :param quick: sum the gradient by the standard deviations in a shorter way.
    """

    _CONSTANT = np.float32(math.log(math.sqrt(2 * math.pi)))
    _ENTROPY = 0.5 + 0.5 * math.log(2 * math.pi)

    def __init__(self, block: Block, log_std: Tensor, into: Tensor, quick: bool) -> None:
        self._quick, self._log_std, self._into, self._size = quick, log_std, into, block.size
        actions = len(log_std)
        self._log_stds = torch.empty(block.total, actions)
        self._std = torch.empty(actions)
        self._std_array = self._std.numpy()
        rows: list[Any] = [np.empty((block.size, actions), np.float32) for _ in range(4)]
        self._off, self._quotient, self._term, self._slope_array = rows
        self._term_tensor, self._slope = torch.from_numpy(self._term), torch.from_numpy(self._slope_array)

    def log_prob(self, row: Row, output: Tensor) -> None:  # noqa: D102
        log_std = self._log_stds[row.number]
        torch.exp(self._log_std.detach(), out=self._std)
        torch.log(self._std, out=log_std)
        std = self._std_array
        self._twice_variance = std * std * np.float32(2)
        off, quotient, term = self._off, self._quotient, self._term
        np.subtract(row.actions_array, output.numpy(), off)
        np.multiply(off, off, quotient)
        np.divide(quotient, -self._twice_variance, quotient)
        np.subtract(quotient, log_std.numpy(), term)
        np.subtract(term, self._CONSTANT, term)
        torch.sum(self._term_tensor, 1, out=row.log_probs)

    def backward(self, row: Row, slope: np.ndarray, entropy: np.float32) -> Tensor:  # noqa: D102
        off, quotient, term, std = self._off, self._quotient, self._term, self._std_array
        by_row = slope[:, None]
        off += off
        np.divide(by_row, self._twice_variance, term)
        np.multiply(term, off, self._slope_array)
        if self._quick:
            # The gradient of log N by log std is (x - mean)²/variance - 1, and the quotient is its negative half.
            self._into.numpy()[...] = -2.0 * (slope @ quotient) - slope.sum() - entropy * np.float32(self._size)
            return self._slope
        against = -by_row
        np.divide(quotient, self._twice_variance, quotient)
        quotient *= against
        quotient += quotient
        quotient *= std + std
        np.divide(against, std, term)
        if entropy != 0.0:
            term += -entropy / std
        term += quotient
        torch.mul(torch.sum(self._term_tensor, 0), self._std, out=self._into)
        return self._slope

    def entropies(self, count: int) -> Tensor:  # noqa: D102
        terms = self._ENTROPY + self._log_stds[:count].unsqueeze(1)
        return terms.expand(-1, self._size, -1).contiguous().sum(-1)
