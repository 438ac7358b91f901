"""The penalty of one update: its gradient, its bound, its counters, and that it leaves no trace."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, config, copied, differences, distilled, untouched_generators
from helpers import ALGORITHMS, small_agent
from penalties import Weighing, build, flat, loss_of, recorded
from stable_baselines3.common.logger import Logger

import rlsd
from rlsd import KL, MSE, chunks, penalty
from rlsd.penalty import Penalty
from rlsd.targets import Batch
from rlsd.teachers import TargetSpec

#: Those whose states need nothing beside the observation, and which an optimizer trains.
SIMPLE = [name for name in ALGORITHMS if name not in ("MaskablePPO", "RecurrentPPO", "ARS")]
UNCLIPPED = ["SAC", "TQC", "CrossQ", "TD3", "DDPG", "QRDQN"]
CLIPPED = ["PPO", "A2C", "DQN"]


@pytest.mark.parametrize("divergence", [KL(), KL("reverse", temperature=2.0), MSE()], ids=["forward", "reverse", "mse"])
@pytest.mark.parametrize("name", SIMPLE)
def test_the_gradient_is_that_of_strength_times_mean_divergence(name, divergence):
    agent = small_agent(name)
    agent.policy.set_training_mode(False)
    penalty = build(agent, divergence=divergence, stride=2)
    batches = recorded(penalty)
    penalty.begin(agent, beta=0.7)
    assert list(penalty.gradients()) == [], "the first step of a stride of two gets none"
    found = {id(p): gradient for p, gradient in penalty.gradients()}
    (batch,) = batches
    module = penalty.actor.module(agent.policy)
    student = penalty.actor.parameters(module, batch.states)
    loss = 0.7 * 2 * divergence(penalty.actor.family, penalty.cache.teacher.targets(batch.states), student).mean()
    named = [(key, p) for key, p in module.named_parameters() if p.requires_grad]
    expected = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    for (key, p), gradient in zip(named, expected, strict=True):
        assert (gradient is None) == (id(p) not in found), key
        if gradient is not None:
            torch.testing.assert_close(found[id(p)], gradient, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("values", [False, True], ids=["actions", "values"])
@pytest.mark.parametrize("name", ["PPO", "A2C", "SAC", "DQN"])
def test_the_gradient_is_the_same_where_few_states_go_through_the_network_at_a_time(name, values, monkeypatch):
    if values and name in ("SAC", "DQN"):
        pytest.skip("has no values of states")
    found = []
    for room in (10**9, 100):
        monkeypatch.setattr(chunks, "_ROOM", room)
        agent = small_agent(name)
        penalty = build(agent, divergence=KL(value_weight=0.5 * values), batch_size=37)
        sizes, ask = [], penalty.actor.parameters
        monkeypatch.setattr(penalty.actor, "parameters", lambda m, s, ask=ask, to=sizes: to.append(len(s)) or ask(m, s))
        penalty.begin(agent, beta=0.7)
        found.append(flat(penalty.gradients()))
        assert penalty.deposits == 1
        assert (max(sizes[1:]) == 37) == (room > 100), "in one piece or in several"
    assert found[0].norm() > 0
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


def test_a_frozen_network_takes_no_part_of_a_gradient_in_pieces(monkeypatch):
    monkeypatch.setattr(chunks, "_ROOM", 100)
    agent = small_agent("SAC")
    agent.policy.requires_grad_(False)
    penalty = build(agent, batch_size=37)
    penalty.begin(agent, beta=0.7)
    assert list(penalty.gradients()) == [] and penalty.deposits == 0


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("name", UNCLIPPED)
def test_where_sb3_clips_nothing_the_gradient_is_bounded_and_keeps_its_direction(name, stride):
    bound = 0.05
    found = {}
    for limit in (bound, 1e9):
        agent = small_agent(name)
        penalty = build(agent, bound=limit, stride=stride)
        penalty.begin(agent, beta=10.0)
        for _ in range(stride):
            gradients = penalty.gradients()
        found[limit] = flat(gradients)
    assert found[1e9].norm() > bound * stride, "nothing to bound"
    assert found[bound].norm().item() == pytest.approx(bound * stride, rel=1e-4), "a stride is several steps' worth"
    torch.testing.assert_close(found[bound] / found[bound].norm(), found[1e9] / found[1e9].norm())


def test_a_gradient_within_the_bound_is_as_it_is():
    found = []
    for limit in (1e3, 1e9):
        agent = small_agent("SAC")
        penalty = build(agent, bound=limit)
        penalty.begin(agent, beta=1.0)
        found.append(flat(penalty.gradients()))
    assert found[0].norm() < 1e3
    assert torch.equal(*found)


@pytest.mark.parametrize("name", CLIPPED)
def test_where_sb3_clips_the_sum_nothing_is_bounded_apart(name):
    agent = small_agent(name)
    penalty = build(agent, bound=1e-6)
    penalty.begin(agent, beta=10.0)
    assert flat(penalty.gradients()).norm() > 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "DQN"])
def test_a_gradient_that_is_not_finite_is_dropped_whole_and_counted(name, bad):
    agent = small_agent(name)
    penalty = build(agent)
    penalty.begin(agent, beta=1.0)
    penalty.gradients()
    assert float(penalty.dropped) == 0
    penalty.cache.versions[:] = penalty.cache.teacher.version
    penalty.cache.targets[:, 0] = bad
    for count in (1, 2):
        dropped = flat(penalty.gradients())
        assert (dropped == 0).all()
        assert float(penalty.dropped) == count


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
@pytest.mark.parametrize("name", ["PPO", "CrossQ", "TD3", "QRDQN"])
def test_a_gradient_leaves_no_trace(name, mode):
    agent = small_agent(name)
    agent.learn(24)
    penalty = build(agent)
    penalty.begin(agent, beta=1.0)
    modules = list(agent.policy.modules())
    for number, module in enumerate(modules):
        module.training = {"train": True, "eval": False, "mixed": number % 2 == 0}[mode]
    flags = [module.training for module in modules]
    before = copied(dict(agent.policy.state_dict()))
    grads = [None if p.grad is None else p.grad.clone() for p in agent.policy.parameters()]
    with untouched_generators():
        penalty.gradients()
    assert [module.training for module in modules] == flags
    assert not differences(before, dict(agent.policy.state_dict()))
    for p, grad in zip(agent.policy.parameters(), grads, strict=True):
        assert (p.grad is None) == (grad is None)
        assert grad is None or torch.equal(p.grad, grad)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_steps_and_deposits_are_counted(stride):
    agent = small_agent("PPO")
    penalty = build(agent, stride=stride)
    penalty.begin(agent, beta=1.0)
    given = [bool(penalty.gradients()) for _ in range(10)]
    assert penalty.steps == 10
    assert penalty.deposits == sum(given) == 10 // stride
    loaded = build(small_agent("PPO"), stride=stride)
    loaded.load(penalty.state())
    assert loaded.state() == penalty.state()


def test_one_deposit_of_an_update_is_looked_at_closely():
    agent = small_agent("PPO")
    penalty = build(agent)
    for _ in range(3):
        penalty.begin(agent, beta=1.0)
        wanted = []
        for _ in range(6):
            penalty.gradients()
            wanted.append(penalty.wants_ratio)
        penalty.end()
        assert sum(wanted) == 1
    assert wanted.index(True) == 3, "in the middle of the update"


def test_the_metrics_are_those_of_the_minibatches():
    agent = small_agent("PPO")
    penalty = build(agent)
    batches = recorded(penalty)
    penalty.begin(agent, beta=0.5)
    for _ in range(4):
        penalty.gradients()
    family = penalty.actor.family
    with torch.no_grad():
        students = [penalty.actor.parameters(agent.policy, batch.states) for batch in batches]
    kl = np.mean([family.kl(b.targets, s).mean().item() for b, s in zip(batches, students, strict=True)])
    metrics = penalty.metrics.means()
    assert metrics["kl"] == pytest.approx(kl, rel=1e-5)
    assert metrics["loss"] == pytest.approx(0.5 * kl, rel=1e-5)
    assert metrics["agreement"] == pytest.approx(family.agreement(batches[0].targets, students[0]).mean().item())


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_between_updates_the_agent_is_let_go(name):
    agent = small_agent(name)
    penalty = build(agent)
    penalty.begin(agent, beta=1.0)
    penalty.gradients()
    penalty.end()
    policy = weakref.ref(agent.policy)
    agent.policy = None
    del agent
    gc.collect()
    assert policy() is None, "the penalty holds on to the policy"


# The values, too

WITH_VALUES = ["PPO", "A2C", "TRPO", "MaskablePPO"]


def by_hand(penalty: Penalty, agent, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each state: KL(teacher || student) by torch alone, and both sides' values."""
    student = agent.policy.get_distribution(batch.states).distribution
    kl = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=batch.targets), student)
    return kl, batch.values, agent.policy.predict_values(batch.states)[:, 0]


