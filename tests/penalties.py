"""A penalty on a few states by itself, and what tests ask of it."""

from __future__ import annotations

import numpy as np
import torch
from helpers import Handing, collect, disturb, observe

from rlsd import KL, Constant, EveryStep, Reservoir, Snapshot
from rlsd.actors import actor_for
from rlsd.gates import GateInput
from rlsd.injection import eval_mode
from rlsd.metrics import Metrics
from rlsd.observations import as_items
from rlsd.penalty import Penalty
from rlsd.strength import Coefficient
from rlsd.targets import Batch, TargetCache
from rlsd.teachers import TargetSpec


def build(
    agent, bound: float = 1e9, stride: int = 1, divergence=None, batch_size: int = 8, wants: TargetSpec | None = None
) -> Penalty:
    """A penalty on 32 states, whose teacher is what the agent was before its parameters were disturbed."""
    actor = actor_for(agent)
    teacher = Snapshot().build(actor)
    teacher.take(agent)
    teacher.wants = wants or TargetSpec(value=bool(divergence and divergence.value_weight))
    store = Reservoir(capacity=max(32, batch_size), batch_size=batch_size).build(np.random.SeedSequence(0), agent)
    cache = TargetCache(store, teacher)
    states = {key: t.numpy() for key, t in as_items(observe(agent.observation_space, 32)).items()}
    collect(cache, agent, Handing(states))
    actor.family.calibrate(cache.sample_targets())
    disturb(agent.policy, 0.3)
    metrics = Metrics(torch.device("cpu"))
    return Penalty(actor, divergence or KL(), EveryStep(stride), Coefficient(Constant(bound=bound)), cache, metrics)


def recorded(penalty: Penalty) -> list[Batch]:
    """The minibatches of the penalties that are made from now on."""
    batches: list[Batch] = []
    penalty.observers.append(lambda batch, loss, gradient: batches.append(batch))
    return batches


def loss_of(penalty: Penalty) -> torch.Tensor:
    """The loss of the next minibatch, with its graph."""
    update, (batch, stride) = penalty.running, penalty.draw()
    with eval_mode(update.modules):
        student = penalty.student(update, batch)
        loss = penalty.loss(update, batch, student, stride)
    penalty.record(update, batch, student, loss)
    penalty.tell(batch, loss, ())
    return loss.total


def flat(gradients) -> torch.Tensor:
    return torch.cat([gradient.flatten() for _, gradient in gradients])


class Weighing:
    """A gate that weighs states as a test says."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.fixed = weights
        self.seen: list[GateInput] = []

    def weights(self, situation: GateInput) -> torch.Tensor:
        self.seen.append(situation)
        return self.fixed
