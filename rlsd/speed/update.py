"""PPO's update, owned: what SB3's ``PPO.train`` computes, without what it computes in vain.

It is a copy of SB3's loop, deliberately, and held equal to it by tests. Gradients derived by hand are moreover compared
with autograd once for every policy, on its own data: where a bit differs, autograd is used.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor, NatureCNN
from torch.optim import Adam

from rlsd.actors.comparing import overrides_none
from rlsd.speed import update_eager, update_hand
from rlsd.speed.rollouts import TensorRolloutBuffer
from rlsd.speed.update_check import agrees

_OF_POLICY = (
    "evaluate_actions",
    "extract_features",
    "_get_action_dist_from_latent",
    "set_training_mode",
    "forward",
    "parameters",
)


def can_own(agent: Any) -> bool:
    """Tell whether :func:`train` does for an agent what its own ``train`` would do.

    That is: PPO itself, with SB3's actor-critic policy on its perceptrons or its small convolutional network, actions
    that are Discrete or Box without gSDE, and Adam.
    """
    if not isinstance(agent, PPO) or not _trains_as_ppo(agent):
        return False
    policy, buffer = agent.policy, agent.rollout_buffer
    if not isinstance(policy, ActorCriticPolicy) or not overrides_none(policy, ActorCriticPolicy, _OF_POLICY):
        return False
    extractors = (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor)
    optimizer = policy.optimizer
    return (
        type(policy.action_dist) in (CategoricalDistribution, DiagGaussianDistribution)
        and all(type(extractor) in (FlattenExtractor, NatureCNN) for extractor in extractors)
        and type(policy.mlp_extractor) is MlpExtractor
        and type(buffer) in (RolloutBuffer, TensorRolloutBuffer)
        and buffer.full
        and type(optimizer) is Adam
        and "step" not in optimizer.__dict__
        and isinstance(agent.max_grad_norm, (int, float))
    )


def _trains_as_ppo(agent: Any) -> bool:
    # The classes that rlsd makes only wrap the method of the class below them.
    owners = [cls for cls in type(agent).__mro__ if "train" in cls.__dict__ and not cls.__module__.startswith("rlsd.")]
    return owners[0] is PPO and "train" not in agent.__dict__


def train(agent: Any, exact: bool) -> None:
    """Update an agent's policy from its rollout, in place of ``PPO.train``.

    :param agent: one that :func:`can_own` accepts.
    :param exact: leave parameters, optimizer and log as SB3 would, to the last bit. If False, they are equal up to
        rounding, and perceptrons on the CPU are trained faster.
    """
    policy, progress = agent.policy, agent._current_progress_remaining
    policy.set_training_mode(True)
    agent._update_learning_rate(policy.optimizer)
    clip_range = agent.clip_range(progress)
    clip_range_vf = None if agent.clip_range_vf is None else agent.clip_range_vf(progress)
    coefficients = update_hand.Coefficients(
        clip_range, clip_range_vf, agent.ent_coef, agent.vf_coef, float(agent.max_grad_norm)
    )
    if update_hand.can_work_on(agent) and agrees(agent, coefficients, exact):
        figures = update_hand.train(agent, coefficients, quick=not exact)
    else:
        figures = update_eager.train(agent, clip_range, clip_range_vf)
    figures.record(agent, clip_range, clip_range_vf)
