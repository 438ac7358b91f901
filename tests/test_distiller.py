"""What distillation does to an agent's update, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from agents import (
    ACTION_KINDS,
    ALGORITHMS,
    KINDS,
    N_ENVS,
    ROLLOUT,
    TinyEnv,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    generators,
    logged,
    patches,
    stored,
    training_state,
)
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn import functional as F

import rlsd
from rlsd.observations import Beside

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())
every_kind = pytest.mark.parametrize("kind", KINDS)


class Moments(BaseCallback):
    """Calls functions at the end of each rollout, just before the update, and at each step."""

    def __init__(self, at_end: Callable[[], None], at_step: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.at_end, self.at_step = at_end, at_step

    def _on_step(self) -> bool:
        self.at_step()
        return True

    def _on_rollout_end(self) -> None:
        self.at_end()


# --- 1. Off means off -----------------------------------------------------------------------------


@every_algorithm
@every_kind
def test_without_a_pull_training_is_plain_sb3_bit_for_bit(algorithm: type[BaseAlgorithm], kind: str) -> None:
    steps = 3 * ROLLOUT
    plain = build(algorithm, kind).learn(steps, log_interval=1)
    expected = copied(training_state(plain))
    off = {
        "distill=None": None,
        "strength 0": config(strength=0.0, teacher=rlsd.Snapshot(every=1)),
        "no snapshot yet": config(teacher=rlsd.Snapshot(every=10**6)),
    }
    for name, answers in off.items():
        agent = build(rlsd.SelfDistilled(algorithm), kind, distill=answers).learn(steps, log_interval=1)
        assert not differences(expected, training_state(agent)), name
        assert not differences(logged(plain), logged(agent)), name


@every_algorithm
def test_strength_0_logs_nothing_of_its_own(algorithm: type[BaseAlgorithm]) -> None:
    agent = distilled(algorithm, distill=config(strength=0)).learn(2 * ROLLOUT, log_interval=1)
    assert agent.distiller.figures == {}
    assert not any("distill" in key for dump in agent.logger.output_formats[0].dumps for key in dump)


# --- 2. No trace ----------------------------------------------------------------------------------


def traces(agent: Any) -> dict[str, Any]:
    """All that a deposit could disturb."""
    buffer = {key: value for key, value in vars(agent.rollout_buffer).items() if isinstance(value, (np.ndarray, dict))}
    return {
        "generators": generators(),
        "training": {name: module.training for name, module in agent.policy.named_modules()},
        "parameters and buffers": dict(agent.policy.state_dict()),
        "action_dist": id(agent.policy.action_dist),
        "its attributes": {name: id(value) for name, value in vars(agent.policy.action_dist).items()},
        "rollout_buffer": buffer,
        "optimizer": agent.policy.optimizer.state_dict(),
    }


@every_algorithm
@every_kind
def test_a_deposit_leaves_no_trace_but_the_gradient(algorithm: type[BaseAlgorithm], kind: str) -> None:
    class OnlyClears(algorithm):  # type: ignore[misc, valid-type]
        """Does the one thing in its updates that brings a deposit about."""

        def train(self) -> None:
            self.policy.optimizer.zero_grad()
            updates.append((copied(traces(self)), [p.grad for p in self.policy.parameters() if p.grad is not None]))

    def before_the_update() -> None:
        # As CrossQ does: training mode in one part, evaluation mode in another.
        agent.policy.set_training_mode(True)
        agent.policy.mlp_extractor.train(False)
        rollouts.append(copied(traces(agent)))

    updates: list[tuple[dict[str, Any], list[Tensor]]] = []
    rollouts: list[dict[str, Any]] = []
    agent = distilled(OnlyClears, kind, distill=config(teacher=rlsd.Snapshot(every=1)))
    agent.learn(2 * ROLLOUT, callback=Moments(before_the_update))
    assert len(updates) == len(rollouts) == 2
    for before, (after, gradients) in zip(rollouts, updates, strict=True):
        assert not differences(before, after)
        assert gradients, "nothing was deposited, so nothing was shown"


# --- 3. The gradient is that of the sum -----------------------------------------------------------


def own_loss(agent: Any, batch: Any) -> Tensor:
    """The agent's own loss, written out anew."""
    actions = batch.actions.long().flatten() if isinstance(agent.action_space, spaces.Discrete) else batch.actions
    values, log_prob, entropy = agent.policy.evaluate_actions(batch.observations, actions)
    advantages = batch.advantages
    if agent.normalize_advantage:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    if isinstance(agent, PPO):
        ratio = torch.exp(log_prob - batch.old_log_prob)
        policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
    else:
        policy_loss = -(advantages * log_prob).mean()
    surprise = log_prob if entropy is None else -entropy
    value_loss = F.mse_loss(batch.returns, values.flatten())
    return policy_loss + agent.ent_coef * surprise.mean() + agent.vf_coef * value_loss