def test_a_value_weight_adds_that_much_of_the_squared_difference_of_values():
    agent = small_agent("PPO")
    agent.policy.set_training_mode(False)
    penalty = build(agent, divergence=KL(value_weight=0.5))
    batches = recorded(penalty)
    penalty.begin(agent, beta=0.7)
    loss = loss_of(penalty)
    (batch,) = batches
    kl, before, now = by_hand(penalty, agent, batch)
    torch.testing.assert_close(batch.values, penalty.cache.teacher.values(batch.states), msg="the teacher's own values")
    assert (before - now).abs().min() > 1e-3, "nothing to hold"
    torch.testing.assert_close(loss, 0.7 * (kl + 0.5 * (before - now) ** 2).mean(), rtol=1e-4, atol=1e-6)
    metrics = penalty.metrics.means()
    assert metrics["kl"] == pytest.approx(kl.mean().item(), rel=1e-4), "the divergence is shown by itself"
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_a_value_weight_pulls_the_critic_to_what_it_said_and_leaves_the_teacher_alone(name):
    pulled = {}
    for weight in (0.0, 0.5):
        agent = small_agent(name)
        penalty = build(agent, divergence=KL(value_weight=weight))
        teacher = copied(dict(penalty.cache.teacher.policy.state_dict()))
        penalty.begin(agent, beta=1.0)
        term = loss_of(penalty)
        critic = list(agent.policy.value_net.parameters())
        pulled[weight] = torch.autograd.grad(term, critic, allow_unused=True)
        assert not differences(teacher, dict(penalty.cache.teacher.policy.state_dict()))
    assert all(gradient is None for gradient in pulled[0.0]), "without the term the critic is left alone"
    assert all(gradient.abs().max() > 0 for gradient in pulled[0.5])


