"""What distillation does to an agent's update, and what it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import cycle
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

import rlsd
from rlsd.observations import Beside

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())
every_kind = pytest.mark.parametrize("kind", KINDS)


def alternating(kinds: Iterable[str]) -> Any:
    """Each kind once, with one algorithm and the other in turn."""
    pairs = list(zip(cycle(ALGORITHMS.values()), kinds))
    return pytest.mark.parametrize(("algorithm", "kind"), pairs, ids=[f"{cls.__name__}-{kind}" for cls, kind in pairs])


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


# tests/test_contract.py holds what is promised of every algorithm. Here is the rest.
# --- 1. Off means off -----------------------------------------------------------------------------


@every_algorithm
def test_strength_0_logs_nothing_of_its_own(algorithm: type[BaseAlgorithm]) -> None:
    agent = distilled(algorithm, distill=config(strength=0)).learn(2 * ROLLOUT, log_interval=1)
    assert agent.distiller.logged == {}
    assert not any("distill" in key for dump in agent.logger.output_formats[0].dumps for key in dump)


# --- 4. and 5. The teacher ------------------------------------------------------------------------


@alternating(kind for kind in KINDS if kind not in ("regularized", "separate_extractors"))
def test_a_fresh_snapshot_does_not_pull(algorithm: type[BaseAlgorithm], kind: str) -> None:
    # One gradient step an update, a snapshot before each: teacher and student are always the same.
    # With batch norm they are not: the forward pass of the agent's own loss moves the student's statistics first.
    one_step = {"n_epochs": 1, "batch_size": ROLLOUT} if algorithm is PPO else {}
    agent = distilled(algorithm, kind, distill=config(teacher=rlsd.Snapshot(every=1)), **one_step)
    for update in range(1, 4):
        agent.learn(ROLLOUT, reset_num_timesteps=False)
        assert agent.distiller.deposits == update
        assert abs(agent.distiller.present_metrics()["distill/kl"]) <= 1e-6
        assert agent.distiller.present_metrics()["distill/agreement"] == 1.0
    plain = build(algorithm, kind, **one_step)
    for _ in range(3):
        plain.learn(ROLLOUT, reset_num_timesteps=False)
    for one, other in zip(plain.policy.parameters(), agent.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@alternating(["discrete", "gsde", "dict", "normalized", "separate_extractors"])
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
        ages.append(agent.distiller.present_metrics()["distill/teacher_age"])
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


@alternating(ACTION_KINDS)
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
    assert agent.distiller.present_metrics()["distill/skipped_nonfinite"] == agent.distiller.deposits

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
    assert agent.distiller.present_metrics()["distill/skipped_nonfinite"] == 5


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


@alternating(["normalized", "normalized_dict"])
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


@alternating([*ACTION_KINDS, "dict", "normalized"])
def test_every_figure_is_logged_and_means_what_it_says(algorithm: type[BaseAlgorithm], kind: str) -> None:
    agent = distilled(algorithm, kind).learn(5 * ROLLOUT, log_interval=1)
    (record,) = agent.logger.output_formats
    # The dump comes before the update in SB3, so the metrics of the last update wait for the next.
    last = record.dumps[-1]
    assert last.keys() >= FIGURES
    assert set(agent.distiller.logged) == FIGURES
    assert agent.distiller.logged == {key: last[key] for key in FIGURES}
    assert all(isinstance(last[key], float) and math.isfinite(last[key]) for key in FIGURES)
    assert last["distill/coef"] == pytest.approx(0.7)
    assert last["distill/loss"] == pytest.approx(0.7 * last["distill/kl"])
    assert last["distill/kl"] >= -1e-6
    assert last["distill/snapshots"] == 2.0
    assert last["distill/teacher_age"] == 0.0, "the second snapshot was taken just before this update"
    assert agent.distiller.present_metrics()["distill/teacher_age"] == ROLLOUT
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
        assert expected.min() - 1e-6 <= agent.distiller.present_metrics()[key] <= expected.max() + 1e-6


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
