"""A critic that learns alone for the first updates, while the actor stands still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from rlsd.actors import Actor, QLearner, algorithm_name
from rlsd.actors.comparing import imagined
from rlsd.injection import eval_mode
from rlsd.observations import from_items, with_context
from rlsd.timing import EveryStep


class CriticFirst:
    """Holds an actor still for the first updates of its agent.

    :param actor: the adapter to the agent's way of acting.
    :param timing: says for how many.
    :param agent: the agent.
    :raises TypeError: when it has no critic that could learn alone.
    """

    def __init__(self, actor: Actor, timing: EveryStep, agent: BaseAlgorithm) -> None:
        self._actor, self.updates = actor, timing.critic_first
        self.done = 0
        steps_by_itself = hasattr(agent, "_compute_actor_grad") or self._actor.optimizer(agent.policy) is None
        if self.updates and (isinstance(self._actor, QLearner) or steps_by_itself):
            raise TypeError(
                "timing.critic_first lets a critic learn while the actor stands still, and a "
                f"{algorithm_name(agent)} has no such critic: leave it at 0"
            )

    @contextmanager
    def holding(self, agent: BaseAlgorithm) -> Iterator[None]:
        """Hold the actor still in an update of the agent, run inside, if it is one of the first."""
        held = acting_parameters(self._actor, agent) if self.done < self.updates else []
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in held:
                parameter.requires_grad_(True)
        self.done = min(self.done + 1, self.updates)

    def state(self) -> dict[str, Any]:
        """Return how many updates are done, as plain data."""
        return {"done": self.done}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state` returned; files of before have none."""
        self.done = int(state.get("done", 0))


def acting_parameters(actor: Actor, agent: BaseAlgorithm) -> list[nn.Parameter]:
    """Return the trained parameters on which an agent's actions depend, those that its critic shares among them."""
    module: nn.Module = actor.module(agent.policy)
    parameters = [p for p in module.parameters() if p.requires_grad]
    observations = imagined(agent.policy.observation_space, 2, np.random.default_rng(0), agent.policy.device)
    states = from_items(with_context(observations, actor.imagined_context(agent.policy, 2)))
    with eval_mode(module.modules()), torch.enable_grad():
        answers = actor.parameters(module, states).sum()
        if not answers.requires_grad:  # held still already, by another distillation or by the user
            return []
        found = torch.autograd.grad(answers, parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