@pytest.mark.parametrize("name", WITH_VALUES)
def test_every_algorithm_with_values_can_be_trained_with_a_value_weight(name):
    kind = "multidiscrete" if name == "MaskablePPO" else "box"
    agent = distilled(ALL_ALGORITHMS[name], kind, distill=config(divergence=KL(value_weight=0.5))).learn(5 * ROLLOUT)
    assert agent.distiller.deposits > 0
    assert float(agent.distiller.penalty.dropped) == 0


@pytest.mark.parametrize("name", ["SAC", "DQN", "TD3", "ARS", "RecurrentPPO"])
def test_an_algorithm_without_values_is_refused_a_value_weight_with_a_way_out(name):
    with pytest.raises(TypeError, match=f"state values, and a {name} has none: use PPO, A2C, TRPO or Mas"):
        small_agent(name, wrap=rlsd.SelfDistilled, distill={"divergence": {"value_weight": 0.5}})


# Gates that decide state by state


def test_each_state_counts_as_much_as_its_gates_say():
    agent = small_agent("PPO")
    agent.policy.set_training_mode(False)
    penalty = build(agent, divergence=KL(value_weight=0.5))
    weights = torch.linspace(0.0, 1.0, 8)
    penalty.coefficient.per_state = [gate] = [Weighing(weights)]
    batches = recorded(penalty)
    penalty.begin(agent, beta=0.7)
    loss = loss_of(penalty)
    kl, before, now = by_hand(penalty, agent, batches[0])
    torch.testing.assert_close(loss, 0.7 * (weights * (kl + 0.5 * (before - now) ** 2)).mean(), rtol=1e-4, atol=1e-6)
    metrics = penalty.metrics.means()
    assert metrics["open"] == pytest.approx(0.5)
    assert metrics["kl"] == pytest.approx(kl.mean().item(), rel=1e-4), "the divergence is that before the gates"
    (seen,) = gate.seen
    torch.testing.assert_close(seen.student_values, now.detach())
    torch.testing.assert_close(seen.teacher_values, before)
    assert not seen.student.requires_grad
    assert not seen.student_values.requires_grad


def test_a_gate_is_handed_how_far_the_teachers_members_differ():
    agent = small_agent("PPO")
    penalty = build(agent, wants=TargetSpec(spread=True))
    penalty.cache.teacher.spread = lambda observations: torch.arange(len(observations)) / 10.0
    penalty.coefficient.per_state = [gate] = [Weighing(torch.ones(8))]
    batches = recorded(penalty)
    penalty.begin(agent, beta=1.0)
    loss_of(penalty)
    assert torch.equal(gate.seen[0].spread, batches[0].spread)
    assert batches[0].spread.max() > 0
    assert gate.seen[0].teacher_values is None


# What a strength that follows the updates is told


@pytest.mark.parametrize("name", ["PPO", "SAC"])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_ratio_of_gradients_is_that_at_strength_one_whatever_the_bound(name, stride):
    found = []
    for bound, beta in ((1e9, 1.0), (1e9, 5.0), (0.01, 5.0)):
        agent = small_agent(name)
        agent.set_logger(Logger(None, []))
        penalty = build(agent, bound=bound, stride=stride)
        penalty.begin(agent, beta)
        for _ in range(stride):
            gradients = penalty.gradients()
        penalty.ratio(flat(gradients).norm(), torch.tensor(2.0))
        found.append(penalty.feedback(agent).ratio)
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)
    assert found[0] > 0


def test_means_are_of_the_states_on_which_the_student_is_held():
    each = torch.tensor([[1.0, 2.0, 6.0], [0.0, 4.0, 8.0]])
    assert penalty._mean(each, None).tolist() == [3.0, 4.0]
    assert penalty._mean(each, torch.tensor([0.0, 0.5, 1.0])).tolist() == [4.0, 6.0]
    assert penalty._mean(each, torch.zeros(3)).tolist() == [0.0, 0.0], "where none is held nothing differs"