def torch_kl(p: Any, q: Any, temperature: float) -> Tensor:
    """KL between two SB3 distributions by torch's own formulas, per state, summed over the action's components."""
    total = torch.zeros(())
    many = isinstance(p.distribution, (list, tuple))
    for a, b in zip(p.distribution, q.distribution, strict=True) if many else [(p.distribution, q.distribution)]:
        if isinstance(a, torch.distributions.Normal):
            wide = temperature**0.5
            a, b = (torch.distributions.Normal(d.mean, d.stddev * wide) for d in (a, b))
        else:
            a, b = (type(d)(logits=d.logits / temperature) for d in (a, b))
        divergence = kl_divergence(a, b)
        total = total + (divergence.sum(-1) if divergence.ndim == 2 else divergence)
    return total * temperature**2


@contextmanager
def replayed_pass(policy: Any, generator: Tensor) -> Iterator[None]:
    """Let a forward pass draw what it drew then, and leave nothing behind."""
    buffers = {name: tensor.clone() for name, tensor in policy.named_buffers()}
    dist, now = policy.action_dist, torch.get_rng_state()
    policy.action_dist = copy.copy(dist)
    torch.set_rng_state(generator)
    try:
        yield
    finally:
        torch.set_rng_state(now)
        policy.action_dist = dist
        for name, tensor in policy.named_buffers():
            tensor.data.copy_(buffers[name])


class Witness:
    """Computes at each gradient step, when SB3 is about to clip, what the gradient must be, by autograd of the sum."""

    def __init__(self, agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.agent = agent
        self.errors: list[float] = []
        self.kl_norms: list[float] = []
        self.ratios: list[float] = []
        self.critic_errors: list[float] = []
        self._batch: Any = None
        self._generator = torch.get_rng_state()
        self._statistics: Any = None
        self._drawn: Any = None
        self._steps = 0
        self._clip = torch.nn.utils.clip_grad_norm_
        policy, distiller = agent.policy, agent.distiller
        evaluate, get = policy.evaluate_actions, agent.rollout_buffer.get
        take = distiller.teacher.take

        def evaluate_actions(*args: Any) -> Any:
            self._generator = torch.get_rng_state()
            return evaluate(*args)

        def batches(batch_size: int | None = None) -> Iterator[Any]:
            for self._batch in get(batch_size):
                yield self._batch

        def penalized(batch: Any, loss: Any, gradient: Any) -> None:
            self._drawn = batch.states

        def snapshot(model: Any) -> None:
            self._statistics = copy.deepcopy(model.get_vec_normalize_env())
            take(model)

        # The acting code is SB3's; only what goes in and out of it is watched.
        monkeypatch.setattr(policy, "evaluate_actions", evaluate_actions)
        monkeypatch.setattr(agent.rollout_buffer, "get", batches)
        distiller.on_penalty.append(penalized)
        monkeypatch.setattr(distiller.teacher, "take", snapshot)
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", self.about_to_clip)

    def about_to_clip(self, parameters: Any, max_norm: float) -> Tensor:
        parameters = list(parameters)
        names = [name for name, _ in self.agent.policy.named_parameters()]
        with replayed_pass(self.agent.policy, self._generator):
            own = self.gradients(own_loss(self.agent, self._batch), parameters)
        pull = [torch.zeros_like(p) for p in parameters]
        if self._drawn is not None:
            with replayed_pass(self.agent.policy, self._generator):
                pull = self.gradients(self.penalty(), parameters)
        self._steps += 1
        for name, p, a, b in zip(names, parameters, own, pull, strict=True):
            found = torch.zeros_like(p) if p.grad is None else p.grad
            self.errors.append(float((found - (a + b)).abs().max()))
            if "value_net" in name or "vf_" in name:
                self.critic_errors.append(float((found - a).abs().max()))
        pulled = [(a, b) for a, b in zip(own, pull, strict=True) if b.abs().max() > 0]
        self.kl_norms.append(norm(pull))
        if pulled:
            weight = self.agent.distiller.config.timing.stride
            self.ratios.append(norm([b for _, b in pulled]) / weight / norm([a for a, _ in pulled]))
        self._drawn = None
        return self._clip(parameters, max_norm)

    def penalty(self) -> Tensor:
        """beta * stride * KL of teacher and student on the states drawn, both in evaluation mode."""
        policy, d = self.agent.policy, self.agent.distiller
        training = policy.training
        policy.train(False)
        teacher = d.teacher.policy.get_distribution(self.seen(self._statistics))
        student = policy.get_distribution(self.seen(self.agent.get_vec_normalize_env()))
        policy.train(training)
        pair = (teacher, student) if d.config.divergence.direction == "forward" else (student, teacher)
        return d.coefficient.value * d.config.timing.stride * torch_kl(*pair, d.config.divergence.temperature).mean()

    def seen(self, normalize: VecNormalize | None) -> Any:
        """The raw states drawn, as VecNormalize itself shows them."""
        if normalize is None:
            return self._drawn
        if isinstance(self._drawn, dict):
            raw = {key: value.numpy() for key, value in self._drawn.items()}
            return {key: torch.as_tensor(value) for key, value in normalize.normalize_obs(raw).items()}
        return torch.as_tensor(normalize.normalize_obs(self._drawn.numpy()))

    @staticmethod
    def gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors]).norm())


