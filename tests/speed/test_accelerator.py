"""An accelerated agent trains as plain SB3 to the last bit, each part by itself, and is as before when it is done."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

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
    logged,
    patches,
    scramble,
    training_state,
    untouched_generators,
)
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from torch.distributions import Distribution

import rlsd
from rlsd.speed import EXACT, MAX, NOTHING, Speed, resolve_speed

PARTS = ("lean_acting", "tensor_rollouts", "tensor_replay", "no_validation", "own_update")
CASES = [
    *((PPO, kind) for kind in ("discrete", "box", "image_chw", "image_hwc", "separate_extractors", "normalized")),
    *((PPO, kind) for kind in ("gsde", "multidiscrete", "dict", "discrete_observations", "regularized")),
    *((A2C, kind) for kind in ("discrete", "box", "image_chw", "normalized")),
    *((SAC, kind) for kind in ("box", "gsde", "box_image", "normalized", "box_goal")),
    *((TD3, "box"), (TD3, "box_image"), (DDPG, "box")),
    *((DQN, kind) for kind in ("discrete", "image_chw", "normalized_discrete", "dict")),
]
FEW = [(PPO, "discrete"), (PPO, "box"), (A2C, "box"), (SAC, "box"), (TD3, "box"), (DQN, "discrete")]


@cache
def _plain(algorithm: type[Any], kind: str) -> Any:
    """What plain SB3 comes to, a replay buffer's oldest transitions having been replaced."""
    plain = build(algorithm, kind).learn(6 * ROLLOUT)
    return copied((training_state(plain), logged(plain)))


#: Their networks are large, and others show the same: the slow run takes them.
LARGE = [(PPO, "image_hwc"), (A2C, "image_chw"), (TD3, "box_image"), (DQN, "dict")]


@pytest.mark.parametrize(("algorithm", "kind"), [case for case in CASES if case not in LARGE])
def test_after_six_rollouts_no_bit_is_different(algorithm: type[Any], kind: str) -> None:
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None)
    assert agent.accelerator.speed == EXACT
    agent.learn(6 * ROLLOUT)
    assert not differences(_plain(algorithm, kind), (training_state(agent), logged(agent)))
    assert _left_behind(agent, algorithm) == []


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind"), CASES)
def test_after_twenty_rollouts_no_bit_is_different(algorithm: type[Any], kind: str) -> None:
    plain = build(algorithm, kind).learn(20 * ROLLOUT)
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None).learn(20 * ROLLOUT)
    assert not differences((training_state(plain), logged(plain)), (training_state(agent), logged(agent)))


@pytest.mark.parametrize(
    ("part", "algorithm", "kind"),
    [
        *(("lean_acting", *case) for case in FEW),
        *(("no_validation", *case) for case in FEW[:3]),  # the rest are no on-policy algorithms
        *(("tensor_rollouts", *case) for case in FEW[:3]),
        *(("tensor_replay", *case) for case in FEW[3:]),
        *(("own_update", *case) for case in FEW if case[0] in (PPO, SAC, TD3, DQN)),
    ],
)
def test_each_part_by_itself_changes_no_bit(algorithm: type[Any], kind: str, part: str) -> None:
    agent = rlsd.accelerate(build(algorithm, kind), replace(NOTHING, **{part: True})).learn(6 * ROLLOUT)
    assert not differences(_plain(algorithm, kind)[0], training_state(agent))


@pytest.mark.parametrize(("algorithm", "kind"), [*FEW, (PPO, "normalized"), (PPO, "image_chw")])
def test_a_distilled_agent_trains_alike_at_every_exact_speed(algorithm: type[Any], kind: str) -> None:
    states = []
    for speed in (None, "exact", replace(EXACT, own_update=False)):
        agent = distilled(algorithm, kind, speed=speed).learn(6 * ROLLOUT)
        assert agent.distiller.deposits > 0
        states.append(copied((training_state(agent), distillation_state(agent))))
    assert not differences(states[0], states[1])
    assert not differences(states[0], states[2])


