"""Once for each policy: does the gradient by hand equal autograd's, on this machine and with this version of torch?

How sums are rounded is nobody's promise. So it is looked at before it is relied upon.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.nn import functional as F

from rlsd.speed import update_eager, update_hand
from rlsd.speed.update_blocks import Rollout
from rlsd.speed.update_hand import Coefficients, MinibatchWorkspace, Step

#: Of the largest entry: what hand and autograd may differ by when they need not be equal.
TOLERANCE = 1e-4

_VERDICTS: WeakKeyDictionary[ActorCriticPolicy, dict[Any, bool]] = WeakKeyDictionary()


def agrees(agent: Any, coefficients: Coefficients, exact: bool) -> bool:
    """Tell whether the gradient of an agent's loss by hand is autograd's, to the last bit if ``exact``."""
    verdicts = _VERDICTS.setdefault(agent.policy, {})
    # With the branches that the formulas have.
    key = (*update_hand.workspace_key(agent, not exact), coefficients.entropy == 0.0, coefficients.clip_vf is None)
    if key not in verdicts:
        verdicts[key] = _compare(agent, coefficients, exact)
    return verdicts[key]


@np.errstate(all="ignore")
def _compare(agent: Any, coefficients: Coefficients, exact: bool) -> bool:
    parameters, stepped = list(agent.policy.parameters()), agent.policy.optimizer.param_groups[0]["params"]
    if any(p is not q for p, q in zip(parameters, stepped, strict=True)):
        return False  # the gradient's norm is a sum in the policy's order
    space = update_hand.workspace_of(agent, not exact)
    rollout = Rollout(agent.rollout_buffer, space.inputs)
    # Any order does, and none is drawn. Reversed, so that not every sample stands where it was collected.
    order = torch.arange(len(rollout) - 1, -1, -1)
    with space.adam.engaged(agent.policy.optimizer), space.on(rollout):
        step = Step(agent, space.adam, coefficients, quick=not exact)
        space.bind()
        for bench in space.benches:
            here, order = order[: bench.block.count * bench.block.size], order[bench.block.count * bench.block.size :]
            with torch.no_grad():
                row = bench.block.load(here, 0, agent.normalize_advantage, quick=not exact)[0]
                update_hand.evaluate(bench, row, coefficients)
                step.differentiate(space, bench, row)
            theirs = _by_autograd(agent, bench, coefficients)
            if not _same(space.adam.gradients, theirs, exact):
                return False
    return True


def _by_autograd(agent: Any, bench: MinibatchWorkspace, coefficients: Coefficients) -> list[Tensor]:
    block, policy = bench.block, agent.policy
    x, advantages = block.features, block.advantages[0]
    actions = block.actions[0].squeeze(1) if block.actions.dtype == torch.long else block.actions[0]
    with torch.enable_grad():
        values, log_prob, entropy = update_eager.evaluate_features(policy, (x, x), actions)
        ratio = torch.exp(log_prob - block.old_log_probs[0])
        clipped = torch.clamp(ratio, 1 - coefficients.clip, 1 + coefficients.clip)
        loss = -torch.min(advantages * ratio, advantages * clipped).mean() + coefficients.entropy * -entropy.mean()
        if coefficients.clip_vf is not None:
            old = block.old_values[0]
            values = old + torch.clamp(values - old, -coefficients.clip_vf, coefficients.clip_vf)
        loss = loss + coefficients.value * F.mse_loss(block.returns[0], values)
        return list(torch.autograd.grad(loss, agent.policy.optimizer.param_groups[0]["params"]))


def _same(ours: list[Tensor], theirs: list[Tensor], exact: bool) -> bool:
    if exact:
        return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return all(bool((a - b).abs().max() <= TOLERANCE * b.abs().max()) for a, b in zip(ours, theirs, strict=True))
