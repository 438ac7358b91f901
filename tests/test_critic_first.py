"""The critic learns alone in the first updates: the actor stands still to the bit, and then it moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, build, copied
from helpers import small_agent

import rlsd
from rlsd.actors import actor_for
from rlsd.critic_first import acting_parameters

TIMING = {"type": "every_step", "critic_first": 2}


def acting(agent: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in acting_parameters(actor_for(agent), agent)]


def weights(agent: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in agent.policy.named_parameters()}


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["PPO", "A2C", "MaskablePPO", "RecurrentPPO", "SAC", "TQC", "CrossQ", "TD3", "DDPG"])
def test_the_actor_stands_still_while_the_critic_learns(name: str) -> None:
    agent = build(ALL_ALGORITHMS[name], "box" if name in ("SAC", "TQC", "CrossQ", "TD3", "DDPG") else "discrete")
    rlsd.distill(agent, {"timing": TIMING, "strength": 1.0})
    still, found = acting(agent), []
    update = agent._update

    def watched(*args: Any, **kwargs: Any) -> None:
        before = weights(agent)
        update(*args, **kwargs)
        moved = {key for key, value in weights(agent).items() if not torch.equal(value, before[key])}
        found.append((same(acting_of(agent, still), still), bool(moved)))

    agent._update = watched
    agent.learn(getattr(agent, "learning_starts", 0) + 12 * ROLLOUT)
    del agent._update
    assert len(found) > 3, "too few updates to tell"
    assert [stands for stands, _ in found[:2]] == [True, True] and all(moved for _, moved in found[:2])
    assert not found[-1][0], "the actor never moved again"
    assert all(p.requires_grad for p in agent.policy.parameters() if p.is_leaf) or name != "PPO"


def acting_of(agent: Any, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """What acts, also while it asks for no gradient."""
    module = actor_for(agent).module(agent.policy)
    held = [p for p in module.parameters() if not p.requires_grad]
    return [p.detach() for p in held] if len(held) == len(like) else acting(agent)


def test_a_shared_extractor_is_held_and_the_critics_own_layers_are_not() -> None:
    agent = small_agent("PPO")
    names = {id(p): name for name, p in agent.policy.named_parameters()}
    held = {names[id(p)] for p in acting_parameters(actor_for(agent), agent)}
    assert any("action_net" in name for name in held) and not any("value_net" in name for name in held)


def test_stopping_and_continuing_equals_never_having_stopped(tmp_path: Any) -> None:
    agent = rlsd.distill(small_agent("PPO"), {"timing": TIMING, "strength": 1.0})
    agent.learn(agent.n_steps * agent.n_envs)
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", env=agent.env)
    assert loaded.distiller.critic_first.done == agent.distiller.critic_first.done == 1
    assert rlsd.distill(copied(small_agent("PPO")), "guard").distiller.critic_first.updates == 0


@pytest.mark.parametrize("name", ["DQN", "QR-DQN", "TRPO", "ARS"])
def test_an_agent_without_such_a_critic_is_refused_when_built(name: str) -> None:
    known = {key.replace("-", ""): value for key, value in ALL_ALGORITHMS.items()}
    with pytest.raises(TypeError, match=r"timing\.critic_first .* has no such critic: leave it at 0"):
        rlsd.distill(build(known[name.replace("-", "")]), {"timing": TIMING})


def test_strength_0_stays_plain_training() -> None:
    agent = rlsd.distill(small_agent("PPO"), {"timing": TIMING, "strength": 0.0})
    before = acting(agent)
    agent.learn(agent.n_steps * agent.n_envs)
    assert not same(before, acting(agent))
