"""The penalty of one update: its gradient, its bound, its counters, and that it leaves no trace."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, ROLLOUT, config, copied, differences, distilled, untouched_generators
from gymnasium import spaces
from helpers import ALGORITHMS, Handing, disturb, observe, small_agent, vec_env
from stable_baselines3.common.logger import Logger
from torch.nn.utils import parameters_to_vector

import rlsd
from rlsd import KL, MSE, Constant, EveryStep, Reservoir, Snapshot, chunks
from rlsd.actors import actor_for
from rlsd.gates import GateInput
from rlsd.metrics import Metrics
from rlsd.observations import as_items
from rlsd.penalty import Penalty
from rlsd.strength import Coefficient
from rlsd.targets import Batch, TargetCache
from rlsd.teachers import TargetSpec

#: Those whose states need nothing beside the observation, and which an optimizer trains.
SIMPLE = [name for name in ALGORITHMS if name not in ("MaskablePPO", "RecurrentPPO", "ARS")]
UNCLIPPED = ["SAC", "TQC", "CrossQ", "TD3", "DDPG", "QRDQN"]
CLIPPED = ["PPO", "A2C", "DQN"]


def build(
    agent, bound: float = 1e9, stride: int = 1, divergence=None, batch_size: int = 8, wants: TargetSpec | None = None
) -> Penalty:
    """A penalty on 32 states, whose teacher is what the agent was before its parameters were disturbed."""
    actor = actor_for(agent)
    teacher = Snapshot().build(actor)
    teacher.take(agent)
    teacher.wants = wants or TargetSpec(value=bool(divergence and divergence.value_weight))
    store = Reservoir(capacity=max(32, batch_size), batch_size=batch_size).build(np.random.SeedSequence(0), agent)
    replay = TargetCache(store, actor.family.size, teacher.wants)
    states = {key: t.numpy() for key, t in as_items(observe(agent.observation_space, 32)).items()}
    replay.collect(agent, Handing(states))
    actor.family.calibrate(replay.sample_targets(teacher))
    disturb(agent.policy, 0.3)
    dial = Coefficient(Constant(bound=bound))
    return Penalty(actor, divergence or KL(), EveryStep(stride), dial, replay, teacher, Metrics(torch.device("cpu")))


def recorded(penalty: Penalty) -> list[Batch]:
    """The minibatches that the penalty draws from now on."""
    batches: list[Batch] = []
    draw = penalty.cache.next

    def next_(teacher):
        batches.append(draw(teacher))
        return batches[-1]

    penalty.cache.next = next_
    return batches


def flat(gradients) -> torch.Tensor:
    return torch.cat([gradient.flatten() for _, gradient in gradients])


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
    loss = 0.7 * 2 * divergence(penalty.actor.family, penalty.teacher.targets(batch.states), student).mean()
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
    penalty.cache.versions[:] = penalty.teacher.version
    penalty.cache.targets[:, 0] = bad
    for count in (1, 2):
        dropped = flat(penalty.gradients())
        assert (dropped == 0).all()
        assert float(penalty.dropped) == count


def test_a_term_that_is_not_finite_is_dropped_and_counted():
    agent = small_agent("TRPO")
    penalty = build(agent)
    penalty.begin(agent, beta=0.5)
    batches = recorded(penalty)
    term = penalty.term()
    student = penalty.actor.parameters(agent.policy, batches[0].states)
    expected = 0.5 * KL()(penalty.actor.family, batches[0].targets, student).mean()
    torch.testing.assert_close(term, expected)
    assert term.requires_grad, "it is differentiated elsewhere"
    penalty.cache.versions[:] = penalty.teacher.version
    penalty.cache.targets[:] = float("nan")
    assert penalty.term() is None
    assert float(penalty.dropped) == 1


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


def test_the_figures_are_those_of_the_minibatches():
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
    figures = penalty.metrics.means()
    assert figures["kl"] == pytest.approx(kl, rel=1e-5)
    assert figures["loss"] == pytest.approx(0.5 * kl, rel=1e-5)
    assert figures["agreement"] == pytest.approx(family.agreement(batches[0].targets, students[0]).mean().item())


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


class Weighing:
    """A gate that weighs states as a test says."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.fixed = weights
        self.seen: list[GateInput] = []

    def weights(self, situation: GateInput) -> torch.Tensor:
        self.seen.append(situation)
        return self.fixed


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
    loss = penalty.loss()
    (batch,) = batches
    kl, before, now = by_hand(penalty, agent, batch)
    torch.testing.assert_close(batch.values, penalty.teacher.values(batch.states), msg="the teacher's own values")
    assert (before - now).abs().min() > 1e-3, "nothing to hold"
    torch.testing.assert_close(loss, 0.7 * (kl + 0.5 * (before - now) ** 2).mean(), rtol=1e-4, atol=1e-6)
    figures = penalty.metrics.means()
    assert figures["kl"] == pytest.approx(kl.mean().item(), rel=1e-4), "the divergence is shown by itself"
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["PPO", "A2C"])
def test_a_value_weight_pulls_the_critic_to_what_it_said_and_leaves_the_teacher_alone(name):
    pulled = {}
    for weight in (0.0, 0.5):
        agent = small_agent(name)
        penalty = build(agent, divergence=KL(value_weight=weight))
        teacher = copied(dict(penalty.teacher.policy.state_dict()))
        penalty.begin(agent, beta=1.0)
        term = penalty.loss()
        critic = list(agent.policy.value_net.parameters())
        pulled[weight] = torch.autograd.grad(term, critic, allow_unused=True)
        assert not differences(teacher, dict(penalty.teacher.policy.state_dict()))
    assert all(gradient is None for gradient in pulled[0.0]), "without the term the critic is left alone"
    assert all(gradient.abs().max() > 0 for gradient in pulled[0.5])


