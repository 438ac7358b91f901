"""What is promised of every algorithm, whatever its actions and observations: one test a promise, one case an agent.

``scripts/experiments/support_table.py`` writes docs/support.md from the tests that pass here.
"""

from __future__ import annotations

import copy
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import agents
import cloudpickle
import numpy as np
import pytest
import torch
from agents import (
    ALL_ALGORITHMS,
    ROLLOUT,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    generators,
    logged,
    make_env,
    optimizers,
    patches,
    scramble,
    stored,
    training_state,
    untouched_generators,
)
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TRPO, MaskablePPO
from stable_baselines3 import DQN, TD3
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal, kl_divergence

import rlsd
from rlsd.environment_state import freeze, thaw
from rlsd.io.resume import Checkpoints, Stopped
from rlsd.observations import Beside
from rlsd.teachers import Frozen


class Case(NamedTuple):
    """One agent: an algorithm, a way to act and to see, and how many environments."""

    algorithm: str
    kind: str
    n_envs: int = 2

    def build(self, **changes: Any) -> Any:
        """The agent in plain SB3."""
        return build(ALL_ALGORITHMS[self.algorithm], self.kind, make_env(self.kind, self.n_envs), **changes)

    def distilled(self, distill: Any = None, **changes: Any) -> Any:
        """The agent distilled; by default from a teacher two rollouts old at most."""
        answers = config() if distill is None else distill
        env = make_env(self.kind, self.n_envs)
        return distilled(ALL_ALGORITHMS[self.algorithm], self.kind, answers, env=env, **changes)

    @property
    def steps(self) -> int:
        """Environment steps that make a few updates."""
        return 20 * ROLLOUT if self.algorithm == "ARS" else 4 * ROLLOUT

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.kind}" + (f"-{self.n_envs}env" if self.n_envs != 2 else "")


_ON_POLICY = ("discrete", "box", "multidiscrete", "multibinary", "gsde", "dict", "image_chw", "normalized")
_CONTINUOUS = ("box", "box_dict", "box_image", "box_goal", "normalized")
_DISCRETE = ("discrete", "dict", "image_chw", "goal", "normalized_discrete")
_MATRIX: dict[str, tuple[str, ...]] = {
    "PPO": _ON_POLICY,
    "A2C": _ON_POLICY,
    "TRPO": _ON_POLICY,
    "MaskablePPO": ("discrete", "multidiscrete", "multibinary", "dict", "image_chw", "normalized_discrete"),
    # sb3-contrib's own training of it fails on MultiBinary actions.
    "RecurrentPPO": tuple(kind for kind in _ON_POLICY if kind != "multibinary"),
    "DQN": _DISCRETE,
    "QRDQN": _DISCRETE,
    "SAC": (*_CONTINUOUS, "gsde"),
    "TQC": (*_CONTINUOUS, "gsde"),
    "CrossQ": ("box", "normalized", "gsde"),  # it has no policy for images or Dict
    "TD3": (*_CONTINUOUS, "shared_image"),
    "DDPG": _CONTINUOUS,
    "ARS": ("discrete", "box", "normalized"),
}
#: Every algorithm, and between them every way to act and to see. PPO and A2C have tests of their own on all kinds.
_CORE = [
    Case("PPO", "discrete"),
    Case("PPO", "gsde"),
    Case("PPO", "normalized"),
    Case("A2C", "gsde", n_envs=1),
    Case("TRPO", "box"),
    Case("MaskablePPO", "multidiscrete"),
    Case("RecurrentPPO", "box"),
    Case("DQN", "discrete"),
    Case("DQN", "image_chw"),
    Case("DQN", "goal"),
    Case("QRDQN", "discrete"),
    Case("SAC", "box"),
    Case("SAC", "normalized"),
    Case("SAC", "box_dict"),
    Case("TQC", "gsde"),
    Case("CrossQ", "box"),
    Case("TD3", "box", n_envs=1),
    Case("TD3", "box_goal"),
    Case("TD3", "shared_image"),
    Case("DDPG", "box"),
    Case("ARS", "discrete"),
]
_ALL = [Case(name, kind) for name, kinds in _MATRIX.items() for kind in kinds]
_ALL += [Case(name, kinds[0], n_envs=1) for name, kinds in _MATRIX.items()]


def cases(core: list[Case], every: list[Case] = _ALL) -> Any:
    """Parametrise over some cases, and over the rest of them all in the slow run."""
    rest = [pytest.param(case, id=str(case), marks=pytest.mark.slow) for case in every if case not in core]
    rest.sort(key=lambda parameter: str(parameter.id))
    return pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in core] + rest)


