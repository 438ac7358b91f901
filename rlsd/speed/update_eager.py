"""PPO's update of any network by autograd, without what SB3 does besides: every tensor operation is SB3's.

Left out are the ``Distribution`` objects and the waits for the device: the figures stay tensors until the end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor
from torch.nn import functional as F

from rlsd.speed.update_metrics import Figures, refuse_nan, report_early_stop


def train(agent: Any, clip_range: float, clip_range_vf: float | None) -> Figures:
    """Do the epochs of one update."""
    policy, optimizer = agent.policy, agent.policy.optimizer
    parameters = list(policy.parameters())
    discrete = isinstance(agent.action_space, spaces.Discrete)
    waits_for_nothing = agent.device.type == "cpu"
    told: list[tuple[Tensor, ...]] = []
    approx_kl: list[Tensor] = []
    loss = torch.zeros(())
    going_on = True
    for epoch in range(agent.n_epochs):
        approx_kl = []
        for data in agent.rollout_buffer.get(agent.batch_size):
            actions = data.actions.long().flatten() if discrete else data.actions
            values, log_prob, entropy = evaluate(policy, data.observations, actions)
            if waits_for_nothing and log_prob.isnan().any():
                refuse_nan()
            advantages = data.advantages
            if agent.normalize_advantage and len(advantages) > 1:
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            ratio = torch.exp(log_prob - data.old_log_prob)
            clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
            policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
            if clip_range_vf is not None:
                change = torch.clamp(values - data.old_values, -clip_range_vf, clip_range_vf)
                values = data.old_values + change
            value_loss = F.mse_loss(data.returns, values)
            entropy_loss = -torch.mean(entropy)
            loss = policy_loss + agent.ent_coef * entropy_loss + agent.vf_coef * value_loss
            with torch.no_grad():
                log_ratio = log_prob - data.old_log_prob
                approx_kl.append(torch.mean((torch.exp(log_ratio) - 1) - log_ratio))
                outside = torch.mean((torch.abs(ratio - 1) > clip_range).float())
            told.append((entropy_loss.detach(), policy_loss.detach(), value_loss.detach(), outside))
            if agent.target_kl is not None:
                kl = approx_kl[-1].cpu().numpy()
                if kl > 1.5 * agent.target_kl:
                    going_on = False
                    report_early_stop(agent, epoch, kl)
                    break
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, agent.max_grad_norm)
            optimizer.step()
        agent._n_updates += 1
        if not going_on:
            break
    figures = Figures()
    rows = torch.stack([part for row in told for part in row]).view(-1, 4)
    figures.entropy_losses, figures.policy_losses, figures.value_losses, figures.clip_fractions = rows.T.tolist()
    figures.approx_kl = torch.stack(approx_kl).cpu().numpy().astype(np.float32, copy=False)
    figures.loss = loss.item()
    if math.isnan(figures.loss) and log_prob.isnan().any():
        refuse_nan()
    return figures


def evaluate(policy: Any, observations: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, log probabilities and entropies, as ``policy.evaluate_actions`` does, from the bare networks."""
    features = policy.extract_features(observations)
    return evaluate_features(policy, (features, features) if policy.share_features_extractor else features, actions)


def evaluate_features(policy: Any, features: tuple[Tensor, Tensor], actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what :func:`evaluate` does, from the features of the actor and of the critic."""
    latent_pi = policy.mlp_extractor.forward_actor(features[0])
    latent_vf = policy.mlp_extractor.forward_critic(features[1])
    output = policy.action_net(latent_pi)
    gaussian = type(policy.action_dist) is DiagGaussianDistribution
    log_prob, inner = _normal(output, policy.log_std, actions) if gaussian else _categorical(output, actions)
    values = policy.value_net(latent_vf).flatten()
    if gaussian:
        return values, log_prob, (0.5 + 0.5 * math.log(2 * math.pi) + torch.log(inner)).sum(dim=1)
    logits = torch.clamp(inner, min=torch.finfo(inner.dtype).min)
    return values, log_prob, -(logits * torch.softmax(inner, dim=-1)).sum(-1)


def _normal(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    scale = torch.ones_like(mean) * log_std.exp()
    variance = scale**2
    log_scale = scale.log()
    terms = -((actions - mean) ** 2) / (2 * variance) - log_scale - math.log(math.sqrt(2 * math.pi))
    return terms.sum(dim=1), scale


def _categorical(output: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    logits = output - output.logsumexp(dim=-1, keepdim=True)
    return logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1), logits
