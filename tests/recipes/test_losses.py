"""Each recipe as its bare name configures it: what it deposits is the gradient of its published loss.

The losses are computed here from weights and raw states, with SB3's own distributions and torch's own divergences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from agents import ALL_ALGORITHMS, VECTOR, TinyEnv, build, distilled
from gymnasium import spaces
from helpers import disturb
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal, kl_divergence

import rlsd
from rlsd.teachers import cascade

KINDS = {"PPO": "discrete", "SAC": "box", "DQN": "discrete"}
#: Where one recipe has one loss for all.
everywhere = pytest.mark.parametrize("name", KINDS)
Weights = Mapping[str, Tensor]


@dataclass
class Injection:
    """One gradient that was laid down."""

    update: int
    states: Tensor
    targets: Tensor
    weights: Weights
    gradient: dict[str, Tensor]
    tau: float


@dataclass
class Seen:
    """What a training showed: the policy before each update, the strength in it, and every deposit."""

    agent: Any
    name: str
    weights: list[Weights] = field(default_factory=list)
    strengths: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    deposits: list[Injection] = field(default_factory=list)
    known: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._spare = [build(ALL_ALGORITHMS[self.name], KINDS[self.name]).policy for _ in range(8)]

    def policy(self, weights: Weights, spare: int = 1) -> Any:
        """A policy of plain SB3 with such weights."""
        policy = self._spare[spare]
        policy.load_state_dict(weights)
        policy.set_training_mode(False)
        return policy

    def of(self, update: int) -> list[Injection]:
        return [deposit for deposit in self.deposits if deposit.update == update]

    def check(self, deposit: Injection, loss: Callable[[Any], Tensor]) -> float:
        """The deposit is the gradient of a loss of the live policy; return its norm."""
        live = self.policy(deposit.weights, 0)
        named = dict(live.named_parameters())
        found = torch.autograd.grad(loss(live), list(named.values()), allow_unused=True)
        wanted = {
            name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)
        }
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in wanted.values()]))
        clip_and_sanitize = (self.agent.distiller.coefficient.strength.bound * self.stride / norm).clamp(max=1.0)
        scale = 1.0 if getattr(self.agent, "max_grad_norm", None) else clip_and_sanitize
        for name, gradient in wanted.items():
            gradient = gradient * scale
            laid = deposit.gradient.get(name, torch.zeros_like(gradient))
            torch.testing.assert_close(
                laid, gradient, rtol=2e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
        return float(norm)

    @property
    def stride(self) -> int:
        return int(self.agent.distiller.config.timing.stride)


def watch(
    recipe: Any,
    name: str = "PPO",
    updates: int = 3,
    skips: Mapping[int, int] | int = 0,
    returns: Mapping[int, Sequence[float]] | None = None,
    before: Callable[[int], None] = lambda update: None,
    total: int = 10**6,
    **changes: Any,
) -> Seen:
    """Train a tiny agent and watch it.

    :param skips: environment steps that are made believe before an update.
    :param returns: of the latest episodes before an update, made believe too.
    """
    if issubclass(ALL_ALGORITHMS[name], OffPolicyAlgorithm):
        changes = {"gradient_steps": 4} | changes
    agent = distilled(ALL_ALGORITHMS[name], KINDS[name], recipe, **changes)
    distiller, seen = agent.distiller, Seen(agent, name)
    names = {id(p): key for key, p in agent.policy.named_parameters()}
    train = agent.train

    def penalized(batch: Any, loss: Tensor, found: Any) -> None:
        gradient = {names[id(p)]: g.clone() for p, g in found}
        tau = getattr(distiller.actor.family, "tau", 1.0)
        weights = copied(agent.policy)
        seen.deposits.append(Injection(len(seen.weights) - 1, batch.states, batch.targets, weights, gradient, tau))

    def train_(*args: Any, **kwargs: Any) -> None:
        update = len(seen.weights)
        agent.num_timesteps += skips if isinstance(skips, int) else skips.get(update, 0)
        if returns is not None:
            agent.ep_info_buffer.clear()
            agent.ep_info_buffer.extend({"r": r, "l": 5} for r in returns.get(update, ()))
        before(update)
        seen.weights.append(copied(agent.policy))
        seen.known.append(observed(agent))
        train(*args, **kwargs)
        seen.strengths.append(distiller.coefficient.value)
        logged = agent.logger.name_to_value
        keys = ("train/policy_gradient_loss", "train/actor_loss", "train/loss")
        seen.losses.append(next(float(logged[key]) for key in keys if key in logged))
        if len(seen.weights) == updates:
            agent.num_timesteps = 10**9

    agent.train = train_
    distiller.on_penalty.append(penalized)
    agent.learn(total)
    assert len(seen.weights) == updates
    return seen


def copied(module: torch.nn.Module) -> Weights:
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


def observed(agent: Any) -> np.ndarray:
    """The raw states that the agent's own buffer holds, ``(n, size)``."""
    off_policy = hasattr(agent, "replay_buffer")
    held = agent.replay_buffer.observations[: agent.replay_buffer.size()] if off_policy else None
    array = np.array(agent.rollout_buffer.observations if held is None else held)
    return array.reshape(-1, array.shape[-1])