def cases_with(name: str, core: list[tuple[Case, Any]], every: list[tuple[Case, Any]]) -> Any:
    """Parametrise over some cases, each with something else; over the rest of all pairs in the slow run."""
    pairs = [*core, *(pair for pair in every if pair not in core)]
    marks = [[] if pair in core else [pytest.mark.slow] for pair in pairs]
    return pytest.mark.parametrize(
        (name, "case"),
        [
            pytest.param(value, case, id=f"{value}-{case}", marks=some)
            for (case, value), some in zip(pairs, marks, strict=True)
        ],
    )


every_case = cases(_CORE)
#: The ways to act and to see that only on-policy algorithms have, or have otherwise.
_MORE = [
    Case(("A2C", "PPO")[i % 2], kind)
    for i, kind in enumerate(
        ("multibinary", "gsde_squashed", "image_hwc", "dict", "discrete_observations", "normalized_dict", "regularized")
    )
] + [Case("PPO", "separate_extractors")]
every_case_and_kind = cases([*_CORE, *_MORE])
every_off_policy_case = cases(
    [Case("DQN", "goal"), Case("SAC", "normalized"), Case("TD3", "box", n_envs=1)],
    [case for case in _ALL if issubclass(ALL_ALGORITHMS[case.algorithm], OffPolicyAlgorithm)],
)


# --- The penalty is what it should be -------------------------------------------------------------


def distributions(agent: Any, module: Any, states: Any) -> list[Distribution]:
    """What a policy would do by SB3's own code, as torch's distributions: one for each part of the action."""
    items = states if isinstance(states, dict) else {Beside("@observation"): states}
    context = {key: value for key, value in items.items() if key.startswith("@") and key != Beside("@observation")}
    rest = {key: value for key, value in items.items() if key not in context}
    observations = rest[Beside("@observation")] if rest.keys() == {Beside("@observation")} else rest
    if isinstance(agent, (DQN, QRDQN)):
        values = module(observations)
        values = values.mean(dim=1) if isinstance(agent, QRDQN) else values
        return [Categorical(logits=values / agent.distiller.actor.family.tau)]
    if isinstance(agent, TD3):
        return [Normal(module(observations), 0.2)]
    if isinstance(agent, ARS):
        scores = module.action_net(module.extract_features(observations, module.features_extractor))
        discrete = isinstance(agent.action_space, spaces.Discrete)
        return [Categorical(logits=scores) if discrete else Normal(scores, 0.2)]
    if hasattr(module, "get_action_dist_params"):
        mean, log_std, more = module.get_action_dist_params(observations)
        found = copy.copy(module.action_dist).proba_distribution(mean, log_std, **more).distribution
    elif isinstance(agent, MaskablePPO):
        dist = module.get_distribution(observations, context[Beside("@mask")].numpy().astype(bool))
        found = dist.distributions if hasattr(dist, "distributions") else dist.distribution
    elif Beside("@hidden") in context:
        memory = tuple(context[key].transpose(0, 1).contiguous() for key in (Beside("@hidden"), Beside("@cell")))
        found = module.get_distribution(observations, memory, context[Beside("@start")])[0].distribution
    else:
        found = module.get_distribution(observations).distribution
    parts = found if isinstance(found, (list, tuple)) else [found]
    # The next call overwrites SB3's objects.
    return [Normal(p.mean, p.stddev) if isinstance(p, Normal) else copy.copy(p) for p in parts]


