"""Asks an adapter, when an agent is built, what it will be asked in the first distilled update, and compares."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from rlsd.actors.base import Actor, acting_copy, actor_for, is_registered, refusal
from rlsd.actors.comparing import imagined, scramble
from rlsd.observations import from_items, with_context
from rlsd.rng import private_numbers

#: How many observations a policy is shown.
_SHOWN = 4


def examined(agent: BaseAlgorithm) -> Actor:
    """Return the adapter for the way the agent acts, once it was seen that this is how it acts.

    A copy of the policy is asked, so that the policy and the global generators stay as they are.

    :raises TypeError: when none is known, or the policy acts otherwise; the message names the way out.
    """
    actor = actor_for(agent)
    try:
        policy = acting_copy(agent.policy, agent.policy.modules())
    except Exception as error:  # of anybody's code
        raise TypeError(refusal(agent, f"it cannot be copied, and a teacher is a copy ({_short(error)})")) from error
    generator = np.random.default_rng(0)
    with private_numbers(generator), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for _ in range(1 if is_registered(agent) else actor.rounds):
            scramble(policy)
            for module in policy.modules():
                if getattr(module, "use_sde", False) and hasattr(module, "reset_noise"):
                    cast(Any, module).reset_noise()
            _ask(agent, actor, policy, generator)
    return actor


def _ask(agent: BaseAlgorithm, actor: Actor, policy: torch.nn.Module, generator: np.random.Generator) -> None:
    observations = imagined(agent.policy.observation_space, _SHOWN, generator, agent.policy.device)
    states = from_items(with_context(observations, actor.imagined_context(policy, _SHOWN)))
    try:
        actor.act(policy, states)
    except Exception:  # it knows other observations only, and nothing can be said
        return
    try:
        answers = actor.parameters(actor.module(policy), states)
    except Exception as error:
        raise TypeError(refusal(agent, f"asked how it acts, it fails ({_short(error)})")) from error
    if answers.shape != (_SHOWN, actor.family.size):
        found, expected = tuple(answers.shape), (_SHOWN, actor.family.size)
        raise TypeError(
            refusal(agent, f"{type(actor).__name__}.parameters gives the shape {found}, its family has {expected}")
        )
    method = "" if is_registered(agent) else actor.mismatch(policy, states)
    if method:
        name = type(agent.policy).__name__
        raise TypeError(
            refusal(
                agent,
                f"its {method}() does otherwise than a {type(actor).__name__} tells, so a part would be distilled that "
                f"does not act. Where {name} has a head of its own, let its get_distribution() return what that gives",
            )
        )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