@every_algorithm
@every_kind
@pytest.mark.parametrize(
    "answers",
    [
        config(),
        # Weaker, since temperature and stride multiply the pull by 8: 1e-6 is to stay well above rounding.
        config(strength=0.1, divergence=rlsd.KL("reverse", temperature=2.0), timing=rlsd.EveryStep(stride=2)),
    ],
    ids=["forward", "reverse tempered strided"],
)
def test_the_gradient_before_the_clip_is_that_of_the_sum(
    algorithm: type[BaseAlgorithm], kind: str, answers: rlsd.DistillConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = distilled(algorithm, kind, distill=answers)
    witness = Witness(agent, monkeypatch)
    agent.learn(6 * ROLLOUT)
    assert max(witness.errors) <= 1e-6
    assert max(witness.kl_norms) > 1e-4, "the pull was never felt, so nothing was shown"


@every_algorithm
@pytest.mark.parametrize("kind", ACTION_KINDS)
def test_the_critics_gradients_are_the_agents_own(
    algorithm: type[BaseAlgorithm], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = distilled(algorithm, kind)
    witness = Witness(agent, monkeypatch)
    agent.learn(4 * ROLLOUT)
    assert witness.critic_errors and max(witness.critic_errors) == 0.0


@every_algorithm
@pytest.mark.parametrize("stride", [1, 2])
def test_grad_ratio_is_the_ratio_of_the_two_norms(
    algorithm: type[BaseAlgorithm], stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = distilled(algorithm, distill=config(timing=rlsd.EveryStep(stride=stride)))
    witness = Witness(agent, monkeypatch)
    reported = []
    for _ in range(6):
        before = len(witness.ratios)
        agent.learn(ROLLOUT, log_interval=1, reset_num_timesteps=False)  # the figures begin anew with each line
        ratio = agent.distiller.present_figures().get("distill/grad_ratio")
        if ratio is not None and ratio > 1e-4:
            reported.append(min(abs(ratio - r) / r for r in witness.ratios[before:]))
    assert reported, "no ratio was reported"
    assert max(reported) < 1e-3


# --- 4. and 5. The teacher ------------------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("regularized", "separate_extractors")])
def test_a_fresh_snapshot_does_not_pull(
    algorithm: type[BaseAlgorithm], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One gradient step an update, a snapshot before each: teacher and student are always the same.
    # With batch norm they are not: the forward pass of the agent's own loss moves the student's statistics first.
    one_step = {"n_epochs": 1, "batch_size": ROLLOUT} if algorithm is PPO else {}
    agent = distilled(algorithm, kind, distill=config(teacher=rlsd.Snapshot(every=1)), **one_step)
    witness = Witness(agent, monkeypatch)
    for update in range(1, 4):
        agent.learn(ROLLOUT, reset_num_timesteps=False)
        assert agent.distiller.deposits == update
        assert abs(agent.distiller.present_figures()["distill/kl"]) <= 1e-6
        assert agent.distiller.present_figures()["distill/agreement"] == 1.0
    assert max(witness.kl_norms) <= 1e-6


@every_algorithm
@every_kind
def test_the_teacher_is_frozen_and_apart(algorithm: type[BaseAlgorithm], kind: str) -> None:
    agent = distilled(algorithm, kind)
    teacher = agent.distiller.teacher
    versions = []
    known: dict[str, Tensor] = {}
    for _ in range(5):
        agent.learn(ROLLOUT, reset_num_timesteps=False)
        if versions and teacher.version == versions[-1]:
            assert not differences(known, teacher.tensors()), "the teacher changed between two snapshots"
        versions.append(teacher.version)
        known = copied(teacher.tensors())
    assert versions == [0, 1, 1, 2, 2]
    everything = [*teacher.policy.parameters(), *teacher.policy.buffers()]
    live = [*agent.policy.parameters(), *agent.policy.buffers()]
    assert not any(tensor.requires_grad for tensor in everything)
    assert not {t.untyped_storage().data_ptr() for t in everything} & {t.untyped_storage().data_ptr() for t in live}
    optimized = {id(p) for group in agent.policy.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(tensor) for tensor in everything}
    assert not any(module.training for module in teacher.policy.modules())
    assert getattr(teacher.policy, "optimizer", None) is None, "the teacher carries a copy of the optimizer"


@every_kind
def test_a_snapshot_acts_as_the_policy_did(kind: str) -> None:
    agent = distilled(PPO, kind, distill=config(teacher=rlsd.Snapshot(every=1))).learn(ROLLOUT)
    agent.distiller.teacher.take(agent)
    index = torch.arange(agent.distiller.states.count)
    raw = stored(agent, index)
    normalize = agent.get_vec_normalize_env()
    seen = raw
    if normalize is not None:
        arrays = {key: value.numpy() for key, value in raw.items()} if isinstance(raw, dict) else raw.numpy()
        shown = normalize.normalize_obs(arrays)
        seen = {k: torch.as_tensor(v) for k, v in shown.items()} if isinstance(raw, dict) else torch.as_tensor(shown)
    agent.policy.set_training_mode(False)
    with torch.no_grad():
        expected = agent.policy.get_distribution(seen).mode()
        family = agent.distiller.actor.family
        kl = family.kl(agent.distiller.teacher.targets(raw), agent.distiller.actor.parameters(agent.policy, seen))
        np.testing.assert_allclose(agent.distiller.teacher.policy.get_distribution(seen).mode(), expected, atol=1e-6)
    assert kl.abs().max() < 1e-6


def test_training_anew_keeps_the_interval_between_snapshots() -> None:
    """``learn`` counts from 0 again; the teacher must neither grow older than asked for nor younger than now."""
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=5 * ROLLOUT)))
    agent.learn(6 * ROLLOUT)
    assert agent.distiller.teacher.version == 1
    ages, versions = [], []
    for update in range(8):
        agent.learn(ROLLOUT, reset_num_timesteps=update == 0)
        ages.append(agent.distiller.present_figures()["distill/teacher_age"])
        versions.append(agent.distiller.teacher.version)
    assert min(ages) >= 0, ages
    assert max(ages) <= 6 * ROLLOUT, ages
    assert versions[5] == 2, versions


def test_training_anew_for_one_rollout_at_a_time_still_refreshes_the_teacher() -> None:
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=1)))
    for number in range(1, 4):
        agent.learn(ROLLOUT)
        assert agent.distiller.teacher.version == number