@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS.values(), ids=ALL_ALGORITHMS.keys())
def test_max_trains_every_algorithm(algorithm: type[Any]) -> None:
    kind = "discrete" if algorithm.__name__ in ("MaskablePPO", "DQN", "QRDQN") else "box"
    agent = build(rlsd.SelfDistilled(algorithm), kind, speed="max").learn(6 * ROLLOUT)
    assert all(torch.isfinite(p).all() for p in agent.policy.parameters())
    assert _left_behind(agent, algorithm) == []


def _left_behind(agent: Any, algorithm: type[Any]) -> list[str]:
    """What is not as plain SB3 would have it."""
    found = patches(agent)
    if "Lent" in repr(type(agent.policy)) or [key for key in vars(agent.policy) if key.startswith("_rlsd")]:
        found.append("the policy")
    if not Distribution._validate_args:
        found.append("validation")
    for name, cls in (("rollout_buffer", RolloutBuffer), ("replay_buffer", ReplayBuffer)):
        buffer = getattr(agent, name, None)
        if type(buffer).__module__.startswith("rlsd"):
            found.append(f"{name} is not {cls}")
    if type(agent.policy) is not agent.policy_class:
        found.append("the policy's class")
    return found


def _pickled(agent: Any) -> Any:
    return pickle.loads(pickle.dumps(agent))


class At(BaseCallback):
    """Does something at one step of training."""

    def __init__(self, step: int, action: Any) -> None:
        super().__init__()
        self.step, self.action = step, action

    def _on_step(self) -> bool:
        return self.action(self.model) is not False if self.n_calls == self.step else True


@pytest.mark.parametrize(
    ("place", "error"),
    [("env", KeyboardInterrupt), ("callback", ValueError), ("stop", ValueError), ("train", KeyboardInterrupt)],
)
@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "box"), (SAC, "box"), (DQN, "discrete")])
def test_nothing_stays_behind(algorithm: type[Any], kind: str, place: str, error: Any, monkeypatch: Any) -> None:
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None, speed="max").learn(2 * ROLLOUT)

    def fail(*_: Any, **__: Any) -> Any:
        raise error("here")

    if place == "stop":
        agent.learn(2 * ROLLOUT, callback=At(3, lambda _: False))
    else:
        callback = At(3, fail) if place == "callback" else None
        with monkeypatch.context() as patch:
            if place == "env":
                patch.setattr(agent.env, "step_wait", fail)
            if place == "train":
                patch.setattr(algorithm, "train", fail)
                patch.setattr("rlsd.speed.update.train", fail)
                patch.setattr("rlsd.speed.off_policy.train", fail)
            with pytest.raises(error, match="here"):
                agent.learn(4 * ROLLOUT, callback=callback)
    assert _left_behind(agent, algorithm) == []
    agent.learn(2 * ROLLOUT)
    assert _left_behind(agent, algorithm) == []


@pytest.mark.parametrize(("algorithm", "kind"), FEW)
def test_what_is_saved_in_a_rollout_is_a_plain_agent(algorithm: type[Any], kind: str, tmp_path: Path) -> None:
    plain = build(algorithm, kind)
    plain.learn(3 * ROLLOUT, callback=At(19, lambda model: model.save(tmp_path / "plain")))
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None)
    agent.learn(3 * ROLLOUT, callback=At(19, lambda model: model.save(tmp_path / "fast")))
    one, other = (algorithm.load(tmp_path / name, device="cpu") for name in ("plain", "fast"))
    assert vars(one).keys() == vars(other).keys()
    assert type(other.policy) is type(one.policy)
    assert not differences(one.get_parameters(), other.get_parameters())
    for name in ("rollout_buffer_class", "replay_buffer_class"):
        assert getattr(one, name, None) is getattr(other, name, None)


@pytest.mark.parametrize(
    ("copier", "algorithm", "kind"),
    [(copier, *case) for case, copier in zip(FEW, cycle([copy.deepcopy, _pickled]), strict=False)],
)
def test_a_copy_is_as_fast_and_trains_alike(algorithm: type[Any], kind: str, copier: Any) -> None:
    agent = build(rlsd.SelfDistilled(algorithm), kind, distill=None, speed=MAX, rollout_device="cpu").learn(ROLLOUT)
    agent.predict(agent._last_obs)  # the graph of the last update is in SB3's action_dist, and refuses to be copied
    twin = copier(agent)
    assert twin.accelerator is not agent.accelerator
    assert (twin.accelerator.speed, twin.accelerator.rollout_device) == (MAX, torch.device("cpu"))
    states = []
    for each in (agent, twin):
        scramble()
        states.append(copied(training_state(each.learn(3 * ROLLOUT, reset_num_timesteps=False))))
    assert not differences(*states)