def test_a_critic_that_learns_apart_is_pulled_by_its_own_steps_and_the_actor_is_not():
    agent = small_agent("TRPO")
    agent.policy.set_training_mode(False)
    penalty = build(agent, divergence=KL(value_weight=0.5))
    weights = torch.linspace(0.0, 1.0, 8)
    penalty.coefficient.per_state = [Weighing(weights)]
    batches = recorded(penalty)
    penalty.begin(agent, beta=0.7)
    found = dict(penalty.critic_gradients())
    before, now = batches[0].values, agent.policy.predict_values(batches[0].states).flatten()
    critic = {name: p for name, p in agent.policy.named_parameters() if "value" in name}
    loss = 0.7 * 0.5 * (weights * (before - now) ** 2).mean()
    expected = dict(zip(critic.values(), torch.autograd.grad(loss, list(critic.values())), strict=True))
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[parameter], gradient)
    term = penalty.term()
    pulled = torch.autograd.grad(term, list(critic.values()), allow_unused=True)
    assert all(gradient is None for gradient in pulled), "the actor's term has no part in the critic"


def test_the_pull_on_a_critic_that_learns_apart_is_bounded_and_keeps_its_stride():
    agent = small_agent("TRPO")
    penalty = build(agent, bound=0.1, stride=2, divergence=KL(value_weight=1000.0))
    penalty.begin(agent, beta=1.0)
    norms = []
    for _ in range(4):
        gradients = [gradient for _, gradient in penalty.critic_gradients()]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()) if gradients else 0.0)
    assert norms == pytest.approx([0.2, 0.0, 0.2, 0.0]) or norms == pytest.approx([0.0, 0.2, 0.0, 0.2]), norms


def test_a_value_weight_moves_the_critic_of_trpo():
    def critic(weight: float) -> dict[str, torch.Tensor]:
        agent = distilled(ALL_ALGORITHMS["TRPO"], "box", distill=config(divergence=KL(value_weight=weight)))
        return copied(dict(agent.learn(5 * ROLLOUT).policy.value_net.state_dict()))

    assert differences(critic(0.0), critic(10.0))


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
    loss = penalty.loss()
    kl, before, now = by_hand(penalty, agent, batches[0])
    torch.testing.assert_close(loss, 0.7 * (weights * (kl + 0.5 * (before - now) ** 2)).mean(), rtol=1e-4, atol=1e-6)
    figures = penalty.metrics.means()
    assert figures["open"] == pytest.approx(0.5)
    assert figures["kl"] == pytest.approx(kl.mean().item(), rel=1e-4), "the divergence is that before the gates"
    (seen,) = gate.seen
    torch.testing.assert_close(seen.student_values, now.detach())
    torch.testing.assert_close(seen.teacher_values, before)
    assert not seen.student.requires_grad
    assert not seen.student_values.requires_grad