def acts(name: str, policy: Any, states: Tensor, tau: float = 1.0) -> Distribution:
    """What a policy would do, by SB3's own code."""
    if name == "DQN":
        return Categorical(logits=policy.q_net(states) / tau)
    if name == "SAC":
        mean, log_std, _ = policy.actor.get_action_dist_params(states)
        return Normal(mean, log_std.exp())
    return Categorical(logits=policy.get_distribution(states).distribution.logits)


def kl(p: Distribution, q: Distribution) -> Tensor:
    found = kl_divergence(p, q)
    return found if found.ndim == 1 else found.sum(1)


def pulled(seen: Seen, deposit: Injection, teacher: Weights, strength: float, reverse: bool = False) -> float:
    """The deposit is the gradient of ``strength * mean KL(teacher || live)``, or of the reverse."""
    with torch.no_grad():
        p = acts(seen.name, seen.policy(teacher), deposit.states, deposit.tau)

    def loss(live: Any) -> Tensor:
        q = acts(seen.name, live, deposit.states, deposit.tau)
        return strength * deposit.tau * (kl(q, p) if reverse else kl(p, q)).mean()

    return seen.check(deposit, loss)


# --- A copy teaches ---------------------------------------------------------------------------------


@everywhere
def test_snapshot_pulls_toward_a_copy_that_is_up_to_2048_steps_old(name: str) -> None:
    seen = watch("snapshot", name, updates=4, skips={0: 2000, 1: 20, 2: 2000, 3: 50})
    assert not seen.of(0), "there was no copy yet"
    assert all(len(seen.of(update)) == 1 for update in (1, 2, 3)), "at every fourth of four gradient steps"
    for update, taken in ((1, 1), (2, 1), (3, 3)):
        for deposit in seen.of(update):
            assert pulled(seen, deposit, seen.weights[taken], strength=4 * 1.0) > 1e-5


def fallen(teacher: float, latest: Sequence[float], lowest: float, highest: float) -> float:
    """How far the recipes' gate opens: from a tenth of the range behind, beyond two standard errors, over a tenth."""
    error = float(np.std(latest, ddof=1)) / len(latest) ** 0.5
    return float(np.clip(((teacher - np.mean(latest) - 2 * error) / (highest - lowest) - 0.1) / 0.1, 0, 1))


UNEVEN = [8.0] * 10 + [9.0] * 10


@pytest.mark.parametrize(
    ("recipe", "skips", "returns", "taught", "opened"),
    [
        # The copy is taken at 10,000 steps, not before.
        ("guard", {0: 9900, 1: 100}, {0: [0.0] * 20, 1: [10.0] * 20, 2: UNEVEN, 3: [10.0] * 20, 4: [5.0] * 20}, 1, 1),
        # A candidate at 2048 steps, crowned by the episodes that ended since.
        ("best", {0: 2048}, {0: [0.0] * 20, 1: [10.0] * 20, 2: UNEVEN, 3: [10.0] * 20, 4: [5.0] * 20}, 0, 1),
        # The agent as it was at first.
        ("retain", {}, {0: [10.0] * 20, 1: [0.0] * 20, 2: UNEVEN, 3: [10.0] * 20, 4: [5.0] * 20}, 0, 0),
    ],
)
def test_a_gated_recipe_pulls_as_far_as_the_return_has_fallen_behind(
    recipe: str, skips: dict[int, int], returns: dict[int, list[float]], taught: int, opened: int
) -> None:
    seen = watch(recipe, updates=5, skips=skips, returns=returns)
    part = fallen(10.0, UNEVEN, 0.0, 10.0)
    assert 0.2 < part < 0.4
    assert seen.strengths[2:] == pytest.approx([part, 0.0, 1.0])
    assert seen.strengths[opened] == 0.0, "just taken"
    assert not seen.of(3), "the gate is closed, nothing is computed"
    for update in (2, 4):
        for deposit in seen.of(update):
            assert pulled(seen, deposit, seen.weights[taught], strength=2 * seen.strengths[update]) > 1e-5
    assert len(seen.of(4)) == 2, "every second of four gradient steps"


