"""The teacher acts in the agent's place, for a share of the steps that falls to nothing (DAgger, Ross et al. 2011)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_obs_shape
from torch import Tensor

from rlsd.actors import algorithm_name
from rlsd.behaviour import drawn, in_units, log_prob
from rlsd.collecting import collector_in
from rlsd.observations import Observations, as_array, as_items, from_items, normalizing_env, raw_of, with_context
from rlsd.rng import own_generator
from rlsd.teachers import Teacher
from rlsd.timing import EveryStep

#: Sets the random stream apart from every other that is made from the same seed ("acts" in ASCII).
_STREAM = 0x61637473


class ActingTeacher:
    """Lets a teacher act for an agent.

    Each environment's step is the teacher's with a probability that falls linearly with training's progress. What is
    stored as the logarithm of an action's probability is that of whoever acted, so that PPO's ratio stays the one of
    its policy to the behaviour: ``pi(a|s) / b(a|s)``, with ``b`` the teacher's policy where it acted.

    :param teacher: who acts.
    :param timing: says for which share of the steps.
    :param agent: the agent.
    :raises TypeError: when nobody else can act for it, or its update would be wrong then.
    """

    def __init__(self, teacher: Teacher, timing: EveryStep, agent: Any) -> None:
        self.teacher, self._start, self._until = teacher, timing.teacher_acts, timing.teacher_acts_until
        self._generator = own_generator(agent.seed, _STREAM)
        self._device = agent.device
        if not self._start:
            return
        weighs = hasattr(agent, "clip_range") or hasattr(agent, "_compute_actor_grad")
        if not isinstance(agent, OffPolicyAlgorithm) and not weighs:
            raise TypeError(
                f"timing.teacher_acts needs an update that weighs actions by who chose them, and a "
                f"{algorithm_name(agent)} has none: leave it at 0, or use PPO or an off-policy algorithm"
            )
        if not self.teacher.from_elsewhere:
            raise TypeError("timing.teacher_acts is for teachers from elsewhere: 'frozen', 'expert' and 'several'")
        if weighs and agent.policy.squash_output:
            raise TypeError("timing.teacher_acts: an on-policy agent must not squash its actions: leave it at 0")

    def share(self, agent: BaseAlgorithm) -> float:
        """Return the probability with which the teacher acts now."""
        done = 1.0 - agent._current_progress_remaining
        return self._start * max(0.0, 1.0 - done / self._until) if self._start else 0.0

    @contextmanager
    def collecting(self, agent: Any) -> Iterator[None]:
        """Let the teacher act in an on-policy rollout that is collected inside.

        :raises TypeError: when workers collect it.
        """
        share, policy = self.share(agent), agent.policy
        if share == 0.0:
            yield
            return
        if collector_in(agent.env) is not None:
            raise TypeError("timing.teacher_acts: where workers collect rollouts no teacher can act: leave it at 0")
        if isinstance(agent, OffPolicyAlgorithm):
            yield
            return
        had_own, original = "forward" in policy.__dict__, policy.forward

        def forward(obs: Any, *args: Any, **kwargs: Any) -> Any:
            actions, values, log_probs, *rest = original(obs, *args, **kwargs)
            coins = torch.as_tensor(self._generator.random(len(actions)) < share, device=actions.device)
            if bool(coins.any()):
                chosen, parameters = self._chosen(agent, obs, kwargs.get("action_masks"))
                theirs = log_prob(self.teacher.actor.family, parameters, chosen).to(log_probs)
                chosen = chosen.to(actions).reshape(actions.shape)
                actions = torch.where(coins.view(-1, *[1] * (actions.dim() - 1)), chosen, actions)
                log_probs = torch.where(coins, theirs, log_probs)
            return (actions, values, log_probs, *rest)

        policy.__dict__["forward"] = forward
        try:
            yield
        finally:
            del policy.__dict__["forward"]
            if had_own:
                policy.__dict__["forward"] = original

    def sampled(self, agent: Any, action: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return an off-policy agent's actions, and what its buffer stores of them, some of them the teacher's."""
        share = self.share(agent)
        if share == 0.0:
            return action, stored
        coins = self._generator.random(len(action)) < share
        if not coins.any():
            return action, stored
        theirs = in_units(agent, self.teacher.actor.family, self._chosen(agent, agent._last_obs, None)[0])
        scaled = agent.policy.scale_action(theirs) if isinstance(agent.action_space, spaces.Box) else theirs
        where = coins.reshape(-1, *[1] * (action.ndim - 1))
        return np.where(where, theirs, action).astype(action.dtype), np.where(where, scaled, stored).astype(
            stored.dtype
        )

    def _chosen(self, agent: Any, seen: Any, masks: Any) -> tuple[Tensor, Tensor]:
        """Return the teacher's actions ``(n, k)`` and parameters ``(n, family.size)`` where the agent stands."""
        family, states = self.teacher.actor.family, self._raw(agent, seen)
        if masks is not None:
            mask = torch.as_tensor(as_array(masks), device=self._device)
            states = from_items(with_context(states, {"@mask": mask.reshape(len(mask), -1)}))
        parameters = self.teacher.ask(states)[:, : family.size]
        generator = torch.Generator(self._device).manual_seed(int(self._generator.integers(2**62)))
        return drawn(family, parameters, generator), parameters

    def _raw(self, agent: Any, seen: Any) -> Observations:
        env, shapes = normalizing_env(agent), as_items(get_obs_shape(agent.observation_space))
        items = {}
        for key, value in as_items(seen).items():
            array = as_array(value).reshape(-1, *shapes[key])
            items[key] = torch.as_tensor(array if env is None else raw_of(env, key, array), device=self._device)
        return from_items(items)

    def state(self) -> dict[str, Any]:
        """Return the generator's state as plain data."""
        return {"generator": self._generator.bit_generator.state} if self._start else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state` returned; files of before have none."""
        if self._start and "generator" in state:
            self._generator.bit_generator.state = state["generator"]
