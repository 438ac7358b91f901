"""Policies with a distribution of torch's that SB3 does not have: distilled by torch's own divergence, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents import copied, differences, distillation_state, training_state
from gymnasium import spaces
from helpers import check_goes_on_as_if_never_stopped, small_agent, vec_env
from own_policies import (
    BetaDistribution,
    BetaPolicy,
    Binned,
    Correlated,
    JoinedGamma,
    LaplaceDistribution,
    LaplaceInGaussian,
    MixtureDistribution,
    ShiftedByState,
    SquashedBeta,
    policy_with,
)
from torch import distributions as dist

import rlsd
from rlsd.actors import actor_for
from rlsd.distributions import Categorical
from rlsd.torch_family import TorchFamily, bare, flattened

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
HOLDING = {"teacher": {"every": 16}, "states": {"capacity": 32, "batch_size": 4}, "strength": 0.5}


def beta_agent(distill=HOLDING, name: str = "PPO", policy=BetaPolicy, **kwargs):
    return small_agent(
        name, vec_env(action_space=BOX), wrap=rlsd.SelfDistilled, policy=policy, distill=distill, **kwargs
    )


EXAMPLES = {
    "beta": lambda x: [dist.Beta(x[:, :2].exp() + 0.5, x[:, 2:].exp() + 0.5)],
    "laplace": lambda x: [dist.Laplace(x[:, :2], x[:, 2:].exp())],
    "gamma": lambda x: [dist.Gamma(x[:, :2].exp() + 0.5, x[:, 2:].exp())],
    "several": lambda x: [dist.Categorical(logits=x[:, :3]), dist.Normal(x[:, 3:], 1.0)],
    "correlated": lambda x: [dist.MultivariateNormal(x[:, :2], scale_tril=torch.diag_embed(x[:, 2:].exp()))],
    "cauchy": lambda x: [dist.Cauchy(x[:, :2], x[:, 2:].exp())],
}
every_example = pytest.mark.parametrize("make", EXAMPLES.values(), ids=EXAMPLES.keys())


def some(make, seed: int, n: int = 5):
    return make(torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)))


@every_example
def test_divergence_and_entropy_are_torchs_summed_over_components(make):
    torch.manual_seed(0)
    p, q = some(make, 0), some(make, 1)
    family = TorchFamily(p)
    flat_p, flat_q = flattened(p), flattened(q)
    assert flat_p.shape == (5, family.size)
    kl = sum(dist.kl_divergence(a, b).reshape(5, -1).sum(1) for a, b in zip(p, q, strict=True))
    torch.testing.assert_close(family.kl(flat_p, flat_q), kl)
    assert (family.kl(flat_p, flat_q) > 0).all()
    torch.testing.assert_close(family.kl(flat_p, flat_p), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(family.entropy(flat_p), sum(a.entropy().reshape(5, -1).sum(1) for a in p))
    assert family.agreement(flat_p, flat_p).tolist() == [1.0] * 5
    assert family.agreement(flat_p, flat_q).sum() < 5
    assert torch.isfinite(family.values(flat_p)).all()
    assert torch.isfinite(family.normalized_entropy(flat_p)).all()
    assert ((family.confidence(flat_p) > 0) & (family.confidence(flat_p) < 1)).all()


@every_example
def test_members_that_are_equal_become_that_one_and_do_not_differ(make):
    torch.manual_seed(0)
    family, p = TorchFamily(some(make, 0)), flattened(some(make, 0))
    weights = torch.tensor([0.25, 0.75])
    for join in (family.mixture, family.product):
        torch.testing.assert_close(join(torch.stack([p, p]), weights), p)
    torch.testing.assert_close(family.spread(torch.stack([p, p]), weights), torch.zeros(5), atol=1e-5, rtol=0)
    far = family.spread(torch.stack([p, flattened(some(make, 1))]), weights)
    assert (far > 0).all()


def test_the_product_of_betas_is_their_normalised_geometric_mean():
    p, q, s = (flattened(some(EXAMPLES["beta"], seed)) for seed in range(3))
    family, weights = TorchFamily(some(EXAMPLES["beta"], 0)), torch.tensor([0.3, 0.7])

    def slope(loss):
        student = s.clone().requires_grad_()
        return torch.autograd.grad(loss(student).sum(), student)[0]

    joined = family.product(torch.stack([p, q]), weights)
    apart = slope(lambda student: 0.3 * family.kl(student, p) + 0.7 * family.kl(student, q))
    torch.testing.assert_close(slope(lambda student: family.kl(student, joined)), apart, rtol=1e-3, atol=1e-4)


def test_the_error_of_a_mixture_falls_as_the_square_of_the_distance():
    family, weights = TorchFamily(some(EXAMPLES["beta"], 0)), torch.tensor([0.5, 0.5])
    p = flattened(some(EXAMPLES["beta"], 0)).double()
    step = flattened(some(EXAMPLES["beta"], 1)).double()

    def error(distance):
        members = torch.stack([p, p + distance * step])
        student = family.mixture(members, weights).requires_grad_()
        loss = 0.5 * family.kl(members[0], student) + 0.5 * family.kl(members[1], student)
        return float(torch.autograd.grad(loss.sum(), student)[0].abs().max())

    assert error(0.005) < 0.35 * error(0.01) < 0.2 * error(0.02)


def test_a_bijection_and_what_joins_components_are_taken_off():
    inner = dist.Beta(torch.ones(3, 2), torch.ones(3, 2))
    squashed = dist.TransformedDistribution(inner, [dist.AffineTransform(-1.0, 2.0), dist.TanhTransform()])
    assert bare(dist.Independent(squashed, 1)) is inner
    learned = dist.AffineTransform(torch.zeros(3, 2, requires_grad=True), 1.0)
    for transform, reason in [(learned, "learned"), (dist.AbsTransform(), "undone")]:
        for one in (transform, dist.ComposeTransform([transform]), dist.IndependentTransform(transform, 1)):
            with pytest.raises(TypeError, match=f"AffineTransform that is learned|Transform that .*{reason}"):
                bare(dist.TransformedDistribution(inner, [one]))


# Agents


@pytest.mark.parametrize("recipe", [name for name in rlsd.recipes() if name != "kickstart"])
def test_a_beta_policy_is_distilled_by_every_recipe(recipe):
    kind = "episodes" if recipe in ("remember", "keeper") else "reservoir"
    agent = beta_agent(rlsd.recipe(recipe, states={"type": kind, "capacity": 32, "batch_size": 4}))
    agent.learn(32)
    assert agent.distiller.actor.family.sizes == ("Beta(2,)",)


def pulled(policy, steps: int = 64, name: str = "PPO"):
    """Where two agents end that differ in how strongly they are held."""
    ends = []
    for strength in (0.0, 10.0):
        agent = beta_agent(HOLDING | {"strength": strength}, name, policy)
        agent.learn(steps)
        ends.append(dict(agent.policy.state_dict()))
    return agent, ends


OWN = [BetaDistribution, LaplaceDistribution, JoinedGamma, Correlated, SquashedBeta, LaplaceInGaussian, Binned]


@pytest.mark.parametrize("distribution", OWN, ids=lambda cls: cls.__name__)
def test_a_distribution_of_ones_own_is_held_where_it_acts(distribution):
    agent, (free, held) = pulled(policy_with(distribution))
    assert agent.distiller.deposits > 0
    assert float(agent.distiller.penalty.dropped) == 0
    assert not torch.equal(free["action_net.weight"], held["action_net.weight"])


@pytest.mark.parametrize("name", ["A2C", "TRPO"])
def test_so_it_is_with_the_other_algorithms_of_such_policies(name):
    _, (free, held) = pulled(BetaPolicy, name=name)
    assert not torch.equal(free["action_net.weight"], held["action_net.weight"])


def test_continuous_actions_in_bins_are_compared_as_choices():
    family = actor_for(small_agent("PPO", vec_env(action_space=BOX), policy=policy_with(Binned))).family
    assert isinstance(family, Categorical)
    assert family.sizes == (7, 7)


def test_the_gradient_of_a_beta_policy_is_that_of_the_divergence_of_its_actions():
    agent = beta_agent()
    agent.learn(32)
    distiller = agent.distiller
    seen = []
    distiller.on_penalty.append(lambda batch, loss, gradient: seen.append(batch))
    distiller.penalty.begin(agent, 0.5)
    found = {id(parameter): gradient for parameter, gradient in distiller.penalty.gradients()}
    (batch,) = seen
    distiller.penalty.end()

    def answer(policy):
        inner = policy.get_distribution(batch.states).distribution
        return dist.Beta(inner.concentration1, inner.concentration0)

    theirs, mine = answer(distiller.teacher.policy), answer(agent.policy)
    loss = 0.5 * dist.kl_divergence(theirs, mine).sum(-1).mean()
    expected = torch.autograd.grad(loss, list(agent.policy.parameters()), allow_unused=True)
    reached = 0
    for parameter, gradient in zip(agent.policy.parameters(), expected, strict=True):
        assert (gradient is None) == (id(parameter) not in found)
        if gradient is not None:
            torch.testing.assert_close(found[id(parameter)], gradient, rtol=1e-4, atol=1e-6)
            reached += bool(gradient.abs().max() > 0)
    assert reached


@pytest.mark.parametrize("recipe", ["snapshot", "ema", "cascade"])
def test_a_beta_policy_stopped_and_continued_ends_where_it_would_have(recipe, tmp_path):
    answers = rlsd.recipe(recipe, states={"capacity": 32, "batch_size": 4})
    agent = beta_agent(answers)
    agent.learn(32)
    check_goes_on_as_if_never_stopped(agent, tmp_path / "at", 32)


def test_a_beta_policy_that_is_not_held_trains_as_plain_sb3_does():
    ends = []
    for wrap, more in ((None, {}), (rlsd.SelfDistilled, {"distill": HOLDING | {"strength": 0.0}})):
        agent = small_agent("PPO", vec_env(action_space=BOX), wrap=wrap, policy=BetaPolicy, **more)
        agent.learn(48)
        ends.append(copied(training_state(agent)))
    assert not differences(*ends)


def test_a_saved_beta_policy_loads_with_its_teacher(tmp_path):
    agent = beta_agent()
    agent.learn(32)
    agent.save(tmp_path / "beta")
    again = rlsd.SelfDistilled(type(agent).__mro__[1]).load(tmp_path / "beta")
    assert not differences(copied(distillation_state(agent)), copied(distillation_state(again)))


@pytest.mark.parametrize(
    ("distribution", "reason"),
    [(MixtureDistribution, "MixtureSameFamily"), (ShiftedByState, "AffineTransform that is learned")],
)
def test_what_torch_cannot_compare_is_refused_in_one_line_when_the_agent_is_built(distribution, reason):
    with pytest.raises(TypeError, match=rf"{reason}.*rlsd\.register_actor\({distribution.__name__}Policy") as caught:
        beta_agent(policy=policy_with(distribution))
    assert "\n" not in str(caught.value)


def test_a_temperature_of_what_torch_has_no_power_of_is_refused_when_the_agent_is_built():
    with pytest.raises(TypeError, match=r"divergence.temperature = 2: .*Beta\(2,\): leave it at 1"):
        beta_agent(HOLDING | {"divergence": {"temperature": 2.0}})


def test_one_beta_policy_teaches_another_but_no_gaussian(tmp_path):
    teacher = small_agent("PPO", vec_env(action_space=BOX), policy=BetaPolicy)
    beta_agent(HOLDING | {"teacher": rlsd.Frozen(agent=teacher)}, seed=1).learn(16)
    with pytest.raises(ValueError, match=r"acts by TorchFamily of Beta\(2,\), the agent by Gaussian"):
        beta_agent(HOLDING | {"teacher": rlsd.Frozen(agent=teacher)}, policy="MlpPolicy")
