"""The teacher acts for a share of the steps: what is stored is what was done, and PPO's gradient is the loss's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from agents import build, copied, differences, training_state
from gymnasium import spaces
from helpers import disturb, small_agent, small_ppo, vec_env
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3

import rlsd
from rlsd.actors import actor_for
from rlsd.behaviour import log_prob

BOX = spaces.Box(-2.0, 2.0, (2,), np.float32)
SPACES = {"Discrete": spaces.Discrete(3), "MultiDiscrete": spaces.MultiDiscrete([2, 3]), "Box": BOX}
SPACES["MultiBinary"] = spaces.MultiBinary(2)


def timing(share: float, **kwargs: float) -> dict[str, Any]:
    return {"type": "every_step", "teacher_acts": share, **kwargs}


def other(**kwargs: Any) -> PPO:
    agent = small_ppo(**kwargs)
    disturb(agent.policy, 0.5)
    return agent


def parameters(agent: Any, states: torch.Tensor) -> torch.Tensor:
    actor = actor_for(agent)
    return actor.family.normalized(actor.parameters(actor.module(agent.policy), states))


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", SPACES)
def test_the_log_probability_that_is_stored_is_that_of_who_acted(kind: str) -> None:
    teacher, student = (
        other(env=vec_env(action_space=SPACES[kind])),
        small_ppo(vec_env(action_space=SPACES[kind]), n_steps=64),
    )
    rlsd.distill(student, {"teacher": rlsd.Frozen(agent=teacher), "timing": timing(0.6, teacher_acts_until=1.0)})
    found: list[tuple[torch.Tensor, ...]] = []

    def train() -> None:
        buffer, policy = student.rollout_buffer, student.policy
        states, actions = (torch.as_tensor(array).flatten(0, 1) for array in (buffer.observations, buffer.actions))
        family = actor_for(student).family
        actions = actions.float() if kind == "MultiBinary" else actions
        with torch.no_grad():
            both = [log_prob(family, parameters(agent, states), actions) for agent in (teacher, student)]
            distribution = policy.evaluate_actions(states, actions.squeeze(1) if kind == "Discrete" else actions)[1]
        found.append((*both, torch.as_tensor(buffer.log_probs).flatten(), distribution))

    student.train = train
    student.learn(64)
    theirs, own, stored, by_sb3 = found[0]
    torch.testing.assert_close(own, by_sb3)
    teachers = (stored - theirs).abs() < 1e-5
    students = (stored - own).abs() < 1e-5
    assert bool((teachers | students).all()), "a log-probability is neither's"
    assert 0.3 < float((teachers & ~students).float().mean()) < 0.9


def test_ppos_gradient_is_that_of_the_loss_with_the_behaviours_probability() -> None:
    teacher = other()
    student = small_ppo(n_steps=32, batch_size=32, n_epochs=1, max_grad_norm=1e9, ent_coef=0.01, seed=3)
    config = {"teacher": rlsd.Frozen(agent=teacher), "timing": timing(0.5, teacher_acts_until=1.0), "strength": 0.7}
    rlsd.distill(student, config)
    batches: list[Any] = []
    student.distiller.on_penalty.append(lambda batch, loss, gradient: batches.append(batch))
    caught: dict[str, Any] = {}

    def before_the_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        buffer, policy = student.rollout_buffer, student.policy
        caught["found"] = [None if p.grad is None else p.grad.clone() for p in policy.parameters()]
        rows = [torch.as_tensor(getattr(buffer, name)) for name in ("observations", "actions", "advantages", "returns")]
        states, actions, advantages, returns = (row.reshape(32, -1).squeeze(-1) for row in rows)
        log_probs = torch.as_tensor(buffer.log_probs).reshape(-1)
        values, own, entropy = policy.evaluate_actions(states, actions)
        ratio = (own - log_probs).exp()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        clipped = ratio.clamp(0.8, 1.2)
        loss = -torch.min(advantages * ratio, advantages * clipped).mean() - 0.01 * entropy.mean()
        loss = loss + 0.5 * (returns - values.flatten()).square().mean()
        logits = policy.get_distribution(batches[0].states).distribution.logits
        kl = (batches[0].targets.exp() * (batches[0].targets - logits)).sum(-1)
        loss = loss + 0.7 * kl.mean()
        caught["expected"] = torch.autograd.grad(loss, list(policy.parameters()))
        raise Stop

    student.policy.optimizer.register_step_pre_hook(before_the_step)
    with pytest.raises(Stop):
        student.learn(32)
    for ours, theirs in zip(caught["found"], caught["expected"], strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-6, "the gradient is another loss's"


@pytest.mark.parametrize("algorithm", [SAC, TD3, DQN])
def test_off_policy_the_buffer_holds_what_the_teacher_did(algorithm: Any) -> None:
    space = spaces.Discrete(3) if algorithm is DQN else BOX
    settings = {"buffer_size": 64, "learning_starts": 8, "policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
    teacher, student = (algorithm("MlpPolicy", vec_env(action_space=space), seed=seed, **settings) for seed in (0, 1))
    disturb(teacher.policy, 0.5)
    rlsd.distill(student, {"teacher": rlsd.Frozen(agent=teacher), "timing": timing(1.0, teacher_acts_until=1.0)})
    student.learn(8)
    buffer, shares = student.replay_buffer, [student.distiller.acting.share(student)]
    states, actions = buffer.observations[:8, 0], buffer.actions[:8, 0]
    wanted = teacher.predict(states, deterministic=True)[0]
    wanted = wanted[:, None] if algorithm is DQN else teacher.policy.scale_action(wanted)
    acted = np.isclose(actions, wanted, atol=1e-5).all(1) if algorithm is not SAC else np.array([True])
    assert acted[0] and acted.mean() >= 0.5 and shares[0] < 0.5
    student.learn(32)
    assert student.distiller.deposits > 0


def test_the_share_falls_to_nothing_and_is_nothing_by_default() -> None:
    student = rlsd.distill(small_ppo(), {"teacher": rlsd.Frozen(agent=other()), "timing": timing(0.8)})
    shares = []
    for remaining in (1.0, 0.75, 0.5, 0.0):
        student._current_progress_remaining = remaining
        shares.append(student.distiller.acting.share(student))
    assert shares == pytest.approx([0.8, 0.4, 0.0, 0.0])
    assert rlsd.EveryStep().to_dict() == {"type": "every_step", "stride": 1}


@pytest.mark.parametrize("given", [{}, {"strength": 0.0, "timing": timing(1.0)}])
def test_at_0_training_is_the_same_to_the_bit(given: dict[str, Any]) -> None:
    plain = build(PPO)
    distilled = rlsd.distill(copied(plain), {"teacher": rlsd.Frozen(agent=copied(plain)), "strength": 0.0} | given)
    for agent in (plain, distilled):
        agent.learn(64)
    assert not differences(training_state(plain), training_state(distilled))


def test_nothing_is_left_on_the_policy_and_a_stopped_run_goes_on_exactly(tmp_path: Any) -> None:
    config = {"teacher": rlsd.Frozen(agent=other()), "timing": timing(0.5, teacher_acts_until=1.0)}
    agent = rlsd.distill(small_ppo(), config)
    agent.learn(16)
    assert "forward" not in agent.policy.__dict__
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent", env=vec_env())
    assert loaded.distiller.acting.state() == agent.distiller.acting.state() != {}


@pytest.mark.parametrize("name", ["RecurrentPPO", "MaskablePPO", "TRPO"])
def test_agents_with_a_memory_or_masks_can_be_acted_for(name: str) -> None:
    student = small_agent(name)
    n = 2 if name == "MaskablePPO" else 1

    def function(seen: np.ndarray) -> np.ndarray:
        box = isinstance(student.action_space, spaces.Box)
        return np.zeros((len(seen), student.action_space.shape[0] if box else n), np.float32 if box else np.int64)

    rlsd.distill(student, {"teacher": rlsd.Expert(function), "timing": timing(0.5, teacher_acts_until=1.0)})
    student.learn(32)
    assert student.distiller.deposits > 0


@pytest.mark.parametrize(
    ("agent", "config", "said"),
    [
        (
            lambda: build(A2C),
            {"teacher": rlsd.Expert(lambda seen: np.zeros(len(seen), int))},
            "weighs actions by who chose",
        ),
        (small_ppo, {"teacher": "snapshot"}, "is for teachers from elsewhere"),
    ],
)
def test_what_cannot_be_is_named_when_built(agent: Any, config: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said) as error:
        rlsd.distill(agent(), config | {"timing": timing(0.5)})
    assert "\n" not in str(error.value)