def shares(number: int, decay: float) -> np.ndarray:
    """What each of so many policies counts for in their average: the newest, the last, counts for most."""
    powers = decay ** np.arange(number - 1, -1, -1)
    return powers / powers.sum()


def average(weights: list[Weights], decay: float) -> Weights:
    counts = shares(len(weights), decay)
    return {
        key: sum(float(share) * policy[key] for share, policy in zip(counts, weights, strict=True))
        for key in weights[0]
    }


def test_of_an_average_the_newest_policy_counts_for_most() -> None:
    assert shares(4, 0.9) == pytest.approx(np.array([0.729, 0.81, 0.9, 1.0]) / 3.439)


@everywhere
def test_ema_pulls_toward_the_debiased_average_of_the_policies(name: str) -> None:
    seen = watch("ema", name, updates=4)
    for update in range(1, 4):
        for deposit in seen.of(update):
            assert pulled(seen, deposit, average(seen.weights[: update + 1], 0.9), strength=4 * 1.0) > 1e-5


@everywhere
def test_ensemble_pulls_toward_the_mean_of_the_last_five(name: str) -> None:
    seen = watch("ensemble", name, updates=7, skips=2048)
    (last,) = seen.of(6)
    with torch.no_grad():
        members = [acts(name, seen.policy(w), last.states, last.tau) for w in seen.weights[2:]]

    def loss(live: Any) -> Tensor:
        q = acts(name, live, last.states, last.tau)
        if name == "PPO":  # the mean of the members' probabilities
            mean = Categorical(probs=torch.stack([p.probs for p in members]).mean(0))
            return 4 * 0.3 * kl(mean, q).mean()
        if name == "DQN":  # the mean of their values
            mean = Categorical(logits=torch.stack([p.logits for p in members]).mean(0))
            return 4 * 0.3 * last.tau * kl(mean, q).mean()
        # A mixture of normals has no closed form; its KL has the gradient of the mean of the members'.
        return 4 * 0.3 * torch.stack([kl(p, q) for p in members]).mean()

    assert seen.check(last, loss) > 1e-5


# --- The strength follows ---------------------------------------------------------------------------


@everywhere
def test_churn_weighs_the_divergence_from_the_old_policy_as_a_tenth_of_the_policy_loss(name: str) -> None:
    seen = watch("churn", name, updates=4, skips=64)
    strength, sizes = 1.0, []
    for update in range(4):
        assert seen.strengths[update] == pytest.approx(strength, rel=1e-3)
        found = []
        for deposit in seen.of(update):
            pulled(seen, deposit, seen.weights[update], strength)
            with torch.no_grad():
                p, q = (
                    acts(name, seen.policy(w), deposit.states, deposit.tau)
                    for w in (seen.weights[update], deposit.weights)
                )
                found.append(float(deposit.tau * kl(p, q).mean()))
        assert len(found) == 4, "at each gradient step"
        sizes.append((abs(seen.losses[update]), np.mean(found)))
        own, penalty = np.sum(sizes, axis=0)
        strength = float(np.clip(0.1 * own / penalty, 0.001, 10.0))