# Without rollout_device it is the contract's.
@pytest.mark.parametrize(("algorithm", "kind"), [(PPO, "normalized"), (A2C, "box"), (SAC, "normalized")])
def test_resumed_training_on_another_device_is_that_which_never_stopped(
    algorithm: type[Any], kind: str, tmp_path: Path
) -> None:
    device = "cpu"
    made = {"distill": config(), "rollout_device": device}
    whole = build(rlsd.SelfDistilled(algorithm), kind, **made).learn(8 * ROLLOUT)
    expected = copied((training_state(whole), distillation_state(whole)))
    agent = build(rlsd.SelfDistilled(algorithm), kind, **made)
    checkpoints = rlsd.Checkpoints(tmp_path, every=4 * ROLLOUT, keep=10)
    agent.learn(8 * ROLLOUT, callback=checkpoints)
    assert not differences(expected, (training_state(agent), distillation_state(agent)))
    first = min(tmp_path.iterdir(), key=lambda path: int(path.name))
    resumed = rlsd.resume(first, device="cpu", rollout_device=device)
    assert resumed.accelerator.rollout_device == torch.device("cpu")
    done = resumed.num_timesteps
    assert 0 < done < 8 * ROLLOUT
    resumed.learn(8 * ROLLOUT - done, reset_num_timesteps=False)
    assert not differences(expected, (training_state(resumed), distillation_state(resumed)))


# --- The doors ------------------------------------------------------------------------------------


def test_an_agent_is_accelerated_in_place_and_back() -> None:
    agent = build(PPO)
    before = dict(vars(agent))
    with untouched_generators():
        assert rlsd.accelerate(agent, "max", rollout_device="cpu") is agent
    assert type(agent) is rlsd.SelfDistilled(PPO)
    assert agent.accelerator.speed == MAX and agent.distiller is None
    agent.learn(ROLLOUT)
    assert rlsd.accelerate(agent, None) is agent
    assert type(agent) is PPO and vars(agent).keys() >= before.keys()
    assert not {"accelerator", "distiller", "_distill_config"} & vars(agent).keys()
    assert rlsd.accelerate(agent, None) is agent


def test_distillation_and_acceleration_are_switched_apart() -> None:
    agent = rlsd.accelerate(rlsd.distill(build(PPO), config()))
    distiller = agent.distiller
    agent.learn(4 * ROLLOUT)
    assert distiller.deposits > 0
    rlsd.accelerate(agent, None)
    assert agent.distiller is distiller and agent.accelerator is None
    agent.learn(ROLLOUT)
    assert type(rlsd.undistill(agent)) is PPO

    agent = rlsd.distill(rlsd.accelerate(build(PPO), "max"), config())
    assert agent.accelerator.speed == MAX
    assert type(rlsd.undistill(agent)) is PPO


def test_distillation_can_begin_and_end_inside_learn_of_an_accelerated_agent() -> None:
    agent = build(rlsd.SelfDistilled(PPO), distill=None, rollout_device="cpu")
    agent.learn(4 * ROLLOUT, callback=At(3, lambda model: rlsd.distill(model, config())))
    assert agent.distiller.deposits > 0
    agent.learn(4 * ROLLOUT, callback=At(3, rlsd.undistill))
    assert type(agent) is PPO and _left_behind(agent, PPO) == []


@pytest.mark.parametrize("thing", [None, PPO, "PPO", object()])
def test_only_an_agent_can_be_accelerated(thing: Any) -> None:
    with pytest.raises(TypeError, match="accelerate takes an SB3 agent"):
        rlsd.accelerate(thing)


