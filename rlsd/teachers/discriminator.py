"""Which stored states are like those that the agent meets now? A small classifier of the two, learned on the way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Raised for a larger network, which would cost more at each update; two small layers tell what must be told.
WIDTH = 32
#: Inputs are standardised and clipped here, so that a rare huge number cannot saturate the network.
LARGEST = 10.0


class Discriminator:
    """``P(met now | state)``, from as many states met now as stored ones: 1/2 where both are equally dense.

    A multi-layer perceptron on standardised inputs, trained by logistic loss with Adam. It stays as it is between
    trainings, so that it follows slow changes at little cost.

    :param size: how many numbers describe a state.
    :param generator: draws the initial weights and the minibatches.
    :param device: where it is computed.
    """

    LEARNING_RATE = 3e-3

    def __init__(self, size: int, generator: np.random.Generator, device: torch.device) -> None:
        self._generator = generator
        shapes = [(WIDTH, size), (WIDTH, WIDTH), (1, WIDTH)]
        self._parts = [part for outputs, inputs in shapes for part in ((outputs, inputs), (outputs,))]
        bounds = [1.0 / np.sqrt(inputs) for _, inputs in shapes for _ in range(2)]  # as torch initialises a Linear
        drawn = [generator.uniform(-w, w, part).ravel() for w, part in zip(bounds, self._parts, strict=True)]
        # All in one vector: the optimizer has one tensor to step.
        self.weights = nn.Parameter(torch.tensor(np.concatenate(drawn), dtype=torch.float32, device=device))
        self._optimizer = torch.optim.Adam([self.weights], lr=self.LEARNING_RATE, fused=True)
        self.mean = torch.zeros(size, device=device)
        self.std = torch.ones(size, device=device)
        #: Share of the latest training batches that it told apart rightly; 1/2 is chance.
        self.accuracy = 0.5

    def _standardised(self, inputs: Tensor) -> Tensor:
        return ((inputs - self.mean) / self.std).clamp_(-LARGEST, LARGEST)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of ``P(met now | state)``, ``(n, 1)``, of standardised inputs ``(n, size)``."""
        parts = self.weights.split([int(np.prod(shape)) for shape in self._parts])
        w1, b1, w2, b2, w3, b3 = (part.view(shape) for part, shape in zip(parts, self._parts, strict=True))
        return F.linear(F.linear(F.linear(x, w1, b1).relu(), w2, b2).relu(), w3, b3)

    @torch.no_grad()
    def train(self, now: Tensor, stored: Tensor, steps: int, batch_size: int) -> None:
        """Learn to tell states met now from stored ones.

        :param now: ``(n, size)``.
        :param stored: ``(m, size)``.
        :param steps: gradient steps.
        :param batch_size: states of each kind in a step.
        """
        both = torch.cat([now, stored])
        self.mean, self.std = both.mean(0), both.std(0).clamp(min=1e-6)
        now, stored = self._standardised(now), self._standardised(stored)
        labels = torch.cat([torch.ones(batch_size, 1), torch.zeros(batch_size, 1)]).to(now.device)
        right = torch.zeros((), device=now.device)
        picks = [self._generator.integers(len(some), size=(steps, batch_size)) for some in (now, stored)]
        for ours, theirs in zip(*(torch.from_numpy(rows).to(now.device) for rows in picks), strict=True):
            batch = torch.cat([now[ours], stored[theirs]])
            with torch.enable_grad():
                logits = self.logits(batch)
                F.binary_cross_entropy_with_logits(logits, labels).backward()
            self._optimizer.step()
            self.weights.grad = None
            right += ((logits > 0) == (labels > 0.5)).float().mean()
        self.accuracy = float(right) / steps

    @torch.no_grad()
    def probability(self, inputs: Tensor) -> Tensor:
        """Return ``P(met now | state)``, ``(n,)``, from ``(n, size)``."""
        return self.logits(self._standardised(inputs)).sigmoid().squeeze(-1)

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, standardisation and the optimizer's moments by name."""
        return {"mean": self.mean, "std": self.std, "weights": self.weights.detach()} | dict(
            self._optimizer.state.get(self.weights, {})
        )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what :meth:`tensors` returned."""
        found = tensors["weights"]
        if found.shape != self.weights.shape:
            raise ValueError(f"the saved discriminator has {found.numel()} weights, not {self.weights.numel()}")
        self.weights.data.copy_(found)
        moments = {name: tensors[name] for name in ("step", "exp_avg", "exp_avg_sq") if name in tensors}
        if moments:
            self._optimizer.state[self.weights] = {n: t.to(found.device).clone() for n, t in moments.items()}
        self.mean, self.std = (tensors[name].to(self.mean.device).clone() for name in ("mean", "std"))