@pytest.mark.parametrize(("name", "rate"), [("PPO", 0.001), ("PPO", 0.1), ("SAC", 0.001), ("DQN", 0.001)])
def test_mirror_holds_the_updates_own_states_to_the_policy_before_it_as_hard_as_the_target_asks(
    name: str, rate: float
) -> None:
    seen = watch("mirror", name, updates=4, skips=64, learning_rate=rate)
    strength = 1.0
    for update in range(4):
        assert seen.strengths[update] == pytest.approx(strength)
        found = []
        for deposit in seen.of(update):
            own = {row.tobytes() for row in seen.known[update]}
            assert len(deposit.states) == seen.agent.batch_size
            assert {row.tobytes() for row in deposit.states.numpy()} <= own, "states of another rollout"
            pulled(seen, deposit, seen.weights[update], strength, reverse=True)
            with torch.no_grad():
                p, q = (
                    acts(name, seen.policy(w), deposit.states, deposit.tau)
                    for w in (seen.weights[update], deposit.weights)
                )
                found.append(float(deposit.tau * kl(q, p).mean()))
        if np.mean(found) > 0.01 * 1.5:
            strength = min(2 * strength, 10.0)
        elif np.mean(found) < 0.01 / 1.5:
            strength = max(strength / 2, 0.01)
    assert (strength > 1.0) == (rate == 0.1), "it went the other way"


@everywhere
def test_kickstart_pulls_toward_the_other_agent_less_and_less(name: str) -> None:
    master = build(ALL_ALGORITHMS[name], KINDS[name], seed=8)
    answers = rlsd.recipe("kickstart", teacher=master)
    # After each rollout of 16 steps; off-policy after each 8, from the 24th step on.
    steps = range(16, 129, 16) if name == "PPO" else range(24, 129, 8)
    seen = watch(answers, name, updates=len(steps), total=128)
    assert seen.strengths == pytest.approx([1 - step / 128 for step in steps])
    for deposit in seen.deposits[::5]:
        assert pulled(seen, deposit, copied(master.policy), seen.strengths[deposit.update]) > 1e-5


# --- State by state ---------------------------------------------------------------------------------


@everywhere
def test_rehearse_holds_each_state_to_the_policy_of_its_time(name: str) -> None:
    more = {} if name == "PPO" else {"buffer_size": 4096}
    seen = watch("rehearse", name, updates=4, **more)
    first: dict[bytes, int] = {}
    for update, states in enumerate(seen.known):
        for row in states:
            first.setdefault(row.tobytes(), update)
    assert [type(part).__name__ for part in seen.agent.distiller.states.parts] == ["RecentStore", "ReservoirStore"]
    assert [part.batch_size for part in seen.agent.distiller.states.parts] == [64, 64]
    assert len(seen.of(2)) == len(seen.of(3)) == 4, "at each gradient step"
    for deposit in seen.of(2) + seen.of(3):
        times = torch.tensor([first[row.tobytes()] for row in deposit.states.numpy()])
        assert len(set(times.tolist())) > 1

        def loss(live: Any, deposit: Injection = deposit, times: Tensor = times) -> Tensor:
            q, parts = acts(name, live, deposit.states, deposit.tau), []
            for update in range(deposit.update + 1):
                policy = seen.policy(seen.weights[update])
                with torch.no_grad():
                    p = acts(name, policy, deposit.states, deposit.tau)
                    values = policy.predict_values(deposit.states) if name == "PPO" else None
                found = 0.01 * deposit.tau * kl(p, q)
                if values is not None:
                    found = found + 0.005 * (values - live.predict_values(deposit.states)).square().squeeze(1)
                parts.append(found)
            return torch.stack(parts).gather(0, times[None]).mean()

        assert seen.check(deposit, loss) > 1e-6


class Moving(TinyEnv):
    """An environment that can be elsewhere."""

    offset = 0.0

    def _observe(self) -> Any:
        return super()._observe() + np.float32(self.offset)


