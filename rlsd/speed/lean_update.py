"""SB3's own updates without what they compute in vain: gradients that are thrown away, Adam one parameter at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.optim import Adam, Optimizer

from rlsd.optimizers import optimizers_of, parameters_of

#: Whose ``train`` steps the critic, then asks it for the loss of the actor; and every how many such steps it does.
_ASKED_AFTER_ITS_STEP = {
    "stable_baselines3.sac.sac.SAC": None,
    "stable_baselines3.td3.td3.TD3": "policy_delay",
    "sb3_contrib.tqc.tqc.TQC": None,
}


@contextmanager
def lean_update(agent: Any, idle_gradients: bool, fused: bool) -> Iterator[None]:
    """Let SB3's own ``train``, run inside, leave out what is computed in vain; afterwards all is as it was.

    :param idle_gradients: leave out the gradients of the critic's weights by the actor's loss, which SAC, TD3, DDPG and
        TQC throw away: a tenth of the update. Bit-identical; only what is left in the critic's ``.grad`` is another.
    :param fused: let one kernel make each step of an Adam on the CPU. Rounds otherwise.
    """
    with ExitStack() as stack:
        if idle_gradients:
            stack.enter_context(_without_idle_gradients(agent))
        if fused:
            stack.enter_context(_fused(agent))
        yield


@contextmanager
def _without_idle_gradients(agent: Any) -> Iterator[None]:
    owners = [cls for cls in type(agent).__mro__ if "train" in cls.__dict__ and not cls.__module__.startswith("rlsd.")]
    name = f"{owners[0].__module__}.{owners[0].__qualname__}"
    critic, actor = (optimizers_of(agent.policy).get(part) for part in ("critic", "actor"))
    if name not in _ASKED_AFTER_ITS_STEP or "train" in agent.__dict__ or critic is None or actor is None:
        yield
        return
    acting = set(agent.policy.actor.parameters())  # TD3's critic is given those of a shared features extractor, too
    parameters = [p for p in parameters_of(critic) if p.requires_grad and p not in acting]
    looked_at = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters)
    frozen = not any(p.requires_grad for p in acting)  # by the user: the critic's is then all the graph that SB3 has
    if looked_at or frozen:
        yield
        return
    delay = _ASKED_AFTER_ITS_STEP[name]

    def need_gradients(needed: bool) -> None:
        for p in parameters:
            p.requires_grad_(needed)

    def after_critic(*_: Any) -> None:
        if delay is None or agent._n_updates % getattr(agent, delay) == 0:
            need_gradients(False)

    handles = [
        critic.register_step_post_hook(after_critic),
        actor.register_step_post_hook(lambda *_: need_gradients(True)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        need_gradients(True)


@contextmanager
def _fused(agent: Any) -> Iterator[None]:
    groups = [group for one in optimizers_of(agent.policy).values() if _fusible(one) for group in one.param_groups]
    for group in groups:
        group["fused"] = True
    try:
        yield
    finally:
        for group in groups:
            group["fused"] = None


def _fusible(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer is Adam on the CPU, of which nobody has said how its steps are to be made."""
    return (
        type(optimizer) is Adam
        and all(p.device.type == "cpu" and p.is_floating_point() for p in parameters_of(optimizer))
        and not any(
            group["foreach"] is not None or group["fused"] is not None or group["differentiable"]
            for group in optimizer.param_groups
        )
    )
