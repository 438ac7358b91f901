"""How a worker acts: with a copy of the policy, on rows that are computed alike wherever their environment lives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor, nn

from rlsd.actors import algorithm_name
from rlsd.actors.base import acting_copy, uncompiled
from rlsd.observations import as_items, from_items
from rlsd.scaling.drawing import Drawing, Numbers, noise_of, random_actions, why_not, width
from rlsd.scaling.fragment import Plan


@dataclass
class Acted:
    """What a policy did with one observation of each environment; None for what it has not.

    :param taken: the actions as the environments get them.
    :param actions: as the policy drew them, and ``stored`` as a replay buffer keeps them.
    """

    taken: np.ndarray
    actions: np.ndarray
    stored: np.ndarray | None = None
    values: np.ndarray | None = None
    log_probs: np.ndarray | None = None


def check(agent: Any) -> None:
    """Raise when workers cannot act for an agent as it would by itself.

    :raises ValueError: then.
    """
    reason = _why_not(agent)
    if reason:
        raise ValueError(f"workers cannot collect for {algorithm_name(agent)}: {reason}")


def _why_not(agent: Any) -> str:
    on_policy = isinstance(agent, OnPolicyAlgorithm)
    if hasattr(agent, "_last_lstm_states") or "lstm_actor" in dict(agent.policy.named_children()):
        return "the memory of its policy would have to travel with each fragment. Leave workers out"
    if not on_policy and not isinstance(agent, OffPolicyAlgorithm):
        return "it has no rollouts, only whole evaluations. Leave workers out"
    if agent.use_sde:
        return "gSDE keeps one noise for all environments: set use_sde=False"
    if isinstance(getattr(agent, "replay_buffer", None), HerReplayBuffer):
        return "HerReplayBuffer asks the environment for rewards at each update: use another buffer"
    try:
        width(agent.action_space)
        noise_of(getattr(agent, "action_noise", None))
    except ValueError as error:
        return str(error)
    dist = _distribution(uncompiled(agent.policy))
    return "" if dist is None else why_not(dist)


def _distribution(policy: Any) -> Any:
    """Return the object that a policy draws its samples from, None where it draws none."""
    return getattr(policy, "action_dist", None) or getattr(getattr(policy, "actor", None), "action_dist", None)


class Acting:
    """All that a worker needs to act as an agent does: it can be pickled, and is each worker's own.

    :param agent: which is copied.
    :param block: rows that are computed at once. A row's result may depend on how many others there are, so every
        environment has its row in a block of this many, wherever it lives; 0 computes a worker's rows as they are.
    """

    def __init__(self, agent: Any, block: int) -> None:
        policy = uncompiled(agent.policy)
        self.policy: Any = acting_copy(policy, policy.modules()).to("cpu")
        self.space: spaces.Space[Any] = agent.action_space
        self.block = block
        self.on_policy = isinstance(agent, OnPolicyAlgorithm)
        self._noise_of = None if self.on_policy else getattr(agent, "action_noise", None)
        self._drawing: Drawing | None = None
        self._noise: Callable[[np.ndarray], np.ndarray] | None = None

    def start(self) -> None:
        """Get ready where it is to act, once."""
        dist = _distribution(self.policy)
        self._drawing = None if dist is None else Drawing(dist)
        self._noise = noise_of(self._noise_of)
        self._tensors = tensors_of(self.policy)

    def load(self, weights: list[np.ndarray]) -> None:
        """Take the agent's present weights."""
        for tensor, array in zip(self._tensors, weights, strict=True):
            np.copyto(tensor.detach().numpy(), array)

    def act(
        self, seen: Any, step: int, plan: Plan, drawn: Numbers, rows: np.ndarray, masks: np.ndarray | None
    ) -> Acted:
        """Act once in every environment of the worker.

        :param seen: what the policy sees, ``(n_envs, *shape)``.
        :param step: of the fragment.
        :param rows: the environments' places among all of the run.
        :param masks: of the allowed actions.
        """
        if self.on_policy:
            return self._as_actor_critic(seen, drawn.drawn[step], rows, masks)
        return self._exploring(seen, step, plan, drawn, rows)

    def _as_actor_critic(self, seen: Any, drawn: np.ndarray, rows: np.ndarray, masks: np.ndarray | None) -> Acted:
        def forward(observations: Any, allowed: Any) -> tuple[Tensor, ...]:
            more = {} if allowed is None else {"action_masks": allowed}
            return tuple(self.policy(obs_as_tensor(observations, torch.device("cpu")), **more))

        actions, values, log_probs = self._in_blocks(forward, seen, drawn, rows, masks)
        if isinstance(self.space, spaces.Box) and isinstance(self.policy, ActorCriticPolicy):
            low, high = self.space.low, self.space.high
            taken = self.policy.unscale_action(actions) if self.policy.squash_output else np.clip(actions, low, high)
        else:
            taken = actions
        return Acted(taken, actions, values=values.reshape(-1), log_probs=log_probs.reshape(-1))

    def _exploring(self, seen: Any, step: int, plan: Plan, drawn: Numbers, rows: np.ndarray) -> Acted:
        assert drawn.uniform is not None and drawn.noise is not None
        uniform = drawn.uniform[step]
        if step < plan.warmup:
            actions = random_actions(self.space, uniform[:, :-1])
        else:

            def predict(observations: Any, _: Any) -> tuple[Tensor, ...]:
                return (torch.as_tensor(self.policy.predict(observations, deterministic=False)[0]),)

            (actions,) = self._in_blocks(predict, seen, drawn.drawn[step], rows, None)
            random = uniform[:, -1] < plan.exploration
            if random.any():
                actions = np.where(random, random_actions(self.space, uniform[:, :-1]), actions)
        if not isinstance(self.space, spaces.Box):
            return Acted(actions, actions, stored=actions)
        stored = self.policy.scale_action(actions)
        if self._noise is not None:
            stored = np.clip(stored + self._noise(drawn.noise[step]).reshape(stored.shape), -1, 1)
        return Acted(self.policy.unscale_action(stored), actions, stored=stored)

    def _in_blocks(
        self,
        function: Callable[[Any, Any], tuple[Tensor, ...]],
        seen: Any,
        drawn: np.ndarray,
        rows: np.ndarray,
        masks: np.ndarray | None,
    ) -> list[np.ndarray]:
        """Compute rows in their blocks, filled up with copies of the first, and return the results of the rows."""
        items = as_items(seen)
        results: list[list[np.ndarray]] = []
        for chosen, places in _blocks(rows, self.block):
            size = self.block or len(rows)
            if len(chosen) == size and (np.diff(chosen) == 1).all():
                order = chosen
            else:
                order = np.full(size, chosen[0])
                order[places] = chosen
            batch: Any = {key: np.ascontiguousarray(np.asarray(array)[order]) for key, array in items.items()}
            if self._drawing is not None:
                self._drawing.numbers = torch.from_numpy(drawn[order])
            with torch.no_grad():
                outputs = function(from_items(batch), None if masks is None else masks[order])
            results.append([output.numpy()[places] for output in outputs])
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def _blocks(rows: np.ndarray, block: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each block of places which of a worker's rows are in it, and at which of its places."""
    if not block:
        return [(np.arange(len(rows)), np.arange(len(rows)))]
    return [
        (mine := np.flatnonzero(rows // block == number), rows[mine] % block) for number in np.unique(rows // block)
    ]


def tensors_of(policy: nn.Module) -> list[Tensor]:
    """Return a policy's numbers in an order that is the same for every copy."""
    return [*policy.parameters(), *policy.buffers()]


def weights_of(agent: Any) -> list[np.ndarray]:
    """Return a copy of an agent's weights on the host."""
    return [tensor.detach().cpu().numpy().copy() for tensor in tensors_of(uncompiled(agent.policy))]