# --- 7. Every deposit arrives ---------------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("stride", [1, 4])
def test_deposits_are_the_actors_steps_divided_by_the_stride(algorithm: type[BaseAlgorithm], stride: int) -> None:
    answers = config(timing=rlsd.EveryStep(stride=stride), teacher=rlsd.Snapshot(every=1))
    agent = distilled(algorithm, distill=answers)
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    handle = agent.policy.optimizer.register_step_post_hook(count)
    agent.learn(6 * ROLLOUT)
    handle.remove()
    assert steps == (24 if algorithm is PPO else 6), "PPO: two epochs of two minibatches each update"
    assert agent.distiller.steps == steps
    assert agent.distiller.deposits == steps // stride


def test_an_update_cut_short_by_target_kl_deposits_as_often_as_it_steps() -> None:
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=1)), target_kl=1e-5, n_epochs=5)
    agent.learn(6 * ROLLOUT)
    assert 6 <= agent.distiller.deposits < 6 * 10
    assert agent.distiller.deposits == agent.policy.optimizer.state_dict()["state"][0]["step"]


def test_an_algorithm_that_throws_deposits_away_is_an_error() -> None:
    class Clears(PPO):
        def _update_learning_rate(self, optimizers: Any) -> None:
            super()._update_learning_rate(optimizers)
            if not optimizers._optimizer_step_pre_hooks:
                return
            deposit = optimizers.zero_grad

            def clear_again(set_to_none: bool = True) -> None:
                deposit(set_to_none=set_to_none)
                self.policy.zero_grad()

            optimizers.__dict__["zero_grad"] = clear_again

    agent = distilled(Clears, distill=config(teacher=rlsd.Snapshot(every=1)))
    before = copied(agent.policy.state_dict())
    with pytest.raises(RuntimeError, match="distillation gradient was lost"):
        agent.learn(ROLLOUT)
    assert not differences(before, agent.policy.state_dict()), "a step was made without the pull"
    assert patches(agent) == []