def test_a_gate_is_handed_how_far_the_teachers_members_differ():
    agent = small_agent("PPO")
    penalty = build(agent, wants=TargetSpec(spread=True))
    penalty.teacher.spread = lambda observations: torch.arange(len(observations)) / 10.0
    penalty.coefficient.per_state = [gate] = [Weighing(torch.ones(8))]
    batches = recorded(penalty)
    penalty.begin(agent, beta=1.0)
    penalty.loss()
    assert torch.equal(gate.seen[0].spread, batches[0].spread)
    assert batches[0].spread.max() > 0
    assert gate.seen[0].teacher_values is None


def test_states_count_for_the_candidates_of_a_random_search_as_gates_say():
    agent = small_agent("ARS", vec_env(action_space=spaces.Discrete(3)))
    disturb(agent.policy)
    penalty = build(agent)
    weights = torch.linspace(0.0, 1.0, 8)
    penalty.coefficient.per_state = [gate] = [Weighing(weights)]
    batches = recorded(penalty)
    own = parameters_to_vector(agent.policy.parameters()).detach()
    penalty.begin(agent, beta=3.0)
    (found,) = penalty.scores(own[None])
    answers = penalty.actor.parameters(agent.policy, batches[0].states).detach()
    kl = penalty.actor.family.kl(batches[0].targets, answers)
    torch.testing.assert_close(found, 3.0 * (weights * kl).mean(), rtol=1e-4, atol=1e-4)
    figures = penalty.metrics.means()
    assert figures["kl"] == pytest.approx(kl.mean().item(), rel=1e-4), "the divergence is that before the gates"
    assert figures["loss"] == pytest.approx(found.item(), rel=1e-5)
    assert torch.equal(gate.seen[0].student, answers), "gates look at the policy, not at its candidates"


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


# ARS


@pytest.mark.parametrize("actions", [spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(3)])
def test_each_candidate_is_scored_by_its_own_divergence(actions):
    agent = small_agent("ARS", vec_env(action_space=actions))
    disturb(agent.policy)
    penalty = build(agent)
    batches = recorded(penalty)
    own = parameters_to_vector(agent.policy.parameters()).detach()
    candidates = own + torch.randn(4, len(own), generator=torch.Generator().manual_seed(1))
    penalty.begin(agent, beta=3.0)
    with untouched_generators():
        found = penalty.scores(candidates)
    (batch,) = batches
    assert found.shape == (4,)
    for weights, score in zip(candidates, found, strict=True):
        agent.policy.load_from_vector(weights.numpy())
        answers = penalty.actor.parameters(agent.policy, batch.states)
        expected = 3.0 * penalty.actor.family.kl(penalty.teacher.targets(batch.states), answers).mean()
        torch.testing.assert_close(score, expected.detach(), rtol=1e-4, atol=1e-4)
    assert (penalty.steps, penalty.deposits) == (1, 1)


def test_a_candidate_whose_divergence_is_not_finite_is_not_penalised_and_is_counted():
    agent = small_agent("ARS", policy_kwargs={"net_arch": [4], "squash_output": False})
    penalty = build(agent)
    own = parameters_to_vector(agent.policy.parameters()).detach()
    candidates = torch.stack([own + 1.0, torch.full_like(own, 1e30), own + 2.0])
    penalty.begin(agent, beta=1.0)
    scores = penalty.scores(candidates)
    assert torch.isfinite(scores).all()
    assert scores[1] == 0.0
    assert (scores[[0, 2]] > 0).all()
    assert float(penalty.dropped) == 1