@contextmanager
def as_evaluated(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for every part, and afterwards the mode that each part had."""
    modes = {part: part.training for part in module.modules()}
    dist = getattr(module, "action_dist", None)
    module.train(False)
    if dist is not None:
        module.action_dist = copy.copy(dist)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        if dist is not None:
            module.action_dist = dist


class Witness:
    """Works out each penalty anew, by torch's own formulas on SB3's own distributions, and what must come of it."""

    def __init__(self, agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.agent = agent
        self.errors: list[float] = []
        self.pulls: list[float] = []
        self._states: Any = None
        self._statistics: Any = None
        self._distiller = agent.distiller
        take = self._distiller.teacher.take

        def penalized(batch: Any, loss: Any, gradient: Any) -> None:
            self._states = batch.states

        def snapshot(model: Any) -> None:
            self._statistics = copy.deepcopy(model.get_vec_normalize_env())
            take(model)

        self._distiller.on_penalty.append(penalized)
        monkeypatch.setattr(self._distiller.teacher, "take", snapshot)
        if isinstance(agent, TRPO):
            monkeypatch.setattr(agent, "_compute_actor_grad", self._objective(agent._compute_actor_grad))
        elif isinstance(agent, ARS):
            monkeypatch.setattr(ARS, "evaluate_candidates", self._returns(ARS.evaluate_candidates))
            monkeypatch.setattr(agent, "evaluate_candidates", self._judged(agent.evaluate_candidates))
        else:
            monkeypatch.setattr(Tensor, "backward", self._backward(Tensor.backward))

    def _backward(self, backward: Callable[..., None]) -> Callable[..., None]:
        """Every algorithm with an optimizer: what is in ``.grad`` before any clip is the gradient of the sum."""

        def watched(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if self._states is None:  # a critic's loss, or nobody teaches yet
                backward(loss, *args, **kwargs)
                return
            parameters = [p for p in self.module.parameters() if p.requires_grad]
            pull = self.penalty(self.module)
            expected = torch.autograd.grad(loss + pull, parameters, retain_graph=True, allow_unused=True)
            own = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            pulled = torch.autograd.grad(pull, parameters, retain_graph=True, allow_unused=True)
            self._states = None
            backward(loss, *args, **kwargs)
            for parameter, total, alone, part in zip(parameters, expected, own, pulled, strict=True):
                self._compare(parameter.grad, total, alone)
                if part is None and alone is not None:  # such as a critic's, of which no penalty depends
                    assert torch.equal(parameter.grad, alone), "the penalty changed a gradient that is not its own"

        return watched

    def _objective(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """TRPO: the gradient that the natural gradient is made from is that of the objective less the penalty."""

        def watched(kl_div: Tensor, objective: Tensor) -> Any:
            result = compute(kl_div, objective)
            if self._states is not None:
                parameters = result[0]
                penalized = objective - self.penalty(self.module)
                expected = torch.autograd.grad(penalized, parameters, retain_graph=True)
                own = torch.autograd.grad(objective, parameters, retain_graph=True)
                flat = [torch.cat([part.flatten() for part in parts]) for parts in (expected, own)]
                self._compare(result[1], *flat)
                self._states = None
            return result

        return watched

    def _returns(self, evaluate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watched(*args: Any) -> Tensor:
            self._plain_returns = evaluate(*args)
            return self._plain_returns.clone()

        return watched

    def _judged(self, evaluate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """ARS: each candidate's return, less its own penalty."""

        def watched(candidates: Tensor, *args: Any) -> Tensor:
            returns = evaluate(candidates, *args)
            if self._states is not None:
                penalties = []
                for weights in candidates:
                    candidate = copy.deepcopy(self.agent.policy)
                    candidate.load_from_vector(weights)
                    penalties.append(self.penalty(candidate).detach())
                self._compare(returns, self._plain_returns - torch.stack(penalties), self._plain_returns)
                self._states = None
            return returns

        return watched

    def _compare(self, found: Tensor | None, expected: Tensor | None, own: Tensor | None) -> None:
        if expected is None:
            assert found is None or not found.any()
            return
        assert found is not None
        self.errors.append(float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0)))
        self.pulls.append(float((expected - (0.0 if own is None else own)).abs().max()))

    @property
    def module(self) -> Any:
        return self._distiller.actor.module(self.agent.policy)

    def penalty(self, module: Any) -> Tensor:
        """Strength times KL(teacher || student), both evaluated, each seeing through its own statistics."""
        teacher = self._distiller.teacher.policy
        with as_evaluated(module):
            # In this order: gSDE keeps tensors on the distribution.
            p = distributions(self.agent, teacher, self._seen(self._statistics))
            q = distributions(self.agent, module, self._seen(self.agent.get_vec_normalize_env()))
        total = torch.zeros(())
        for one, other in zip(p, q, strict=True):
            divergence = kl_divergence(one, other)
            total = total + (divergence.sum(-1) if divergence.ndim == 2 else divergence)
        scale = getattr(self._distiller.actor.family, "tau", 1.0)
        return self._distiller.coefficient.value * scale * total.mean()

    def _seen(self, normalize: Any) -> Any:
        """The states that were drawn, as VecNormalize itself shows them."""
        if normalize is None:
            return self._states
        items = self._states if isinstance(self._states, dict) else {Beside("@observation"): self._states}
        plain = {key: value.numpy() for key, value in items.items() if key == Beside("@observation") or key[0] != "@"}
        if plain.keys() == {Beside("@observation")}:
            shown = {Beside("@observation"): normalize.normalize_obs(plain[Beside("@observation")])}
        else:
            shown = normalize.normalize_obs(plain)
        return items | {key: torch.as_tensor(value, dtype=torch.float32) for key, value in shown.items()}


