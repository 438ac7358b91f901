"""PPO in a single file, as people write it who want to see all of it at once: the peer of ``--peer single-file``.

Plain torch, eager, on Gymnasium's own loop over environments; a rollout in preallocated tensors, advantages by a loop
backwards in time, epochs of shuffled minibatches, Adam. No library around it, so it is the time to compare with when a
library's own cost is asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal


@dataclass(frozen=True)
class Settings:
    """All of PPO's numbers, by the names and with the defaults that SB3 has; what is annealed falls to 0."""

    n_envs: int = 1
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    learning_rate: float = 3e-4
    anneal_learning_rate: bool = False
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    anneal_clip_range: bool = False
    normalize_advantage: bool = True
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    normalize: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "Tanh"


def make_envs(env_id: str, settings: Settings) -> Any:
    """Make the environments, one after the other in one process."""
    same_step = gym.vector.AutoresetMode.SAME_STEP
    return gym.vector.SyncVectorEnv([_maker(env_id, settings)] * settings.n_envs, autoreset_mode=same_step)


def _maker(env_id: str, settings: Settings) -> Callable[[], Any]:
    def make() -> Any:
        env: Any = gym.wrappers.RecordEpisodeStatistics(gym.make(env_id))
        if isinstance(env.action_space, gym.spaces.Box):
            env = gym.wrappers.ClipAction(env)
        if settings.normalize:
            env = gym.wrappers.NormalizeReward(gym.wrappers.NormalizeObservation(env), settings.gamma)
        return env

    return make


class Agent(nn.Module):
    """Actor and critic, apart from each other."""

    log_std: Tensor | None

    def __init__(self, observation_space: Any, action_space: Any, settings: Settings) -> None:
        super().__init__()
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        n_in = int(np.prod(observation_space.shape))
        n_out = int(action_space.n) if self.discrete else int(np.prod(action_space.shape))
        self.critic = _net(n_in, 1, 1.0, settings)
        self.actor = _net(n_in, n_out, 0.01, settings)
        self.log_std = None if self.discrete else nn.Parameter(torch.zeros(n_out))

    def policy(self, observations: Tensor) -> Distribution:
        """Return the distribution of the actions."""
        out = self.actor(observations)
        if self.log_std is None:
            return Categorical(logits=out)
        return Normal(out, self.log_std.exp().expand_as(out))

    def log_prob(self, policy: Distribution, actions: Tensor) -> Tensor:
        """Return how likely the actions were."""
        found = policy.log_prob(actions)
        return found if self.discrete else found.sum(-1)

    def entropy(self, policy: Distribution) -> Tensor:
        """Return the policy's entropy."""
        found = policy.entropy()
        return found if self.discrete else found.sum(-1)


def _net(n_in: int, n_out: int, last_gain: float, settings: Settings) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in settings.hidden:
        layers += [_linear(n_in, width, float(np.sqrt(2))), getattr(nn, settings.activation)()]
        n_in = width
    return nn.Sequential(*layers, _linear(n_in, n_out, last_gain))


def _linear(n_in: int, n_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Training:
    """One training, ready to begin.

    :param env_id: Gymnasium id.
    :param settings: the numbers.
    :param seed: of everything random.
    """

    def __init__(self, env_id: str, settings: Settings, seed: int) -> None:
        torch.manual_seed(seed)
        self.settings = settings
        self.envs = make_envs(env_id, settings)
        self.seed = seed
        self.agent = Agent(self.envs.single_observation_space, self.envs.single_action_space, settings)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=settings.learning_rate, eps=1e-5)
        self.returns: list[float] = []

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def learn(self, total_timesteps: int) -> int:
        """Train for whole rollouts until ``total_timesteps``, and return the steps that were taken."""
        s = self.settings
        shape = (s.n_steps, s.n_envs)
        observations = torch.zeros(*shape, int(np.prod(self.envs.single_observation_space.shape)))
        actions = torch.zeros(*shape) if self.agent.discrete else torch.zeros(*shape, len(self._log_std()))
        log_probs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))
        rollouts = -(-total_timesteps // (s.n_steps * s.n_envs))

        now = self._tensor(self.envs.reset(seed=self.seed)[0])
        begun = torch.ones(s.n_envs)
        for rollout in range(rollouts):
            remaining = 1 - rollout / rollouts
            if s.anneal_learning_rate:
                self.optimizer.param_groups[0]["lr"] = s.learning_rate * remaining
            clip_range = s.clip_range * (remaining if s.anneal_clip_range else 1.0)
            for step in range(s.n_steps):
                observations[step], dones[step] = now, begun
                with torch.no_grad():
                    policy = self.agent.policy(now)
                    action = policy.sample()
                    values[step] = self.agent.critic(now).flatten()
                    actions[step], log_probs[step] = action, self.agent.log_prob(policy, action)
                seen, reward, terminated, truncated, infos = self.envs.step(action.numpy())
                now, begun = self._tensor(seen), torch.as_tensor(terminated | truncated).float()
                rewards[step] = torch.as_tensor(reward)
                self._note(infos)
            advantages = self._advantages(rewards, dones, values, now, begun)
            flat = [
                tensor.flatten(0, 1) for tensor in (observations, actions, log_probs, advantages, advantages + values)
            ]
            self._update(flat, clip_range)
        return rollouts * s.n_steps * s.n_envs

    def _log_std(self) -> Tensor:
        assert self.agent.log_std is not None
        return self.agent.log_std

    def _tensor(self, observations: np.ndarray) -> Tensor:
        return torch.as_tensor(observations).float().flatten(1)

    def _note(self, infos: dict[str, Any]) -> None:
        final = infos.get("final_info", {})
        if "episode" in final:
            self.returns += final["episode"]["r"][final["_episode"]].tolist()

    def _advantages(self, rewards: Tensor, dones: Tensor, values: Tensor, last: Tensor, begun: Tensor) -> Tensor:
        """Return generalised advantage estimates."""
        s = self.settings
        with torch.no_grad():
            next_value, next_alive = self.agent.critic(last).flatten(), 1.0 - begun
        advantages, running = torch.zeros_like(rewards), torch.zeros(s.n_envs)
        for step in reversed(range(s.n_steps)):
            delta = rewards[step] + s.gamma * next_value * next_alive - values[step]
            advantages[step] = running = delta + s.gamma * s.gae_lambda * next_alive * running
            next_value, next_alive = values[step], 1.0 - dones[step]
        return advantages

    def _update(self, rollout: Sequence[Tensor], clip_range: float) -> None:
        s = self.settings
        count = len(rollout[0])
        for _ in range(s.n_epochs):
            for index in torch.randperm(count).split(s.batch_size):
                observations, actions, log_probs, advantages, returns = (tensor[index] for tensor in rollout)
                policy = self.agent.policy(observations)
                ratio = (self.agent.log_prob(policy, actions) - log_probs).exp()
                if s.normalize_advantage and len(index) > 1:
                    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
                policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
                value_loss = ((self.agent.critic(observations).flatten() - returns) ** 2).mean()
                entropy = self.agent.entropy(policy).mean()
                loss = policy_loss - s.ent_coef * entropy + s.vf_coef * value_loss
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), s.max_grad_norm)
                self.optimizer.step()