# --- 11. Nothing that is not finite ---------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("kind", ACTION_KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_target_that_is_not_finite_reaches_no_parameter(
    algorithm: type[BaseAlgorithm], kind: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = distilled(algorithm, kind, distill=config(teacher=rlsd.Snapshot(every=1)))
    targets = agent.distiller.teacher.targets
    monkeypatch.setattr(agent.distiller.teacher, "targets", lambda states: torch.full_like(targets(states), value))
    agent.learn(2 * ROLLOUT)
    assert all(torch.isfinite(p).all() for p in agent.policy.parameters())
    assert agent.distiller.deposits > 0
    if math.isinf(value):
        return  # of some families, a teacher beyond doubt; its gradient is finite
    assert agent.distiller.present_figures()["distill/skipped_nonfinite"] == agent.distiller.deposits

    # What was skipped was the pull alone: the agent's own steps were made.
    plain = build(algorithm, kind).learn(2 * ROLLOUT)
    for one, other in zip(plain.policy.parameters(), agent.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_is_not_stored(value: float) -> None:
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=1)))

    def spoil() -> None:
        agent.rollout_buffer.observations[3, 1, 2] = value
        clean.append(agent.rollout_buffer.observations[0].copy())

    clean: list[np.ndarray] = []
    with pytest.raises(ValueError, match="distribution"):
        # SB3 itself refuses the spoiled observation, once it comes to its own loss.
        agent.learn(ROLLOUT, callback=Moments(spoil))
    assert agent.distiller.states.rejected == 1
    assert agent.distiller.states.count == ROLLOUT - 1
    assert torch.isfinite(agent.distiller.states.tensors()["@observation"]).all()
    assert patches(agent) == []


def test_the_counter_of_what_was_skipped_counts_states_too() -> None:
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=1)))
    agent.distiller.states.add({Beside("@observation"): np.full((5, 3), math.nan, np.float32)})
    agent.learn(ROLLOUT)
    assert agent.distiller.present_figures()["distill/skipped_nonfinite"] == 5


# --- 12. Raw states -------------------------------------------------------------------------------


class Counting(TinyEnv):
    """Its observations say which environment they came from and how many there were before."""

    def __init__(self, number: int) -> None:
        super().__init__(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(2))
        self.number, self.count = number, 0

    def _observe(self) -> Any:
        self.count += 1
        return np.array([self.number, self.count, self._steps], dtype=np.float32)