@every_case_and_kind
def test_the_gradient_before_the_clip_is_that_of_the_sum(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    # The bound would shrink the pull where SB3 does not clip; it has a test of its own.
    unbounded = config(strength=rlsd.Constant(0.3, bound=1e9))
    # The witness stands at backward(), which rlsd's own update does without; tests/speed holds that one equal to SB3's.
    agent = case.distilled(unbounded, speed=rlsd.Speed(own_update=False))
    witness = Witness(agent, monkeypatch)
    agent.learn(case.steps)
    assert max(witness.errors) <= 2e-6
    assert max(witness.pulls) > 1e-5, "the pull was never felt, so nothing was shown"


@cases([Case("SAC", "box"), Case("TD3", "box", 1)], [case for case in _ALL if case.algorithm in ("TQC", "DDPG")])
def test_where_sb3_does_not_clip_the_pull_is_bounded(case: Case) -> None:
    bound = 0.01
    agent = case.distilled(config(strength=rlsd.Constant(50.0, bound=bound)))
    norms = []

    def measured(batch: Any, loss: Any, found: Any) -> None:
        norms.append(float(torch.cat([gradient.flatten() for _, gradient in found]).norm()))

    agent.distiller.on_penalty.append(measured)
    agent.learn(case.steps)
    assert max(norms) == pytest.approx(bound, rel=1e-4)


@cases(
    [Case("PPO", "discrete"), Case("SAC", "box"), Case("DQN", "discrete"), Case("TD3", "box"), Case("TRPO", "box")],
    [case for case in _ALL if case.n_envs == 2 and case.algorithm != "ARS"],
)
def test_the_harder_the_pull_the_nearer_to_a_fixed_teacher(case: Case) -> None:
    gaps = []
    for beta in (0.0, 1.0, 30.0):
        strength = rlsd.Constant(beta, bound=30.0)
        agent = case.distilled(config(strength=strength, teacher=rlsd.Snapshot(every=2 * ROLLOUT)))
        agent.learn(2 * ROLLOUT)
        assert agent.distiller.teacher.version == 1
        agent.distiller.teacher.every = 10**9
        agent.learn(8 * ROLLOUT, reset_num_timesteps=False)
        d = agent.distiller
        agent.policy.set_training_mode(False)
        states = stored(agent, torch.arange(d.states.count))
        with torch.no_grad():
            kl = d.actor.family.kl(d.teacher.targets(states), d.actor.parameters(d.actor.module(agent.policy), states))
        gaps.append(float(kl.mean()))
    assert gaps[0] > gaps[2] >= -1e-6, gaps
    assert gaps[0] > gaps[1] > gaps[2], gaps


# --- It leaves everything else alone --------------------------------------------------------------


@cache
def plainly_trained(case: Case) -> tuple[Any, Any]:
    """What plain SB3 comes to, and what it logs."""
    plain = case.build().learn(case.steps, log_interval=1)
    return copied(training_state(plain)), logged(plain)


@every_case_and_kind
def test_without_a_pull_training_is_plain_sb3_bit_for_bit(case: Case) -> None:
    expected, log = plainly_trained(case)
    agent = case.distilled(config(strength=0.0, teacher=rlsd.Snapshot(every=1))).learn(case.steps, log_interval=1)
    assert agent.distiller.teacher.version > 0
    assert not differences(expected, training_state(agent))
    assert not differences(log, logged(agent))
    agent = case.distilled(config(teacher=rlsd.Snapshot(every=10**6))).learn(case.steps, log_interval=1)
    assert agent.distiller.states.count > 0
    assert not differences(expected, training_state(agent))


def traces(agent: Any) -> dict[str, Any]:
    """All that a deposit could disturb."""
    dist = getattr(getattr(agent.policy, "actor", agent.policy), "action_dist", None)
    buffer = getattr(agent, "rollout_buffer", None) or getattr(agent, "replay_buffer", None)
    arrays = {} if buffer is None else vars(buffer)
    return {
        "generators": generators(),
        "training": {name: module.training for name, module in agent.policy.named_modules()},
        "parameters and buffers": dict(agent.policy.state_dict()),
        "action_dist": None if dist is None else (id(dist), {name: id(value) for name, value in vars(dist).items()}),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers(agent).items()},
        "buffer": {
            k: v
            for k, v in arrays.items()
            if (isinstance(v, np.ndarray) and v.dtype != object) or k in ("observations", "next_observations")
        },
    }


