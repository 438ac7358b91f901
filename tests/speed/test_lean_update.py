"""SB3's updates without idle gradients: the same to the last bit, and nothing stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agents import build, copied, differences
from sb3_contrib import TQC
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3

import rlsd
from rlsd.speed.lean_update import lean_update

OFF_POLICY = [SAC, TD3, DDPG, TQC]


def _trained(algorithm: type[Any], speed: Any, kind: str = "box") -> Any:
    return rlsd.accelerate(build(algorithm, kind), speed=speed).learn(150)


def _weights(agent: Any) -> Any:
    optimizers = [agent.policy.state_dict(), agent.actor.optimizer.state_dict(), agent.critic.optimizer.state_dict()]
    return copied(optimizers)


def _left(agent: Any) -> list[Any]:
    """What a lean update put in place and should have taken away."""
    optimizers = [agent.actor.optimizer, agent.critic.optimizer]
    frozen = [name for name, p in agent.policy.named_parameters() if not p.requires_grad and "target" not in name]
    flags = [group["fused"] for optimizer in optimizers for group in optimizer.param_groups if group["fused"]]
    return frozen + flags + [hook for optimizer in optimizers for hook in optimizer._optimizer_step_post_hooks]


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_without_idle_gradients_not_a_bit_is_another(algorithm: type[Any]) -> None:
    alone = rlsd.Speed(
        lean_acting=False, tensor_rollouts=False, tensor_replay=False, no_validation=False, own_update=False
    )
    lean, plain = _trained(algorithm, alone), _trained(algorithm, None)
    assert lean._n_updates > 20, "nothing was learned"
    assert not differences(_weights(lean), _weights(plain))
    assert not _left(lean)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_an_actor_that_shares_its_features_learns_them_all_the_same(algorithm: type[Any]) -> None:
    lean, plain = (_trained(algorithm, speed, kind="shared_image") for speed in ("exact", None))
    assert lean._n_updates > 20, "nothing was learned"
    assert not differences(_weights(lean), _weights(plain))
    assert not _left(lean)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_the_critic_has_no_gradient_of_the_actors_loss(algorithm: type[Any]) -> None:
    """After SB3's own update the critic's weights hold the actor's gradient, too; here they hold their own loss's."""
    needed: dict[bool, list[bool]] = {}
    for lean in (False, True):
        agent = build(algorithm, "box")
        agent.learn(120)
        seen = needed[lean] = []

        def look(*_: Any, agent: Any = agent, seen: list[bool] = seen) -> None:
            seen.append(any(p.requires_grad for p in agent.critic.parameters()))

        handle = agent.actor.optimizer.register_step_pre_hook(look)
        with lean_update(agent, idle_gradients=lean, fused=False):
            agent.train(gradient_steps=5, batch_size=16)
        handle.remove()
    assert needed[False] and all(needed[False])
    assert len(needed[True]) == len(needed[False]) and not any(needed[True])


def test_an_update_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = build(SAC, "box")
    agent.learn(120)
    agent.critic.requires_grad_(True)
    frozen = agent.critic.qf0[0].bias.requires_grad_(False)  # by the user, who has a reason

    def fail() -> None:
        raise RuntimeError("no")

    agent.actor.optimizer.register_step_pre_hook(lambda *_: fail())
    with pytest.raises(RuntimeError, match="no"), lean_update(agent, idle_gradients=True, fused=True):
        agent.train(gradient_steps=1, batch_size=16)
    assert not frozen.requires_grad, "what was frozen stays so"
    frozen.requires_grad_(True)
    assert not _left(agent)


def test_where_somebody_looks_at_the_gradients_they_are_made() -> None:
    agent = build(SAC, "box")
    agent.learn(120)
    calls = []
    agent.critic.qf0[0].bias.register_hook(lambda gradient: calls.append(1))
    with lean_update(agent, idle_gradients=True, fused=False):
        agent.train(gradient_steps=3, batch_size=16)
    assert len(calls) == 6


class _OwnTrain(SAC):
    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        assert not self.actor.optimizer._optimizer_step_post_hooks
        super().train(gradient_steps, batch_size)


def test_an_update_of_ones_own_is_left_alone() -> None:
    agent = rlsd.accelerate(build(_OwnTrain, "box"))
    agent.learn(150)
    assert agent._n_updates > 20


@pytest.mark.parametrize("algorithm", [SAC, TD3, DQN])
def test_one_kernel_steps_adam_up_to_rounding_inside_only(algorithm: type[Any]) -> None:
    agents = []
    for fused in (False, True):
        agents.append(agent := build(algorithm, "discrete" if algorithm is DQN else "box"))
        agent.learn(120)
        with lean_update(agent, idle_gradients=False, fused=fused):
            optimizer = agent.policy.optimizer if algorithm is DQN else agent.critic.optimizer
            assert bool(optimizer.param_groups[0]["fused"]) is fused
            agent.train(gradient_steps=3, batch_size=16)
        assert optimizer.param_groups[0]["fused"] is None
    for mine, theirs in zip(*(agent.policy.parameters() for agent in agents), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_an_adam_whose_steps_were_chosen_is_left_alone() -> None:
    agent = build(PPO, "box", policy_kwargs={"net_arch": [4], "optimizer_kwargs": {"foreach": True}})
    with lean_update(agent, idle_gradients=True, fused=True):
        assert agent.policy.optimizer.param_groups[0]["fused"] is None