def counting_env() -> DummyVecEnv:
    return DummyVecEnv([lambda i=i: Monitor(Counting(i)) for i in range(N_ENVS)])  # type: ignore[misc]


@every_algorithm
@pytest.mark.parametrize("normalized", [True, False])
def test_the_states_stored_are_the_raw_ones_acted_on_in_order(algorithm: type[BaseAlgorithm], normalized: bool) -> None:
    env: Any = VecNormalize(counting_env()) if normalized else counting_env()
    agent = distilled(algorithm, env=env)
    seen: list[np.ndarray] = []

    def note_next() -> None:
        # What the environment gave last is what the coming action is taken on.
        seen.append(np.array(env.get_original_obs() if normalized else agent.env.buf_obs[None]))

    class Note(BaseCallback):
        def _on_rollout_start(self) -> None:
            note_next()

        def _on_step(self) -> bool:
            note_next()
            return True

        def _on_rollout_end(self) -> None:
            seen.pop()  # acted on in the coming rollout, where it is noted again

    agent.learn(3 * ROLLOUT, callback=Note())
    stored = agent.distiller.states.tensors()["@observation"].numpy()
    np.testing.assert_array_equal(stored, np.concatenate(seen))
    assert len(stored) == 3 * ROLLOUT


@every_algorithm
@pytest.mark.parametrize("kind", ["normalized", "normalized_dict"])
def test_a_teachers_answer_stays_while_the_statistics_move(algorithm: type[BaseAlgorithm], kind: str) -> None:
    agent = distilled(algorithm, kind, distill=config(teacher=rlsd.Snapshot(every=3 * ROLLOUT)))
    agent.learn(3 * ROLLOUT)
    states = stored(agent, torch.arange(5))
    before = copied({"answers": agent.distiller.teacher.targets(states), "states": states})
    statistics = copied(training_state(agent)["statistics"])
    agent.learn(2 * ROLLOUT, reset_num_timesteps=False)
    after = {"answers": agent.distiller.teacher.targets(states), "states": states}
    assert differences(statistics, training_state(agent)["statistics"]), "the statistics did not move"
    assert not differences(before, after)


def test_frames_are_kept_on_whichever_side_of_the_statistics_they_are_stacked() -> None:
    for env in (VecFrameStack(VecNormalize(counting_env()), 2), VecNormalize(VecFrameStack(counting_env(), 2))):
        assert distilled(env=env).learn(ROLLOUT).distiller.states.count == ROLLOUT


def test_without_normalised_observations_nothing_is_recorded_apart() -> None:
    env = VecNormalize(counting_env(), norm_obs=False)
    agent = distilled(env=env).learn(3 * ROLLOUT)
    assert agent.distiller.states.count == 3 * ROLLOUT
    assert agent.distiller.teacher.normalization is None


# --- What it is for, and what it shows ------------------------------------------------------------


@every_algorithm
@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_the_harder_the_pull_the_nearer_to_a_fixed_teacher(algorithm: type[BaseAlgorithm], kind: str) -> None:
    gaps = []
    for beta in (0.0, 1.0, 30.0):
        answers = config(strength=beta, teacher=rlsd.Snapshot(every=4 * ROLLOUT))
        agent = distilled(algorithm, kind, distill=answers)
        agent.learn(4 * ROLLOUT)
        agent.distiller.teacher.every = 10**9
        agent.learn(8 * ROLLOUT, reset_num_timesteps=False)
        states = stored(agent, torch.arange(agent.distiller.states.count))
        d = agent.distiller
        agent.policy.set_training_mode(False)
        with torch.no_grad():
            kl = d.actor.family.kl(d.teacher.targets(states), d.actor.parameters(agent.policy, states))
        gaps.append(float(kl.mean()))
    assert gaps[0] > gaps[1] > gaps[2] >= 0.0, gaps


FIGURES = {
    "distill/kl",
    "distill/loss",
    "distill/coef",
    "distill/grad_ratio",
    "distill/teacher_age",
    "distill/snapshots",
    "distill/states",
    "distill/agreement",
    "distill/teacher_entropy",
    "distill/student_entropy",
    "distill/skipped_nonfinite",
    "time/distill_fraction",
}


