"""Puts the parts in place where an agent learns, collects and trains, and takes each back when that is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rlsd import faults
from rlsd.speed import off_policy, replay, rollouts, update
from rlsd.speed.acting import lean_methods
from rlsd.speed.lean_update import lean_update
from rlsd.speed.mirror import Mirror, check_mirrored
from rlsd.speed.parts import Speed
from rlsd.speed.standing_in import standing_in, until_rebuilt
from rlsd.speed.validation import no_validation, one_thread, validation


class Accelerator:
    """The acceleration of one agent. It keeps no reference to the agent: every method is handed it again.

    :param speed: which parts are on.
    :param rollout_device: where the agent acts; None for where it trains.
    """

    def __init__(self, speed: Speed, rollout_device: torch.device | None = None) -> None:
        self.speed = speed
        self.rollout_device = rollout_device
        self._mirror: Mirror | None = None
        self._trains_on: torch.device | None = None  # while a mirror acts
        self._looked_at: int | None = None  # the step of this learn() at which the parameters were last looked at

    def check(self, agent: Any) -> None:
        """Raise when the agent cannot be accelerated so.

        :raises ValueError: then.
        """
        if self.rollout_device is not None:
            check_mirrored(agent)

    @contextmanager
    def learning(self, agent: Any) -> Iterator[None]:
        """Have the parts in place that last for a whole ``learn``, which may count its steps anew."""
        self._looked_at = None
        if self._mirror is not None:
            self._mirror.forget()
        with ExitStack() as stack:
            if self._leaves_out_validation(agent):
                stack.enter_context(no_validation())
            if self.speed.one_thread:
                stack.enter_context(one_thread(agent))
            stack.callback(self._give_back, agent)
            buffer = getattr(agent, "rollout_buffer", None)
            if self.speed.tensor_rollouts and rollouts.TensorRolloutBuffer.suits(buffer):
                assert buffer is not None
                buffer.__class__ = rollouts.TensorRolloutBuffer
            if self.speed.tensor_replay:
                replay.lend(agent)
            yield

    def _give_back(self, agent: Any) -> None:
        buffer = getattr(agent, "rollout_buffer", None)
        if isinstance(buffer, rollouts.TensorRolloutBuffer):
            rollouts.give_back(buffer)
        replay.give_back(agent)

    def _leaves_out_validation(self, agent: Any) -> bool:
        # An off-policy agent's update samples observations that it has not acted on.
        return self.speed.no_validation and isinstance(agent, OnPolicyAlgorithm)

    @contextmanager
    def collecting(self, agent: Any) -> Iterator[None]:
        """Have the parts in place that last for one rollout.

        :raises ValueError: when it is time to look for parameters that are not finite, and there are some.
        """
        if self.due_to_look(agent):
            faults.refuse(agent)
        with validation() if self._leaves_out_validation(agent) else nullcontext(), self._acting(agent):
            yield

    @contextmanager
    def _acting(self, agent: Any) -> Iterator[None]:
        if self.rollout_device is None:
            methods = lean_methods(agent.policy) if self.speed.lean_acting else {}
            if methods:
                _forget_graph(agent.policy)
            with standing_in(agent.policy, methods), until_rebuilt(agent.policy):
                yield
            return
        if self._mirror is None or not self._mirror.is_of(agent):
            self._mirror = Mirror(agent, self.rollout_device)
        every = 1 if isinstance(agent, OnPolicyAlgorithm) else self.speed.mirror_every
        self._mirror.refresh(agent.num_timesteps, every)
        _forget_graph(agent.policy)
        self._trains_on = agent.device
        try:
            with self._mirror.acting(agent, self.speed.lean_acting):
                yield
        finally:
            self._trains_on = None

    def update(self, agent: Any, train: partial[None]) -> None:
        """Do what ``train``, the agent's own with its arguments, would do."""
        exact = not self.speed.fused_adam
        if self.speed.own_update and update.can_own(agent):
            update.train(agent, exact)
        elif not (self.speed.own_update and off_policy.train(agent, exact, train)):
            with lean_update(agent, self.speed.lean_critic, self.speed.fused_adam):
                train()

    @contextmanager
    def as_trained(self, agent: Any) -> Iterator[None]:
        """Let the agent be on its training device, for what is made of it in the middle of a rollout."""
        acts_on = agent.device
        agent.device = self._trains_on or acts_on
        try:
            yield
        finally:
            agent.device = acts_on

    def state_of(self, agent: Any) -> dict[str, Any]:
        """Return the agent's attributes, to copy it by, as they are between rollouts."""
        state: dict[str, Any] = agent.__dict__
        return state if self._trains_on is None else state | {"device": self._trains_on}

    def release(self, agent: Any) -> None:
        """Make the agent's replay buffer SB3's own again, wherever it lies."""
        replay.give_back(agent, device_too=True)

    def due_to_look(self, agent: Any, every: int = 1000) -> bool:
        """Tell whether it is time to look for parameters that are not finite, in the checks' stead."""
        if not self.speed.no_validation:
            return False
        steps = agent.num_timesteps
        at = self._looked_at
        if at is not None and at <= steps < at + every and not isinstance(agent, OnPolicyAlgorithm):
            return False
        self._looked_at = steps
        return True

    def __reduce__(self) -> Any:
        return Accelerator, (self.speed, self.rollout_device)


def _forget_graph(policy: Any) -> None:
    """Let go of the latest update's graph, as acting by itself would: a policy that holds one cannot be copied."""
    for owner in (policy, getattr(policy, "actor", None)):
        dist = getattr(owner, "action_dist", None)
        for name in ("distribution", "gaussian_actions"):
            if dist is not None and name in vars(dist):
                setattr(dist, name, None)