def test_selective_holds_states_that_are_met_no_more_to_what_was_done_there() -> None:
    envs = [Moving(VECTOR, spaces.Discrete(3)) for _ in range(8)]

    def before(update: int) -> None:
        for env in envs:
            env.offset = 0.0 if update < 2 else 8.0

    env = DummyVecEnv([lambda env=env: Monitor(env) for env in envs])
    seen = watch("selective", updates=9, before=before, env=env, n_steps=128, batch_size=256, n_epochs=4)
    teacher, answers = seen.agent.distiller.teacher, seen.agent.distiller.config
    threshold, visited, strength = answers.teacher.threshold, answers.teacher.visited, answers.strength.value
    # 8 environments times 128 steps from one policy to the next.
    decay = np.exp(-8 * 128 / answers.teacher.average)
    taught_by = [average(seen.weights[: update + 1], decay) for update in range(9)]
    late = [deposit for deposit in seen.deposits if deposit.update == 8]
    assert late
    shapes = {"w1": (32, 3), "b1": (32,), "w2": (32, 32), "b2": (32,), "w3": (1, 32), "b3": (1,)}
    parts = teacher.discriminator.weights.detach().split([int(np.prod(shape)) for shape in shapes.values()])
    classifier = {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
    for deposit in late:
        x = ((deposit.states - teacher.discriminator.mean) / teacher.discriminator.std).clamp(-10, 10)
        with torch.no_grad():
            for i in (1, 2):
                x = torch.relu(x @ classifier[f"w{i}"].T + classifier[f"b{i}"])
            now = torch.sigmoid(x @ classifier["w3"].T + classifier["b3"]).squeeze(1)
        far = (1 - now / threshold).clamp(min=0.0)
        certain = 1 - Categorical(logits=deposit.targets).entropy() / np.log(3)
        hold = (visited + (1 - visited) * far) * certain
        with torch.no_grad():
            answers = torch.stack([acts("PPO", seen.policy(w), deposit.states).logits for w in taught_by])
        gaps, versions = (answers - deposit.targets).abs().amax(-1).min(0)
        assert gaps.max() < 1e-5, "a target that no policy of this training has given"
        assert (versions[far == 0] == 8).all(), "a free state has an old target"
        assert (versions[far > 0.5] < 8).all(), "a held state has a new target"
        assert 0.05 < (far > 0).float().mean() < 0.95
        taught = Categorical(logits=answers[versions, torch.arange(len(versions))])

        def loss(live: Any, deposit: Injection = deposit, hold: Tensor = hold, taught: Any = taught) -> Tensor:
            return seen.stride * strength * (hold * kl(taught, acts("PPO", live, deposit.states))).mean()

        assert seen.check(deposit, loss) > 1e-5


# --- Chains, phases, rebirths -----------------------------------------------------------------------


def test_cascade_pulls_toward_the_policy_before_the_update_and_the_second_of_the_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[tuple[int, Tensor, Tensor]] = []
    original = cascade.hidden_target

    @torch.enable_grad()
    def hidden_target(family: Any, k: int, own: Tensor, faster: Tensor, slower: Any, answer: Any) -> Any:
        weight, target = original(family, k, own, faster, slower, answer)
        student = torch.randn(own.shape, generator=torch.Generator().manual_seed(k)).requires_grad_()
        pi, old, above, below = (Categorical(logits=x) for x in (student, own, faster, slower))
        published = 0.5 * 4.0 ** (k - 1) * kl(pi, old) + 4.0 * kl(pi, above) + kl(pi, below)
        found = weight * kl(pi, Categorical(logits=target))
        slopes = [torch.autograd.grad(loss.mean(), student, retain_graph=True)[0] for loss in (published, found)]
        turns.append((k, *slopes))
        return weight, target

    monkeypatch.setattr(cascade, "hidden_target", hidden_target)
    seen = watch("cascade", updates=5)
    assert seen.agent.distiller.teacher.answer.n == 8
    assert {k for k, _, _ in turns} == {2, 3}, "the third has its turn at every fourth update"
    for _, published, found in turns:
        torch.testing.assert_close(found, published, rtol=1e-3, atol=1e-5)
    chain = copied(seen.agent.distiller.teacher.hidden[0].frozen.policy)
    for deposit in seen.of(4):
        with torch.no_grad():
            old, slow = (acts("PPO", seen.policy(w), deposit.states) for w in (seen.weights[4], chain))

        def loss(live: Any, deposit: Injection = deposit, old: Any = old, slow: Any = slow) -> Tensor:
            pi = acts("PPO", live, deposit.states)
            return (0.5 * kl(pi, old) + 1.0 * kl(pi, slow)).mean()

        assert seen.check(deposit, loss) > 1e-6


def test_phasic_trains_the_joint_loss_on_the_states_of_32_rollouts() -> None:
    agent = distilled(ALL_ALGORITHMS["PPO"], "discrete", "phasic", max_grad_norm=1e9)
    lesson, policy = agent.distiller.auxiliary, agent.policy
    assert lesson.optimizer.param_groups[0]["lr"] == 5e-4
    scratch, before = build(ALL_ALGORITHMS["PPO"]).policy, build(ALL_ALGORITHMS["PPO"]).policy
    scratch.set_training_mode(False)
    rollouts: list[tuple[np.ndarray, np.ndarray]] = []
    drawn: list[Any] = []
    steps: list[tuple[int, float]] = []
    train, states_of, returns_of, step = (
        agent.train,
        lesson.rollouts.states,
        lesson.rollouts.returns,
        lesson.optimizer.step,
    )

    def train_(*args: Any, **kwargs: Any) -> None:
        buffer = agent.rollout_buffer
        rollouts.append((observed(agent), np.array(buffer.returns).reshape(-1)))
        train(*args, **kwargs)

    def states(index: Any) -> Any:
        if not steps:
            before.load_state_dict(copied(policy))  # the targets are those of before the first step
        drawn.append(states_of(index))
        return drawn[-1]

    def step_() -> None:
        x, targets = drawn[-2:]
        scratch.load_state_dict(copied(policy))
        features = scratch.mlp_extractor.forward_actor(scratch.extract_features(x))
        aux, values = lesson.head(features).flatten(), scratch.predict_values(x).flatten()
        with torch.no_grad():
            old = acts("PPO", before, x)
        held = kl(old, acts("PPO", scratch, x)).mean()
        loss = 0.5 * (aux - targets).square().mean() + held + 0.5 * (values - targets).square().mean()
        wanted = torch.autograd.grad(loss, list(scratch.parameters()))
        for parameter, gradient in zip(policy.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
        steps.append((len(x), float(held.detach())))
        step()
        if len(steps) == 1:
            disturb(policy, 0.3)  # so far away that there is something to be held to

    def returns(index: Any) -> Any:
        drawn.append(returns_of(index))
        return drawn[-1]

    agent.train, lesson.rollouts.states, lesson.rollouts.returns, lesson.optimizer.step = train_, states, returns, step_
    agent.learn(31 * 16)
    assert not steps, "a phase too early"
    agent.learn(16, reset_num_timesteps=False)
    assert [n for n, _ in steps] == [256, 256] * 6, "six passes over 32 rollouts of 16 states"
    assert max(held for _, held in steps) > 0.01
    drawn = drawn[-24:]  # behind those that the targets were asked for: six passes of two minibatches with returns
    shown = torch.cat(drawn[0:4:2]).numpy()
    all_states, all_returns = (np.concatenate(some) for some in zip(*rollouts, strict=True))
    assert {row.tobytes() for row in shown} == {row.tobytes() for row in all_states}
    assert torch.cat(drawn[1:5:2]).sort()[0].numpy() == pytest.approx(np.sort(all_returns), abs=1e-6)
    assert agent.distiller.deposits == 0, "the agent's own steps carry no penalty"


@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_reborn_teaches_what_the_agent_does_and_half_the_squared_error_of_its_values(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = distilled(ALL_ALGORITHMS[name], KINDS[name], "reborn")
    found: list[tuple[int, int, Tensor, Tensor]] = []

    def imitate(student: Any, comparison: Any, store: Any, steps: int, rate: float, size: int, generator: Any) -> None:
        states = comparison.batch(store, size)
        parts = comparison.parts(student, states)
        tau = comparison.family.tau if name == "DQN" else 1.0
        p, q = (acts(name, policy, states, tau) for policy in (agent.policy, student))
        value = (
            (lambda policy: policy.predict_values(states)) if name == "PPO" else (lambda policy: policy.q_net(states))
        )
        wanted = tau * kl(p, q).mean() + 0.5 * (value(agent.policy) - value(student)).square().mean()
        found.append((steps, size, sum(parts).detach(), wanted.detach()))

    monkeypatch.setattr("rlsd.students.rebirth.imitate", imitate)
    agent.learn(64)
    agent.num_timesteps += 49_800
    agent.learn(32, reset_num_timesteps=False)
    assert not found, "a rebirth before 50,000 steps"
    agent.num_timesteps += 200
    agent.learn(32, reset_num_timesteps=False)
    assert found
    for steps, size, loss, wanted in found:
        assert (steps, size) == (4000, 256)
        torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-6)
    assert agent.distiller.deposits == 0
