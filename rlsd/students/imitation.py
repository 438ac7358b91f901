"""Teaching a student by imitation alone: gradient steps on stored states, without rewards."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rlsd.rng import private_numbers
from rlsd.states import StateStore
from rlsd.students.imitation_loss import ImitationLoss
from rlsd.students.initialization import align_targets, trained_parameters


def imitate(
    policy: nn.Module,
    comparison: ImitationLoss,
    store: StateStore,
    steps: int,
    learning_rate: float,
    batch_size: int,
    generator: np.random.Generator,
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
    optimizer.zero_grad()
    policy.train(False)
    align_targets(policy)
