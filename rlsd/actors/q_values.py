"""The policy of Q-learners: by the values of the actions, whose scale is the task's own."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from rlsd.actors.base import Actor, uncompiled
from rlsd.actors.comparing import chosen_best, predicts_alike
from rlsd.distributions import QValues
from rlsd.observations import Observations


class QLearner(Actor):
    """DQN's way of acting; its distribution is ``softmax(Q / tau)``, with tau from the spread of the teacher's Q."""

    policies = ("stable_baselines3.dqn.policies.DQNPolicy",)
    rounds = 6  # of two actions, both may prefer the same by chance

    def __init__(self, policy: nn.Module) -> None:
        self.family = QValues(int(cast(Any, policy).action_space.n))

    def module(self, policy: Any) -> nn.Module:  # noqa: D102
        return uncompiled(policy.q_net)

    def optimizer(self, policy: Any) -> Optimizer:  # noqa: D102
        return cast(Optimizer, policy.optimizer)

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        return cast(Tensor, module(states))

    def mismatch(self, policy: Any, states: Observations) -> str:  # noqa: D102
        if not chosen_best(self.parameters(self.module(policy), states), self.act(policy, states)):
            return "_predict"
        return "" if predicts_alike(policy, states) else "predict"


class QuantileLearner(QLearner):
    """QR-DQN's way of acting: by the mean of the quantiles of each action's value."""

    policies = ("sb3_contrib.qrdqn.policies.QRDQNPolicy",)

    def module(self, policy: Any) -> nn.Module:  # noqa: D102
        return uncompiled(policy.quantile_net)

    def parameters(self, module: Any, states: Observations) -> Tensor:  # noqa: D102
        return cast(Tensor, module(states)).mean(dim=1)  # (batch, quantiles, actions)
