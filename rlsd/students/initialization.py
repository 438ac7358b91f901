"""New students: a policy of the agent's class with new weights, or with some of the old."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rlsd.actors.base import plain_name
from rlsd.rng import private_numbers
from rlsd.teachers.frozen_policy import named_tensors

KINDS = ("fresh", "last_layers", "shrink_and_perturb")
#: What an off-policy agent's policy holds twice: what is trained, and what follows it.
TARGETS = {
    "actor": "actor_target",
    "critic": "critic_target",
    "q_net": "q_net_target",
    "quantile_net": "quantile_net_target",
}


def fresh_policy(agent: BaseAlgorithm, generator: np.random.Generator) -> BasePolicy:
    """Return a policy of the agent's class and settings, initialised by SB3 as a new agent's would be.

    :param generator: decides the weights; the global generators are left as they were.
    """
    settings = dict(agent.policy_kwargs)
    if isinstance(agent, OnPolicyAlgorithm) and agent.use_sde:
        settings["use_sde"] = True  # off-policy agents keep it among their policy_kwargs
    rates = (agent.lr_schedule,) if isinstance(agent, (OnPolicyAlgorithm, OffPolicyAlgorithm)) else ()
    with private_numbers(generator):
        policy: BasePolicy = agent.policy_class(agent.observation_space, agent.action_space, *rates, **settings)
        return policy.to(agent.device)


def new_student(
    agent: BaseAlgorithm, generator: np.random.Generator, kind: str = "fresh", shrink: float = 0.4, perturb: float = 0.1
) -> BasePolicy:
    """Return a student to be taught what the agent does.

    :param kind: ``"fresh"``, or what it has of the agent's: all but the ``"last_layers"``, or all, by
        ``"shrink_and_perturb"``: ``shrink`` times the agent's weights plus ``perturb`` times fresh ones.
    """
    student = fresh_policy(agent, generator)
    if kind == "fresh":
        return student
    present, heads = named_tensors(agent.policy), set(head_names(agent.policy))
    trained = dict(student.named_parameters())
    with torch.no_grad():
        for name, tensor in named_tensors(student).items():
            if name not in trained or (kind == "last_layers" and name not in heads):
                tensor.copy_(present[name])
            elif kind == "shrink_and_perturb":
                tensor.mul_(perturb).add_(present[name], alpha=shrink)
    align_targets(student)
    return student


def head_names(policy: Any) -> list[str]:
    """Return the names of the weights from which actions and values come directly: each net's last linear layer."""
    heads: list[nn.Module] = []
    nets = [net for name in TARGETS if (net := getattr(policy, name, None)) is not None]
    for child in [child for net in nets or [policy] for child in _own_children(net)]:
        linear = [module for module in child.modules() if isinstance(module, nn.Linear)]
        heads += linear[-1:]
    parts = {id(p) for head in heads for p in head.parameters()}
    return [plain_name(name) for name, parameter in policy.named_parameters() if id(parameter) in parts]


def _own_children(net: nn.Module) -> Iterator[nn.Module]:
    """Give the parts of a net that may end in actions or values; what only leads up to them is left out."""
    for name, child in net.named_children():
        if "features_extractor" not in name and name not in ("mlp_extractor", "latent_pi"):
            yield child


def align_targets(policy: Any) -> None:
    """Make each target network equal to what it follows, as SB3 does for a new agent."""
    for name, target in TARGETS.items():
        if getattr(policy, target, None) is not None:
            getattr(policy, target).load_state_dict(getattr(policy, name).state_dict())


def trained_parameters(policy: nn.Module) -> list[nn.Parameter]:
    """Return all parameters of a policy but those of target networks."""
    return [p for name, p in policy.named_parameters() if name.partition(".")[0] not in TARGETS.values()]
