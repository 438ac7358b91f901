"""Teaching a student by imitation alone: gradient steps on stored states, without rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rlsd.rng import private_numbers
from rlsd.students.initialization import align_targets, trained_parameters

StatesT = TypeVar("StatesT", contravariant=True)


class Comparison(Protocol[StatesT]):
    """A loss on stored states, such as :class:`rlsd.students.imitation_loss.ImitationLoss`."""

    def calibrate(self, store: StatesT, /) -> None:
        """Take what scales the terms from stored states."""

    def batch(self, store: StatesT, size: int, /) -> Any:
        """Draw a minibatch of them."""

    def parts(self, policy: nn.Module, raw: Any, /) -> tuple[Tensor | None, Tensor | None]:
        """Return the terms of the loss on a minibatch."""


def imitate(
    policy: nn.Module,
    comparison: Comparison[StatesT],
    store: StatesT,
    steps: int,
    learning_rate: float,
    batch_size: int,
    generator: np.random.Generator,
    enough: Callable[[int], bool] | None = None,
) -> None:
    """Teach a policy what a tutor does and expects, with a learning rate that falls to 0, by Adam.

    Target networks follow at the end. The global generators are left as they were.

    :param policy: the student.
    :param comparison: the loss.
    :param store: the states; those held out are not learned on.
    :param steps: gradient steps.
    :param learning_rate: of the first step.
    :param batch_size: states a step.
    :param generator: seeds what layers such as dropout draw.
    :param enough: called with the number of steps after each; where it returns True, it was the last.
    """
    comparison.calibrate(store)
    parameters = trained_parameters(policy)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    policy.train(True)
    with private_numbers(generator), torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1.0 - step / steps)
            terms = comparison.parts(policy, comparison.batch(store, batch_size))
            optimizer.zero_grad()
            sum(term for term in terms if term is not None).backward()  # type: ignore[union-attr]
            optimizer.step()
            if enough is not None and enough(step + 1):
                break
    optimizer.zero_grad()
    policy.train(False)
    align_targets(policy)