@every_case_and_kind
def test_a_deposit_leaves_no_trace_and_draws_no_global_random_number(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = case.distilled()
    d = agent.distiller
    calls: list[str] = []

    def watched(owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            before = copied(traces(agent))
            result = method(*args, **kwargs)
            calls.append(name)
            assert not differences(before, traces(agent)), name
            return result

        monkeypatch.setattr(owner, name, call)

    own = {"TRPO": (d.algorithm, "penalized"), "ARS": (d.algorithm, "judged")}
    penalizing = own.get(case.algorithm, (d.penalty, "gradients"))
    for owner, name in [penalizing, (d, "_begin"), (d, "log")]:
        watched(owner, name)
    agent.learn(case.steps, log_interval=1)
    assert {penalizing[1], "_begin", "log"} <= set(calls)


class At(BaseCallback):
    """Does something at one step of training; says whether to go on."""

    def __init__(self, step: int, action: Callable[[], bool]) -> None:
        super().__init__()
        self.step, self.action = step, action

    def _on_step(self) -> bool:
        return self.action() if self.n_calls == self.step else True


@every_case
def test_nothing_stays_behind_whatever_happens_and_training_goes_on(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = case.distilled(config(teacher=rlsd.Snapshot(every=1))).learn(case.steps)
    keys = set(vars(agent))

    def raising(error: type[BaseException]) -> Callable[..., Any]:
        def act(*_: Any, **__: Any) -> Any:
            raise error("on purpose")

        return act

    with pytest.raises(KeyboardInterrupt, match="on purpose"):
        agent.learn(case.steps, callback=At(7, raising(KeyboardInterrupt)))
    assert patches(agent) == []
    optimizer = agent.distiller.actor.optimizer(agent.policy)
    for error in () if optimizer is None else (ValueError, KeyboardInterrupt):
        with monkeypatch.context() as patch:
            patch.setattr(optimizer, "step", raising(error))
            with pytest.raises(error, match="on purpose"):
                agent.learn(case.steps)
        assert patches(agent) == []
    agent.learn(case.steps, callback=At(7, lambda: False))
    assert patches(agent) == []
    deposits = agent.distiller.deposits
    agent.learn(case.steps)
    assert agent.distiller.deposits > deposits
    assert patches(agent) == []
    assert set(vars(agent)) == keys


@cases_with(
    "stride",
    [(case, 1 if number % 5 == 0 else 3) for number, case in enumerate(_CORE)],
    [(case, stride) for case in _ALL for stride in (1, 3)],
)
def test_deposits_are_the_actors_steps_divided_by_the_stride(
    case: Case, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = case.distilled(config(timing=rlsd.EveryStep(stride=stride), teacher=rlsd.Snapshot(every=1)))
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    if case.algorithm == "TRPO":
        compute = TRPO._compute_actor_grad
        monkeypatch.setattr(TRPO, "_compute_actor_grad", lambda *args: [count(), compute(*args)][1])
    elif case.algorithm != "ARS":
        agent.distiller.actor.optimizer(agent.policy).register_step_post_hook(count)
    agent.learn(case.steps)
    if case.algorithm == "ARS":  # one update's scores at once: there are no steps to leave out
        steps, stride = agent._n_updates, 1
    assert steps >= 3
    assert agent.distiller.steps == steps
    assert agent.distiller.deposits == steps // stride


@every_case
def test_undistilled_it_goes_on_as_if_it_had_never_been_distilled(case: Case) -> None:
    states = []
    for distill in (False, True):
        agent = case.build()
        if distill:
            with untouched_generators():
                rlsd.distill(agent, config(teacher=rlsd.Snapshot(every=10**6)))
        agent.learn(case.steps // 2)
        if distill:
            with untouched_generators():
                assert rlsd.undistill(agent) is agent
        agent.learn(case.steps // 2, reset_num_timesteps=False)
        assert type(agent) is ALL_ALGORITHMS[case.algorithm]
        states.append((copied(training_state(agent)), set(vars(agent))))
    assert not differences(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


# --- Saved and resumed ----------------------------------------------------------------------------


def whole_state(agent: Any) -> Any:
    return copied((training_state(agent), distillation_state(agent)))


class StopAt(BaseCallback):
    """Asks for a stop at some step, as Ctrl-C would."""

    def __init__(self, checkpoints: Checkpoints, steps: int) -> None:
        super().__init__()
        self.checkpoints, self.steps = checkpoints, steps

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.steps:
            self.checkpoints.request_stop()
        return True


def check_resume(case: Case, states: Any, folder: Path, **changes: Any) -> None:
    answers = config(states=states, strength=rlsd.Schedule(1.0, 0.1), timing=rlsd.EveryStep(3), **changes)
    total = 6 * ROLLOUT if case.algorithm != "ARS" else case.steps
    expected = whole_state(case.distilled(answers).learn(total))
    checkpoints = Checkpoints(folder, every=10**6)
    with pytest.raises(Stopped):
        case.distilled(answers).learn(total, callback=[checkpoints, StopAt(checkpoints, total // 2 - 5)])
    scramble()
    agent = rlsd.resume(folder)
    assert 0 < agent.num_timesteps < total
    before = agent.distiller.deposits
    agent.learn(total - agent.num_timesteps, reset_num_timesteps=False)
    assert agent.distiller.deposits > before
    assert not differences(expected, whole_state(agent))


@every_case_and_kind
def test_resumed_training_is_that_which_never_stopped(case: Case, tmp_path: Path) -> None:
    check_resume(case, rlsd.Reservoir(capacity=40, batch_size=8), tmp_path)


@every_off_policy_case
def test_resumed_training_on_its_own_replay_buffer_is_that_which_never_stopped(case: Case, tmp_path: Path) -> None:
    check_resume(case, rlsd.ReplayBuffer(batch_size=8), tmp_path)


#: Every other teacher, as small as shows it, for an agent of a case.
_TEACHERS: dict[str, Callable[[Case], Any]] = {
    "ema": lambda case: {"type": "ema", "decay": 0.7},
    "ensemble": lambda case: {"type": "ensemble", "k": 3, "every": ROLLOUT},
    "stored": lambda case: {"type": "stored", "every": ROLLOUT},
    "origin": lambda case: "origin",
    "frozen": lambda case: Frozen(agent=case.build(seed=9)),
    "best": lambda case: {"type": "best", "every": ROLLOUT, "episodes": 3, "patience": 3 * ROLLOUT},
    "cascade": lambda case: {"type": "cascade", "n": 4, "omega": 2.0},
}
_STATES: dict[str, Any] = {
    "recent": {"type": "recent", "capacity": 24, "batch_size": 8},
    "minibatch": "minibatch",
    "mixture": {
        "type": "mixture",
        "parts": [{"type": "recent", "capacity": 20, "batch_size": 8}, rlsd.Reservoir(capacity=30, batch_size=8)],
        "batch_size": 8,
    },
}
#: What cannot go together says so; that has a test of its own.
_SENSELESS = {("ARS", "cascade"), ("RecurrentPPO", "frozen"), ("ARS", "minibatch")}
_FEW = [Case("PPO", "normalized"), Case("SAC", "normalized"), Case("DQN", "discrete")]


def each_with_one(name: str, values: Iterable[str]) -> Any:
    """Each teacher or store with one of a few agents in turn, and with every algorithm in the slow run."""
    every = [(Case(algorithm, kinds[0]), value) for algorithm, kinds in _MATRIX.items() for value in values]
    core = list(zip(cycle(_FEW), values))
    return cases_with(name, core, [pair for pair in every if (pair[0].algorithm, pair[1]) not in _SENSELESS])


@each_with_one("teacher", _TEACHERS)
def test_resumed_training_by_any_teacher_is_that_which_never_stopped(case: Case, teacher: str, tmp_path: Path) -> None:
    check_resume(case, rlsd.Reservoir(capacity=40, batch_size=8), tmp_path, teacher=_TEACHERS[teacher](case))


@each_with_one("states", _STATES)
def test_resumed_training_on_any_states_is_that_which_never_stopped(case: Case, states: str, tmp_path: Path) -> None:
    check_resume(case, _STATES[states], tmp_path)


@each_with_one("teacher", _TEACHERS)
def test_without_a_pull_no_teacher_leaves_a_trace(case: Case, teacher: str) -> None:
    agent = case.distilled(config(strength=0.0, teacher=_TEACHERS[teacher](case), states="recent"))
    agent.learn(case.steps)
    assert agent.distiller.teacher.version > 0
    assert not differences(plainly_trained(case)[0], training_state(agent))


@each_with_one("states", _STATES)
def test_nothing_stays_behind_on_any_states(case: Case, states: str) -> None:
    agent = case.distilled(config(states=_STATES[states])).learn(case.steps)
    assert agent.distiller.deposits > 0
    buffer = getattr(agent, "rollout_buffer", None) or getattr(agent, "replay_buffer", None)
    assert buffer is None or not {"sample", "_get_samples"} & vars(buffer).keys()
    assert patches(agent) == []


@cache
def learned(case: Case) -> Any:
    """The agent after some training, to be looked at and not changed."""
    return case.distilled().learn(case.steps)


WITHOUT_RLSD = """
import pickle, sys
sys.modules["rlsd"] = None  # any import of it fails
from pathlib import Path
import numpy as np
import sb3_contrib, stable_baselines3

for folder in sorted(Path(sys.argv[1]).iterdir()):
    name = folder.name.partition("-")[0]
    algorithm = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
    env, observations, expected = pickle.loads((folder / "expected.pkl").read_bytes())
    try:
        agent = algorithm.load(folder / "agent.zip", env=env, device="cpu")
        assert type(agent) is algorithm
        np.testing.assert_array_equal(agent.predict(observations, deterministic=True)[0], expected)
        assert not [key for key in vars(agent) if "distil" in key]
        print(folder.name)
    except Exception as error:
        print(folder.name, type(error).__name__, error, file=sys.stderr)
"""


def _save_with_expectation(case: Case, folder: Path) -> None:
    agent = learned(case)
    observations = agent.env.observation_space.sample()
    expected = agent.predict(observations, deterministic=True)[0]
    env = make_env(case.kind) if "goal" in case.kind else None  # HerReplayBuffer asks for one
    agent.save(folder / "agent")
    (folder / "expected.pkl").write_bytes(cloudpickle.dumps((env, observations, expected)))


@cache
def loaded_without_rlsd(chosen: tuple[Case, ...]) -> tuple[str, str]:
    """Load agents' zips in one process where rlsd cannot be imported; tell which act the same and what failed."""
    with tempfile.TemporaryDirectory() as root:
        cloudpickle.register_pickle_by_value(agents)  # the other process has no rlsd, and so cannot import agents.py
        try:
            for case in chosen:
                with suppress(Exception):  # it is missed below, and its other tests tell why
                    _save_with_expectation(case, Path(root, str(case)))
        finally:
            cloudpickle.unregister_pickle_by_value(agents)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        script = [sys.executable, "-c", WITHOUT_RLSD, root]
        done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=root, check=False)
        return done.stdout, done.stderr


@every_case_and_kind
def test_its_zip_acts_the_same_in_plain_sb3_where_rlsd_is_missing(case: Case, request: pytest.FixtureRequest) -> None:
    # All the cases of this run at once: starting a process takes longer than all of them.
    name = request.node.originalname
    chosen = tuple(item.callspec.params["case"] for item in request.session.items if item.originalname == name)
    out, errors = loaded_without_rlsd(chosen)
    assert str(case) in out.split(), errors


# --- SB3's own promises ---------------------------------------------------------------------------

_PROMISED = [
    Case("PPO", "gsde"),
    Case("A2C", "gsde", n_envs=1),
    Case("TRPO", "box"),
    Case("MaskablePPO", "multidiscrete"),
    Case("RecurrentPPO", "box"),
    Case("DQN", "image_chw"),
    Case("DQN", "goal"),
    Case("QRDQN", "discrete"),
    Case("SAC", "box_dict"),
    Case("SAC", "normalized"),
    Case("TQC", "gsde"),
    Case("CrossQ", "box"),
    Case("TD3", "box_goal"),
    Case("TD3", "shared_image"),
    Case("DDPG", "box"),
    Case("ARS", "discrete"),
]
promised = cases(_PROMISED)


@promised
def test_learning_twice_and_in_another_environment_goes_on_distilling(case: Case) -> None:
    agent = case.distilled().learn(case.steps)
    goes_on: tuple[Callable[[], Any], ...] = (
        lambda: agent.learn(case.steps, reset_num_timesteps=False),
        lambda: (agent.set_env(make_env(case.kind, case.n_envs)), agent.learn(case.steps)),
    )
    for learn in goes_on:
        deposits = agent.distiller.deposits
        learn()
        assert agent.distiller.deposits > deposits


@promised
def test_parameters_can_be_read_set_and_taken_from_a_file(case: Case, tmp_path: Path) -> None:
    source = learned(case)
    plain = case.build(seed=8)
    assert source.get_parameters().keys() == plain.get_parameters().keys()
    target = case.distilled(seed=8)
    target.set_parameters(copy.deepcopy(source.get_parameters()))
    assert not differences(source.get_parameters(), target.get_parameters())
    source.save(tmp_path / "agent")
    plain.set_parameters(str(tmp_path / "agent.zip"))
    assert not differences(source.get_parameters(), plain.get_parameters())
    rlsd.load_weights(tmp_path / "agent.zip", case.distilled(seed=9))
    deposits = target.learn(case.steps).distiller.deposits
    assert deposits > 0


@promised
def test_it_predicts_for_one_observation_and_for_many(case: Case) -> None:
    agent = learned(case)
    one = agent.env.observation_space.sample()
    many = {key: np.stack([v] * 3) for key, v in one.items()} if isinstance(one, dict) else np.stack([one] * 3)
    with untouched_generators():
        action, _ = agent.predict(one, deterministic=True)
        actions, _ = agent.predict(many, deterministic=True)
    assert agent.action_space.contains(action.astype(agent.action_space.dtype).reshape(agent.action_space.shape))
    assert len(actions) == 3
    np.testing.assert_allclose(actions[0], action, atol=1e-6)


@promised
def test_evaluation_and_checkpoint_callbacks_write_agents_that_remember(case: Case, tmp_path: Path) -> None:
    agent = case.distilled()
    best = tmp_path / "best"
    if case.algorithm == "MaskablePPO":
        from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback as Evaluation
    else:
        Evaluation = EvalCallback
    evaluation = Evaluation(
        agent._wrap_env(make_env(case.kind, 1)),
        eval_freq=ROLLOUT,
        n_eval_episodes=2,
        best_model_save_path=str(best),
        verbose=0,
    )
    agent.learn(case.steps, callback=[CheckpointCallback(ROLLOUT, str(tmp_path / "kept")), evaluation])
    files = [best / "best_model.zip", *sorted((tmp_path / "kept").glob("*.zip"))]
    assert len(files) >= 2
    for file in files:
        again = rlsd.SelfDistilled(ALL_ALGORITHMS[case.algorithm]).load(file, env=make_env(case.kind, case.n_envs))
        assert again.distiller.config == agent.distiller.config
    again.learn(case.steps)
    assert again.distiller.deposits > 0


@promised
def test_its_policy_can_be_saved_and_loaded_by_itself(case: Case, tmp_path: Path) -> None:
    # sb3-contrib forgets the size of an LSTM when it saves a recurrent policy alone: only the default one comes back.
    agent = case.distilled(policy_kwargs={}) if case.algorithm == "RecurrentPPO" else learned(case)
    agent.policy.save(str(tmp_path / "policy.pth"))
    loaded = type(agent.policy).load(str(tmp_path / "policy.pth"), device="cpu")
    assert not differences(dict(agent.policy.state_dict()), dict(loaded.state_dict()))
    observation = agent.observation_space.sample()
    expected, found = (policy.predict(observation, deterministic=True)[0] for policy in (agent.policy, loaded))
    assert not differences(expected, found)


@promised
def test_a_copy_trains_on_as_the_original(case: Case) -> None:
    agent = case.distilled().learn(case.steps)
    for module in agent.policy.modules():  # the graph of the last update is in SB3's action_dist, and refuses copies
        if hasattr(module, "action_dist") and hasattr(module.action_dist, "distribution"):
            module.action_dist.distribution = None
    # Of environments, SB3 can copy only some.
    env, agent.env, agent._vec_normalize_env = agent.env, None, None
    twin = cloudpickle.loads(cloudpickle.dumps(agent))
    for each, its in ((agent, env), (twin, thaw(freeze(env)))):
        each.set_env(its, force_reset=False)
    if isinstance(getattr(twin, "replay_buffer", None), HerReplayBuffer):
        twin.replay_buffer.set_env(twin.env)
    assert type(twin) is type(agent)
    states = []
    for each in (agent, twin):
        scramble()
        each.learn(case.steps // 2, reset_num_timesteps=False)
        states.append(whole_state(each))
    assert not differences(*states)


@promised
def test_the_three_doors_lead_to_the_same_training(case: Case) -> None:
    expected = whole_state(learned(case))
    wrapped = rlsd.distill(case.build(), config()).learn(case.steps)
    assert not differences(expected[1], whole_state(wrapped)[1])
    called = case.build()
    called.learn(case.steps, callback=rlsd.SelfDistillation(config()))
    assert type(called) is rlsd.SelfDistilled(ALL_ALGORITHMS[case.algorithm])
    for agent in (wrapped, called):
        assert not differences(expected[0]["policy"], copied(training_state(agent))["policy"])


@pytest.mark.parametrize(
    "case",
    [
        Case("PPO", "multidiscrete"),
        Case("MaskablePPO", "discrete"),
        Case("MaskablePPO", "multidiscrete"),
        Case("MaskablePPO", "multibinary"),
        Case("RecurrentPPO", "box"),
    ],
    ids=str,
)
def test_a_policy_with_a_distribution_of_its_own_is_asked_for_it(case: Case) -> None:
    """Such a policy goes another way through rlsd; one that changes nothing must come to the same."""
    agent = learned(case)
    states = stored(agent, torch.arange(agent.distiller.states.count))

    class Own(type(agent.policy)):  # type: ignore[misc]
        """Overrides the method, to the same effect."""

        def get_distribution(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_distribution(*args, **kwargs)

    d = agent.distiller
    own = copy.copy(agent.policy)
    own.__class__ = Own
    with as_evaluated(agent.policy), torch.no_grad():
        expected = d.actor.parameters(agent.policy, states)
        found = type(d.actor)(own).parameters(own, states)
        assert d.actor.family.kl(expected, found).abs().max() < 1e-6


def test_every_algorithm_is_in_the_matrix() -> None:
    assert _MATRIX.keys() == ALL_ALGORITHMS.keys()
    assert {case.algorithm for case in _CORE} == {case.algorithm for case in _PROMISED} == ALL_ALGORITHMS.keys()
    assert {case.kind for case in _CORE} >= {"image_chw", "box_dict", "goal", "normalized", "gsde", "multidiscrete"}


def test_every_test_of_an_agent_is_in_a_column_of_the_table_of_support() -> None:
    path = Path(__file__).parent.parent / "scripts" / "experiments" / "support_table.py"
    script = runpy.run_path(str(path), run_name="support_table")
    named = {test for tests in script["PROMISES"].values() for test in tests}
    mine = {name: thing for name, thing in globals().items() if name.startswith("test_")}
    assert named == {name for name, test in mine.items() if hasattr(test, "pytestmark")}
    assert {case.kind for case in (*_CORE, *_PROMISED)} <= script["SPACES"].keys()