@pytest.mark.parametrize("wrong", ["fast", "", "EXACT", 1, True, ["exact"]])
def test_a_speed_that_is_none_is_an_error_and_changes_nothing(wrong: Any, tmp_path: Path) -> None:
    said = r"speed must be 'exact', 'max', None or a rlsd\.Speed, got "
    agent = build(PPO)
    before = dict(vars(agent))
    with pytest.raises(ValueError, match=said):
        rlsd.accelerate(agent, wrong)
    assert type(agent) is PPO and vars(agent) == before
    with pytest.raises(ValueError, match=said):
        build(rlsd.SelfDistilled(PPO), speed=wrong)
    agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=said):
        rlsd.SelfDistilled(PPO).load(tmp_path / "agent", speed=wrong)


def test_switches_are_checked_where_they_arrive() -> None:
    with pytest.raises(ValueError, match=r"speed\.lean_acting must be True or False, got 1"):
        Speed(lean_acting=1)
    for wrong in (0, 1.5, True, None):
        with pytest.raises(ValueError, match=r"speed\.mirror_every must be a whole number >= 1"):
            Speed(mirror_every=wrong)


def test_the_presets_are_what_they_say() -> None:
    assert resolve_speed("exact") == Speed() == EXACT and EXACT.exact
    assert resolve_speed("max") == MAX and not MAX.exact
    assert resolve_speed(None) is None and resolve_speed(MAX) is MAX
    assert NOTHING.exact and not any(getattr(NOTHING, part) for part in PARTS)


def test_a_loaded_agent_has_the_speed_that_is_asked_for(tmp_path: Path) -> None:
    cls = rlsd.SelfDistilled(PPO)
    agent = build(cls, speed="max", rollout_device="cpu")
    agent.save(tmp_path / "agent")
    loaded = cls.load(tmp_path / "agent", device="cpu")
    assert loaded.accelerator.speed == EXACT and loaded.accelerator.rollout_device is None
    loaded = cls.load(tmp_path / "agent", device="cpu", speed="max", rollout_device="cpu")
    assert loaded.accelerator.speed == MAX and loaded.accelerator.rollout_device == torch.device("cpu")
    assert cls.load(tmp_path / "agent", device="cpu", speed=None).accelerator is None


class Exchanges(BaseCallback):
    """Once, gives the policy another layer, or a layer another parameter: at a rollout's start or in its middle."""

    def __init__(self, layer: str, whole: bool, at_start: bool) -> None:
        super().__init__()
        self.layer, self.whole, self.at_start, self.done = layer, whole, at_start, False

    def _on_rollout_start(self) -> None:
        if self.at_start and self.model.num_timesteps >= 2 * ROLLOUT:
            self._exchange()

    def _on_step(self) -> bool:
        if not self.at_start and self.model.num_timesteps == 2 * ROLLOUT + 6:
            self._exchange()
        return True

    def _exchange(self) -> None:
        if self.done:
            return
        self.done = True
        owner, _, name = self.layer.rpartition(".")
        holder = self.model.policy.get_submodule(owner)
        layer = holder.get_submodule(name)
        if self.whole:
            fresh = torch.nn.Linear(layer.in_features, layer.out_features)
            torch.nn.init.constant_(fresh.weight, 0.3)
            setattr(holder, name, fresh)
        else:
            layer.bias = torch.nn.Parameter(torch.full_like(layer.bias, 0.5))


@pytest.mark.parametrize(
    ("algorithm", "layer", "at_start", "whole"),
    [
        *((PPO, "action_net", at_start, whole) for at_start in (True, False) for whole in (True, False)),
        *((A2C, "mlp_extractor.policy_net.0", at_start, at_start) for at_start in (True, False)),
        *((SAC, "actor.mu", at_start, not at_start) for at_start in (True, False)),
        *((DQN, "q_net.q_net.0", at_start, at_start) for at_start in (True, False)),
    ],
)
def test_a_layer_that_a_callback_exchanges_acts_as_in_plain_sb3(
    algorithm: type[Any], layer: str, at_start: bool, whole: bool
) -> None:
    kind = "box" if algorithm is SAC else "discrete"
    trained = []
    for speed in (None, "exact"):
        agent = rlsd.accelerate(build(algorithm, kind), speed)
        agent.learn(5 * ROLLOUT, callback=(exchanges := Exchanges(layer, whole, at_start)))
        assert exchanges.done
        trained.append(copied(training_state(agent)))
    assert not differences(*trained)
