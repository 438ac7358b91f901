"""Policy consolidation: the losses of the paper, the pace of the chain, and what it costs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from agents import untouched_generators
from helpers import VECTOR, disturb, observe, small_agent, small_ppo
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import rlsd
from rlsd.actors import actor_for
from rlsd.distributions import Categorical, Gaussian
from rlsd.observations import as_items
from rlsd.states import RecentStore
from rlsd.teachers import Cascade, TargetSpec
from rlsd.teachers.cascade import STEPS, hidden_target

RAW = observe(VECTOR)


def make_store(n: int = 40) -> RecentStore:
    store = RecentStore(n, 8, np.random.SeedSequence(0), torch.device("cpu"))
    store.add(as_items(observe(VECTOR, n).numpy()))
    return store


def at_updates(teacher, agent, store, n: int) -> None:
    for _ in range(n):
        agent.num_timesteps += 8
        with untouched_generators():
            assert teacher.refresh(agent)
            teacher.prepare(store)
        disturb(agent.policy, 0.1, seed=agent.num_timesteps)


# The published losses


def normal(p):
    mean, log_std = p.chunk(2, dim=-1)
    return Normal(mean, log_std.exp())


def kl(family, p, q):
    """KL(p || q) by torch's own formulas."""
    if isinstance(family, Gaussian):
        return kl_divergence(normal(p), normal(q)).sum(-1)
    return F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="none").sum(-1)


@pytest.mark.parametrize("family", [Gaussian(2), Categorical((4,))], ids=["Gaussian", "Categorical"])
@pytest.mark.parametrize(("k", "last"), [(2, False), (3, False), (3, True), (5, True)])
def test_a_hidden_policys_target_has_the_gradient_of_the_papers_loss(family, k, last):
    generator = torch.Generator().manual_seed(k)
    pi, own, faster, slower = (family.normalized(p) for p in torch.randn(4, 7, 4, generator=generator))
    pi.requires_grad_()
    # Kaplanis et al. 2019: beta omega^(k-1) KL(pi_k, pi_k_old) + omega KL(pi_k, pi_k-1_old) + KL(pi_k, pi_k+1_old)
    expected = 0.7 * 3.0 ** (k - 1) * kl(family, pi, own) + 3.0 * kl(family, pi, faster)
    expected = expected if last else expected + kl(family, pi, slower)
    answer = Cascade(omega=3.0, beta=0.7)
    weight, target = hidden_target(family, k, own, faster, None if last else slower, answer)
    found = weight * kl(family, pi, target)
    slopes = [torch.autograd.grad(loss.mean(), pi)[0] for loss in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)