@every_algorithm
@every_kind
def test_every_figure_is_logged_and_means_what_it_says(algorithm: type[BaseAlgorithm], kind: str) -> None:
    agent = distilled(algorithm, kind).learn(5 * ROLLOUT, log_interval=1)
    (record,) = agent.logger.output_formats
    # The dump comes before the update in SB3, so the figures of the last update wait for the next.
    last = record.dumps[-1]
    assert last.keys() >= FIGURES
    assert set(agent.distiller.figures) == FIGURES
    assert agent.distiller.figures == {key: last[key] for key in FIGURES}
    assert all(isinstance(last[key], float) and math.isfinite(last[key]) for key in FIGURES)
    assert last["distill/coef"] == pytest.approx(0.7)
    assert last["distill/loss"] == pytest.approx(0.7 * last["distill/kl"])
    assert last["distill/kl"] >= -1e-6
    assert last["distill/snapshots"] == 2.0
    assert last["distill/teacher_age"] == 0.0, "the second snapshot was taken just before this update"
    assert agent.distiller.present_figures()["distill/teacher_age"] == ROLLOUT
    assert last["distill/states"] == min(4 * ROLLOUT, 64)
    assert last["distill/skipped_nonfinite"] == 0.0
    assert 0.0 < last["time/distill_fraction"] < 1.0
    assert 0.0 <= last["distill/agreement"] <= 1.0


def test_the_entropies_are_those_of_sb3() -> None:
    agent = distilled(A2C, "discrete", distill=config(teacher=rlsd.Snapshot(every=1)))
    agent.learn(ROLLOUT)
    teacher = agent.distiller.teacher.policy
    agent.distiller.states.batch_size = 64
    with torch.no_grad():
        states = stored(agent, torch.arange(ROLLOUT))
        expected = teacher.get_distribution(states).entropy()
    for key in ("distill/teacher_entropy", "distill/student_entropy"):
        assert expected.min() - 1e-6 <= agent.distiller.present_figures()[key] <= expected.max() + 1e-6


def test_an_agent_without_a_seed_gets_random_states_of_its_own() -> None:
    draws = []
    for _ in range(2):
        agent = distilled(seed=None).learn(ROLLOUT)
        draws.append(agent.distiller.states.draw(4))
    assert not np.array_equal(*draws)


def test_an_agent_with_a_seed_is_distilled_alike_every_time() -> None:
    one, other = (distilled().learn(5 * ROLLOUT) for _ in range(2))
    assert not differences(distillation_state(one), distillation_state(other))
    assert not differences(training_state(one), copied(training_state(one)))
    assert not differences(dict(one.policy.state_dict()), dict(other.policy.state_dict()))


def test_an_unknown_way_to_act_is_refused_before_anything_changes() -> None:
    class OwnPolicy(BasePolicy):
        """A policy that rlsd was never told about."""

        def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
            raise NotImplementedError

    agent = build(PPO)
    policy = agent.policy
    agent.policy = OwnPolicy(agent.observation_space, agent.action_space)
    for wrap in (rlsd.distill, lambda a: a.learn(ROLLOUT, callback=rlsd.SelfDistillation())):
        with pytest.raises(TypeError, match=r"cannot distil a PPO with a OwnPolicy.*rlsd\.register_actor\(OwnPolicy"):
            wrap(agent)
        assert type(agent) is PPO
        assert not hasattr(agent, "distiller")
    agent.policy = policy
    agent.learn(ROLLOUT)


def test_the_steps_of_a_rollout_are_not_patched() -> None:
    agent = distilled(distill=config(teacher=rlsd.Snapshot(every=1)))
    found: list[str] = []
    look: Callable[[], None] = lambda: found.extend(patches(agent))  # noqa: E731
    agent.learn(3 * ROLLOUT, callback=Moments(look, look))
    assert found == []


def test_a_distiller_is_shown_in_a_few_lines():
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, distill="snapshot")
    assert repr(agent.distiller).startswith("Distiller, idle in all 0 updates; no teacher yet, 0 states\nDistillConfig")
    assert "no teacher yet" in agent.distiller._repr_html_()
