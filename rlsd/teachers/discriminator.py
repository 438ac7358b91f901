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
        self._sizes = [(WIDTH, size), (WIDTH, WIDTH), (1, WIDTH)]
        self.parameters = [p for shape in self._sizes for p in self._layer(shape, device)]
        self._optimizer = torch.optim.Adam(self.parameters, lr=self.LEARNING_RATE, fused=True)
        self.mean = torch.zeros(size, device=device)
        self.std = torch.ones(size, device=device)
        #: Share of the latest training batches that it told apart rightly; 1/2 is chance.
        self.accuracy = 0.5

    def _layer(self, shape: tuple[int, int], device: torch.device) -> list[nn.Parameter]:
        bound = 1.0 / np.sqrt(shape[1])  # as torch initialises a Linear layer
        weight, bias = (self._generator.uniform(-bound, bound, size) for size in (shape, shape[:1]))
        return [nn.Parameter(torch.tensor(array, dtype=torch.float32, device=device)) for array in (weight, bias)]

    def _logits(self, inputs: Tensor) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self.parameters
        hidden = F.relu(F.linear(((inputs - self.mean) / self.std).clamp(-LARGEST, LARGEST), w1, b1))
        return F.linear(F.relu(F.linear(hidden, w2, b2)), w3, b3).squeeze(-1)

    def train(self, now: Tensor, stored: Tensor, steps: int, batch_size: int) -> None:
        """Learn to tell states met now from stored ones.

        :param now: ``(n, size)``.
        :param stored: ``(m, size)``.
        :param steps: gradient steps.
        :param batch_size: states of each kind in a step.
        """
        both = torch.cat([now, stored])
        self.mean, self.std = both.mean(0), both.std(0).clamp(min=1e-6)
        labels = torch.cat([torch.ones(batch_size), torch.zeros(batch_size)]).to(now.device)
        right = torch.zeros((), device=now.device)
        for _ in range(steps):
            picks = [self._generator.integers(len(some), size=batch_size) for some in (now, stored)]
            batch = torch.cat([some[torch.from_numpy(i)] for some, i in zip((now, stored), picks, strict=True)])
            with torch.enable_grad():
                logits = self._logits(batch)
                gradients = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, labels), self.parameters)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            self._optimizer.step()
            right += ((logits > 0) == (labels > 0.5)).float().mean()
        self._optimizer.zero_grad(set_to_none=True)
        self.accuracy = float(right) / steps

    def probability(self, inputs: Tensor) -> Tensor:
        """Return ``P(met now | state)``, ``(n,)``, from ``(n, size)``."""
        with torch.no_grad():
            return self._logits(inputs).sigmoid()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, standardisation and the optimizer's moments by name."""
        out = {"mean": self.mean, "std": self.std}
        for i, parameter in enumerate(self.parameters):
            out[f"parameter/{i}"] = parameter.detach()
            for name, tensor in self._optimizer.state.get(parameter, {}).items():
                out[f"{name}/{i}"] = tensor
        return out

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`tensors` returned."""
        for i, parameter in enumerate(self.parameters):
            found = tensors[f"parameter/{i}"]
            if found.shape != parameter.shape:
                raise ValueError(f"the saved discriminator takes {tuple(found.shape)}, not {tuple(parameter.shape)}")
            parameter.data.copy_(found)
            moments = {n: tensors[f"{n}/{i}"] for n in ("step", "exp_avg", "exp_avg_sq") if f"{n}/{i}" in tensors}
            if moments:
                self._optimizer.state[parameter] = {n: t.to(parameter.device).clone() for n, t in moments.items()}
        self.mean, self.std = (tensors[name].to(self.mean.device).clone() for name in ("mean", "std"))