@given(beta=st.floats(0.05, 4), omega_12=st.floats(0.05, 4), seed=st.integers(0, 50), continuous=st.booleans())
def test_the_live_policys_one_target_has_the_gradient_of_the_papers_two(beta, omega_12, seed, continuous):
    agent = small_agent("A2C" if continuous else "PPO")
    answer = Cascade(n=3, beta=beta, omega_12=omega_12)
    teacher = answer.build(actor_for(agent))
    teacher.wants = TargetSpec(product=True)
    teacher.refresh(agent)
    disturb(teacher.hidden[0].frozen.policy, 0.3, seed=seed)
    family = teacher.actor.family
    one, two = teacher.live.targets(RAW), teacher.hidden[0].frozen.targets(RAW)
    student = torch.randn(one.shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    published = beta * kl(family, student, one) + omega_12 * kl(family, student, two)
    (expected,) = torch.autograd.grad(published.sum(), student)
    ours = (beta + omega_12) * family.kl(student, teacher.targets(RAW))
    (found,) = torch.autograd.grad(ours.sum(), student)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_turn_is_adam_on_the_papers_loss_from_the_policies_of_before():
    agent = small_agent("A2C")
    answer = Cascade(n=3, omega=2.0)
    teacher = answer.build(actor_for(agent))
    store = make_store()
    at_updates(teacher, agent, store, 2)  # after an even number all of the chain has moved
    teacher.refresh(agent)
    actor, family = teacher.actor, teacher.actor.family
    slots = np.random.default_rng()
    slots.bit_generator.state = teacher._generator.bit_generator.state
    slots = slots.integers(40, size=(STEPS, 8))
    batches = [store.gather(s, torch.from_numpy(s)) for s in slots]
    pi = teacher.hidden[0].frozen.again({"policy": dict(teacher.hidden[0].frozen.policy.named_parameters())}).policy
    optimizer = torch.optim.Adam(pi.requires_grad_(True).parameters(), lr=0.01 / 2.0)
    copied = {
        i: {k: v.clone() for k, v in s.items()} for i, s in teacher.hidden[0].optimizer.state_dict()["state"].items()
    }
    optimizer.load_state_dict(optimizer.state_dict() | {"state": copied})
    for group in optimizer.param_groups:
        group["lr"] = agent.policy.optimizer.param_groups[0]["lr"] / 2.0
    own = teacher.hidden[0].frozen.again({"policy": dict(teacher.hidden[0].frozen.policy.named_parameters())})
    for batch in batches:
        before = [own.targets(batch), teacher.live.targets(batch), teacher.hidden[1].frozen.targets(batch)]
        p = actor.parameters(pi, batch)
        loss = 0.5 * 2.0 * kl(family, p, before[0]) + 2.0 * kl(family, p, before[1]) + kl(family, p, before[2])
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    assert teacher.due() == [2]
    teacher.prepare(store)
    for mine, theirs in zip(teacher.hidden[0].frozen.policy.parameters(), pi.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-6)


# The pace


def test_each_policy_has_its_turn_omega_times_as_seldom_as_the_one_before():
    teacher = Cascade(n=4, omega=4.0).build(actor_for(small_ppo()))
    turns = {2: 0, 3: 0, 4: 0}
    for version in range(1, 65):
        teacher.version = version
        for k in teacher.due():
            turns[k] += 1
    assert turns == {2: 64, 3: 16, 4: 4}


@pytest.mark.parametrize("omega", [2.0, 4.0, 8.0])
def test_the_whole_chain_costs_little_more_than_its_second_policy(omega):
    for n in (2, 16, 64):
        teacher = Cascade(n=n, omega=omega).build(actor_for(small_ppo()))
        turns = 0
        for version in range(1, 1025):
            teacher.version = version
            turns += len(teacher.due())
        assert turns / 1024 <= 1 / (1 - 1 / omega) + 1e-9


def test_the_further_down_the_chain_the_less_a_policy_has_moved():
    agent = small_ppo(learning_rate=1e-3)
    teacher = Cascade(n=4, omega=2.0).build(actor_for(agent))
    teacher.refresh(agent)
    first, store = teacher.live.targets(RAW), make_store()
    for _ in range(60):
        agent.num_timesteps += 8
        teacher.refresh(agent)
        teacher.prepare(store)
        disturb(agent.policy, 0.02)  # always in the same direction
    family = teacher.actor.family
    moved = [float(family.kl(first, teacher.live.targets(RAW)).mean())]
    moved += [float(family.kl(first, hidden.frozen.targets(RAW)).mean()) for hidden in teacher.hidden]
    assert moved == sorted(moved, reverse=True), moved
    assert moved[-1] > 0


class Calls(TorchFunctionMode):
    """Counts what is asked of torch."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_gradient_step_costs_the_same_for_a_chain_of_sixteen():
    counts = []
    for n in (1, 16):
        teacher = Cascade(n=n, omega=4.0)
        agent = rlsd.distill(small_ppo(), {"teacher": teacher, "divergence": {"type": "kl", "direction": "reverse"}})
        agent.learn(32)
        agent.distiller._begin(agent)
        agent.distiller.penalty.gradients()  # draws the states of the update
        with Calls() as calls:
            agent.distiller.penalty.gradients()
        counts.append(calls.count)
    assert counts[0] == counts[1] > 0, counts


# The rest


def test_a_chain_of_one_is_the_policy_before_the_update():
    agent = small_ppo()
    teacher = Cascade(n=1).build(actor_for(agent))
    at_updates(teacher, agent, make_store(), 2)
    teacher.refresh(agent)
    with torch.no_grad():
        expected = teacher.actor.family.normalized(teacher.actor.parameters(agent.policy, RAW))
    torch.testing.assert_close(teacher.targets(RAW), expected)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_loaded_chain_goes_on_as_the_saved_one(after):
    agent, store = small_ppo(), make_store()
    answer = Cascade(n=3, omega=2.0)
    teacher = answer.build(actor_for(agent))
    at_updates(teacher, agent, store, after)
    loaded = answer.build(actor_for(agent))
    tensors = {name: tensor.clone() for name, tensor in teacher.tensors().items()}
    loaded.load(agent, tensors, json.loads(json.dumps(teacher.state())))
    for _ in range(4):
        agent.num_timesteps += 8
        for each in (teacher, loaded):
            each.refresh(agent)
            each.prepare(store)
        found, expected = loaded.tensors(), teacher.tensors()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        disturb(agent.policy, 0.1, seed=agent.num_timesteps)


def test_a_saved_chain_of_another_length_is_refused():
    agent = small_ppo()
    teacher = Cascade(n=3).build(actor_for(agent))
    teacher.refresh(agent)
    with pytest.raises(ValueError, match="it is a chain of 3"):
        Cascade(n=4).build(actor_for(agent)).load(agent, teacher.tensors(), teacher.state())


def test_ars_has_no_gradient_to_train_a_chain_by():
    with pytest.raises(TypeError, match="ARS has none: use 'ema' or 'snapshot'"):
        rlsd.distill(small_agent("ARS"), {"teacher": "cascade"})
