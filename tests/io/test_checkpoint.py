"""An agent's zip: readable by plain SB3, restored to the last bit, never lost, and distrusted when read."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import struct
import time
import types
import warnings
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from agents import (
    ALGORITHMS,
    ALL_ALGORITHMS,
    ROLLOUT,
    build,
    config,
    copied,
    differences,
    distillation_state,
    distilled,
    make_env,
    training_state,
)
from helpers import small_agent
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm

import rlsd
from rlsd.config import _REGISTRY
from rlsd.io import checkpoint
from rlsd.presets import resolve

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())
SelfDistilledPPO = rlsd.SelfDistilled(PPO)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The zip of an agent that was pulled."""
    agent = distilled().learn(3 * ROLLOUT)
    agent.save(tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def rewritten(path: Path, changes: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """Replace entries of a zip, None to leave one out."""
    with zipfile.ZipFile(path) as archive:
        entries: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (entries | changes).items():
            if data is not None:
                archive.writestr(name, data)
    return path


def stored(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(checkpoint.CONFIG)), safetensors.torch.load(archive.read(checkpoint.STATE))


# --- Beside plain SB3 -----------------------------------------------------------------------------


@every_algorithm
def test_a_plain_zip_is_loaded_and_distilled(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    plain = build(algorithm).learn(3 * ROLLOUT)
    plain.save(tmp_path / "plain")
    agent = rlsd.SelfDistilled(algorithm).load(tmp_path / "plain", env=make_env(), distill=config())
    assert not differences(dict(plain.policy.state_dict()), dict(agent.policy.state_dict()))
    assert agent.distiller.config == config()
    agent.learn(3 * ROLLOUT)
    assert agent.distiller.deposits > 0
    assert rlsd.SelfDistilled(algorithm).load(tmp_path / "plain").distiller.config == resolve(True)


def test_our_zip_holds_sb3s_entries_unchanged(saved: Path, tmp_path: Path) -> None:
    rlsd.undistill(SelfDistilledPPO.load(saved)).save(tmp_path / "plain")
    with zipfile.ZipFile(saved) as ours, zipfile.ZipFile(tmp_path / "plain.zip") as plain:
        assert set(ours.namelist()) - set(plain.namelist()) == {checkpoint.CONFIG, checkpoint.STATE}
        assert json.loads(ours.read("data")).keys() == json.loads(plain.read("data")).keys()


# --- Restored -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [(PPO, "discrete"), (A2C, "gsde"), (PPO, "dict"), (A2C, "normalized"), (PPO, "separate_extractors")],
)
def test_what_is_saved_is_restored_to_the_last_bit(algorithm: type[BaseAlgorithm], kind: str, tmp_path: Path) -> None:
    gated = rlsd.Constant(1.0, gates=rlsd.ReturnGate(margin=0.0, width=1.0))
    agent = distilled(algorithm, kind, distill=config(strength=gated)).learn(3 * ROLLOUT)
    agent.save(tmp_path / "agent")
    again = rlsd.SelfDistilled(algorithm).load(tmp_path / "agent")
    assert again.distiller.config == agent.distiller.config
    assert not differences(distillation_state(agent), distillation_state(again))
    assert not differences(dict(agent.policy.state_dict()), dict(again.policy.state_dict()))
    assert not differences(agent.policy.optimizer.state_dict(), again.policy.optimizer.state_dict())


@pytest.mark.parametrize("algorithm", [A2C])
def test_loaded_and_trained_on_is_trained_on(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    agent = distilled(algorithm).learn(3 * ROLLOUT)
    agent.save(tmp_path / "agent")
    states = []
    for _ in range(2):
        again = rlsd.SelfDistilled(algorithm).load(tmp_path / "agent", env=make_env())
        again.learn(3 * ROLLOUT, reset_num_timesteps=False)
        states.append(copied((training_state(again), distillation_state(again))))
    assert again.distiller.deposits > agent.distiller.deposits
    assert not differences(*states)


_FEW = ((1, 2), (2, 2), (2, 3), (3, 1))
_COUNTS = (*_FEW, *(counts for counts in product((1, 2, 3), (1, 2, 3)) if counts not in _FEW))


@pytest.mark.parametrize(
    ("name", "states", "saved_with", "loaded_with"),
    [
        *(
            pytest.param(*which, *counts, marks=[] if counts in _FEW else [pytest.mark.slow])
            for which in (("PPO", "minibatch"), ("DQN", "replay_buffer"))
            for counts in _COUNTS
        ),
        *(("A2C", "minibatch", *counts) for counts in ((1, 3), (3, 2))),
        *(("RecurrentPPO", "minibatch", *counts) for counts in ((2, 3), (3, 1))),
        *(("DQN", "minibatch", *counts) for counts in ((1, 2), (3, 1))),
        *(
            ("DQN", rlsd.Mixture(parts=[rlsd.ReplayBuffer(), rlsd.Recent(32, 8)]), *counts)
            for counts in ((2, 2), (1, 3), (3, 1))
        ),
        *(("PPO", rlsd.Recent(32, 8), *counts) for counts in ((2, 2), (1, 3))),
        *(("DQN", rlsd.Recent(32, 8), *counts) for counts in ((1, 3), (3, 1))),
    ],
)
def test_it_is_loaded_with_other_environments_as_plain_sb3_is(
    name: str, states: Any, saved_with: int, loaded_with: int, tmp_path: Path
) -> None:
    cls = ALL_ALGORITHMS[name]
    off_policy = {"buffer_size": 20, "learning_starts": 4} if name == "DQN" else {}  # 18 states with 3 environments
    agent = distilled(cls, env=make_env(n_envs=saved_with), distill=config(states=states), **off_policy).learn(80)
    agent.save(tmp_path / "agent")
    again = rlsd.SelfDistilled(cls).load(tmp_path / "agent", env=make_env(n_envs=loaded_with))
    assert again.distiller.teacher.version == agent.distiller.teacher.version
    if saved_with == loaded_with:
        assert not differences(distillation_state(agent), distillation_state(again))
    again.learn(80, reset_num_timesteps=False)
    assert again.distiller.deposits > agent.distiller.deposits
    assert all(torch.isfinite(parameter).all() for parameter in again.policy.parameters())


@pytest.mark.parametrize("n_steps", [4, 16])
def test_it_is_loaded_with_rollouts_of_another_length_as_plain_sb3_is(n_steps: int, tmp_path: Path) -> None:
    agent = distilled(distill=config(states="minibatch")).learn(3 * ROLLOUT)
    agent.save(tmp_path / "agent")
    again = SelfDistilledPPO.load(tmp_path / "agent", env=make_env(), n_steps=n_steps)
    again.learn(6 * ROLLOUT, reset_num_timesteps=False)
    assert again.distiller.deposits > agent.distiller.deposits


@pytest.mark.parametrize("held", [[[0, 1]], [0, 1, -1], [0, 1]])
def test_slots_of_a_minibatch_that_are_none_are_one_clear_error(held: Any, tmp_path: Path) -> None:
    distilled(distill=config(states="minibatch")).learn(3 * ROLLOUT).save(tmp_path / "agent.zip")
    _, tensors = stored(tmp_path / "agent.zip")
    tensors["replay/states/held"] = torch.tensor(held)
    rewritten(tmp_path / "agent.zip", {checkpoint.STATE: safetensors.torch.save(tensors)})
    with pytest.raises(ValueError, match=r"agent\.zip: the saved states do not fit: 16 said, .* found$"):
        SelfDistilledPPO.load(tmp_path / "agent.zip")


def test_an_answer_whose_module_was_not_imported_is_named_with_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_REGISTRY, "teacher", dict(_REGISTRY["teacher"]))
    own = types.ModuleType("my_own_teachers")
    exec("import rlsd\nclass Mine(rlsd.Snapshot, name='mine'):\n    pass", own.__dict__)
    distilled(distill=config(teacher=own.Mine(every=64))).save(tmp_path / "agent")
    del _REGISTRY["teacher"]["mine"]
    said = r"agent\.zip: unknown teacher 'mine'; .*; import my_own_teachers first, where such answers were defined$"
    with pytest.raises(ValueError, match=said):
        SelfDistilledPPO.load(tmp_path / "agent")
    distilled().save(tmp_path / "ours")
    assert "modules" not in stored(tmp_path / "ours.zip")[0]


def test_saving_changes_nothing(tmp_path: Path) -> None:
    agent = distilled(PPO, "gsde").learn(3 * ROLLOUT)
    before = copied((training_state(agent), distillation_state(agent)))
    agent.save(tmp_path / "agent")
    assert not differences(before, (training_state(agent), distillation_state(agent)))


def test_an_agent_saved_with_distillation_off_comes_back_so(tmp_path: Path) -> None:
    agent = build(SelfDistilledPPO, distill=None).learn(ROLLOUT)
    agent.save(tmp_path / "agent")
    assert SelfDistilledPPO.load(tmp_path / "agent").distiller is None
    on = SelfDistilledPPO.load(tmp_path / "agent", env=make_env(), distill=config())
    assert on.learn(3 * ROLLOUT).distiller.deposits > 0


def test_answers_given_on_loading_replace_those_in_the_file(saved: Path) -> None:
    assert SelfDistilledPPO.load(saved, distill=None).distiller is None
    other = SelfDistilledPPO.load(saved, distill=config(strength=0.1))
    assert other.distiller.config == config(strength=0.1)
    assert other.distiller.states.count == 0, "with other answers, teacher and states start over"
    assert SelfDistilledPPO.load(saved, distill=config()).distiller.states.count > 0


def test_a_schedule_that_is_a_function_is_handed_over_again(tmp_path: Path) -> None:
    answers = config(strength=lambda remaining: 0.5 * remaining)
    agent = distilled(distill=answers).learn(3 * ROLLOUT)
    agent.save(tmp_path / "agent")
    assert type(PPO.load(tmp_path / "agent")) is PPO
    with pytest.raises(ValueError, match=r"pass distill=\.\.\. with that function again"):
        SelfDistilledPPO.load(tmp_path / "agent")
    again = SelfDistilledPPO.load(tmp_path / "agent", env=make_env(), distill=answers)
    assert again.distiller.config == answers
    again.learn(3 * ROLLOUT)
    assert again.distiller.deposits > 0


def test_a_zip_goes_through_an_open_file() -> None:
    agent = distilled().learn(3 * ROLLOUT)
    file = io.BytesIO()
    agent.save(file)
    file.seek(0)
    again = SelfDistilledPPO.load(file)
    assert not differences(distillation_state(agent), distillation_state(again))
    file.seek(0)
    assert type(PPO.load(file)) is PPO


def test_a_zip_goes_through_an_open_file_on_disk(tmp_path: Path) -> None:
    agent = distilled().learn(3 * ROLLOUT)
    with (tmp_path / "agent.bin").open("wb") as file:
        agent.save(file)
    with (tmp_path / "agent.bin").open("rb") as file:
        assert not differences(distillation_state(agent), distillation_state(SelfDistilledPPO.load(file)))
    assert not differences(distillation_state(agent), distillation_state(SelfDistilledPPO.load(tmp_path / "agent.bin")))


@pytest.mark.parametrize("as_type", [str, Path])
def test_paths_are_understood_as_sb3_does(tmp_path: Path, as_type: Callable[[Any], Any]) -> None:
    agent = build(SelfDistilledPPO, distill=None)
    agent.save(as_type(tmp_path / "new" / "folder" / "agent"))
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["agent.zip"]
    for name in ("agent", "agent.zip"):
        SelfDistilledPPO.load(as_type(tmp_path / "new" / "folder" / name))
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nothing\.zip"):
        SelfDistilledPPO.load(as_type(tmp_path / "nothing"))


@pytest.mark.parametrize("load", [SelfDistilledPPO.load, lambda path: rlsd.load_weights(path, build(PPO))])
def test_a_name_with_a_dot_in_it_is_found_with_and_without_its_suffix(saved: Path, load: Callable[[Any], Any]) -> None:
    saved.rename(saved.with_name("lr0.5_steps.zip"))
    for name in ("lr0.5_steps", "lr0.5_steps.zip"):
        PPO.load(saved.with_name(name))
        load(saved.with_name(name))
    with pytest.raises(FileNotFoundError, match=r"no such file: .*lr0\.4\.zip$"):
        load(saved.with_name("lr0.4.zip"))


def test_a_new_file_is_readable_by_whom_other_new_files_are(saved: Path) -> None:
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode


def test_sb3s_own_arguments_are_passed_on(saved: Path) -> None:
    agent = SelfDistilledPPO.load(saved, custom_objects={"gamma": 0.5}, tensorboard_log="nowhere")
    assert agent.gamma == 0.5
    assert agent.tensorboard_log == "nowhere"
    assert SelfDistilledPPO.load(saved, None, "cpu", {"gamma": 0.5}, False).gamma == 0.5
    agent.save(saved, exclude=["gamma"])
    with zipfile.ZipFile(saved) as archive:
        assert "gamma" not in json.loads(archive.read("data"))


# --- No file is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "broken",
    ["torch.save", "safetensors.torch.save_file", "zipfile.ZipFile.writestr", "os.fsync", "os.replace"],
)
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: type[BaseException]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("disk full")

    agent = SelfDistilledPPO.load(saved)
    before = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(error, match="disk full"):
            agent.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
    agent.save(saved)
    SelfDistilledPPO.load(saved)


def test_what_cannot_be_pickled_leaves_the_old_file(saved: Path) -> None:
    agent = SelfDistilledPPO.load(saved)
    before = saved.read_bytes()
    agent.window = (line for line in ())  # as SB3 does with whatever a user puts on an agent, it tries to pickle it
    with pytest.raises(TypeError, match="cannot pickle"):
        agent.save(saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


# --- Files that are not what they should be -------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_one_clear_error(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept * len(data))])
    # What is left may end with a whole zip: torch writes the weights as one.
    with pytest.raises(ValueError, match=r"agent\.zip is (damaged|no SB3 zip)") as caught:
        SelfDistilledPPO.load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["data", "policy.pth", checkpoint.CONFIG, checkpoint.STATE])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_flipped_byte_is_found(saved: Path, entry: str, where: float) -> None:
    data = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        info = archive.getinfo(entry)
    name_and_extra = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
    start = info.header_offset + 30 + sum(name_and_extra)
    data[start + int(where * (info.file_size - 1))] ^= 0xFF
    saved.write_bytes(data)
    with pytest.raises(ValueError, match="damaged") as caught:
        SelfDistilledPPO.load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_damage_anywhere_gives_a_valueerror_or_nothing(saved: Path, compression: int) -> None:
    """Whatever byte is wrong, no other kind of error comes out of reading a file."""
    rewritten(saved, {checkpoint.CONFIG: None, checkpoint.STATE: None}, compression)
    whole = saved.read_bytes()
    directory = whole.rindex(b"PK\x05\x06") - 700  # the last entries of the central directory, and the end record
    generator = np.random.default_rng(0)
    spots = [*range(directory, len(whole), 5), *generator.integers(0, len(whole), 60)]
    errors: list[tuple[type[Exception], bool, str]] = []
    for spot in spots:
        for flip in (0x01, 0xFF):
            data = bytearray(whole)
            data[spot] ^= flip
            saved.write_bytes(data)
            try:
                checkpoint.read(saved, PPO)
            except Exception as error:
                errors.append((type(error), str(saved) in str(error), f"byte {spot} ^ {flip:#x}: {error}"))
    assert [error for error in errors if error[:2] != (ValueError, True)] == []
    assert len(errors) > len(spots) / 2


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04"])
def test_no_zip_at_all_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"agent\.zip is damaged or no SB3 zip"):
        SelfDistilledPPO.load(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match="the file is damaged or no SB3 zip"):
        SelfDistilledPPO.load(io.BytesIO(content))


def test_a_zip_of_something_else_is_one_clear_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("holiday.png", b"")
    with pytest.raises(ValueError, match=r"photos\.zip is no SB3 zip"):
        SelfDistilledPPO.load(tmp_path / "photos.zip")


@pytest.mark.parametrize(("one", "other"), [(PPO, A2C), (A2C, PPO)])
@pytest.mark.parametrize("wrap", [True, False])
def test_a_zip_of_another_algorithm_names_both(
    tmp_path: Path, one: type[BaseAlgorithm], other: type[BaseAlgorithm], wrap: bool
) -> None:
    (distilled(one) if wrap else build(one)).save(tmp_path / "agent")
    with pytest.raises(ValueError, match=f"holds an agent of {one.__name__}, not of {other.__name__}"):
        rlsd.SelfDistilled(other).load(tmp_path / "agent")


def test_a_zip_of_an_off_policy_algorithm_names_both(tmp_path: Path) -> None:
    DQN("MlpPolicy", make_env(n_envs=1), buffer_size=10, device="cpu").save(tmp_path / "agent")
    with pytest.raises(ValueError, match="holds an agent of DQN, not of PPO"):
        SelfDistilledPPO.load(tmp_path / "agent")


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("name", ALL_ALGORITHMS)
def test_a_zip_is_its_own_algorithms_alone(tmp_path: Path, name: str, wrap: bool) -> None:
    (small_agent(name, wrap=rlsd.SelfDistilled) if wrap else small_agent(name)).save(tmp_path / "agent.zip")
    for other, algorithm in ALL_ALGORITHMS.items():
        if other == name or {name, other} == {"TD3", "DDPG"}:  # which are one, with other settings
            checkpoint.read(tmp_path / "agent.zip", algorithm)
        else:
            with pytest.raises(ValueError, match=f"holds an agent of {name.replace('DDPG', 'TD3')}, not of "):
                checkpoint.read(tmp_path / "agent.zip", algorithm)


class OwnPolicy(MaskableActorCriticPolicy):
    """A user's policy, whose module says nothing of an algorithm."""


class OwnBuffer(MaskableRolloutBuffer):
    """A user's buffer."""


@pytest.mark.parametrize("own", [{"policy": OwnPolicy}, {"policy": OwnPolicy, "rollout_buffer_class": OwnBuffer}])
def test_a_zip_with_parts_of_the_users_own_is_loaded(tmp_path: Path, own: dict[str, Any]) -> None:
    agent = small_agent("MaskablePPO", **own)
    agent.save(tmp_path / "agent")
    assert type(rlsd.SelfDistilled(MaskablePPO).load(tmp_path / "agent").policy) is OwnPolicy
    with pytest.raises(ValueError, match=r"holds an agent of MaskablePPO.*, not of A2C"):
        rlsd.SelfDistilled(A2C).load(tmp_path / "agent")
    rlsd.distill(agent).save(tmp_path / "agent")
    with pytest.raises(ValueError, match="holds an agent of MaskablePPO, not of PPO"):
        SelfDistilledPPO.load(tmp_path / "agent")


class Delayed(SAC):
    """A user's SAC, with a setting that CrossQ has too."""

    def _setup_model(self) -> None:
        self.policy_delay = 2
        super()._setup_model()


@pytest.mark.parametrize("wrap", [True, False])
def test_a_users_own_subclass_with_more_settings_is_taken_for_what_it_is(tmp_path: Path, wrap: bool) -> None:
    (distilled(Delayed, "box") if wrap else build(Delayed, "box")).save(tmp_path / "agent")
    for algorithm in (SAC, Delayed):
        assert rlsd.SelfDistilled(algorithm).load(tmp_path / "agent").policy_delay == 2


def test_a_users_own_subclass_is_taken_for_what_it_is(tmp_path: Path) -> None:
    class Mine(PPO):
        pass

    distilled(Mine).save(tmp_path / "mine")
    assert type(SelfDistilledPPO.load(tmp_path / "mine")) is SelfDistilledPPO
    with pytest.raises(ValueError, match="holds an agent of PPO, not of A2C"):
        rlsd.SelfDistilled(A2C).load(tmp_path / "mine")


LIES: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "states of another shape": lambda t: t.update({"replay/states/@observation": torch.zeros(48, 5)}),
    "states of another rank": lambda t: t.update({"replay/states/@observation": torch.zeros(48, 3, 2)}),
    "fewer states": lambda t: t.update({"replay/states/@observation": torch.zeros(47, 3)}),
    "more states than fit": lambda t: t.update({"replay/states/@observation": torch.zeros(65, 3)}),
    "no states": lambda t: t.pop("replay/states/@observation"),
    "states under another key": lambda t: t.update({"replay/states/other": t.pop("replay/states/@observation")}),
    "a scalar for states": lambda t: t.update({"replay/states/@observation": torch.zeros(())}),
    "targets of another shape": lambda t: t.update({"replay/targets": torch.zeros(48, 4)}),
    "no targets": lambda t: t.pop("replay/targets"),
    "fewer versions": lambda t: t.update({"replay/versions": torch.zeros(3, dtype=torch.int64)}),
    "a teacher of another shape": lambda t: t.update({"teacher/policy/action_net.weight": torch.zeros(3, 7)}),
    "a teacher that lacks a tensor": lambda t: t.pop("teacher/policy/action_net.weight"),
    "a teacher with one tensor more": lambda t: t.update({"teacher/policy/more": torch.zeros(1)}),
    "no teacher": lambda t: [t.pop(name) for name in list(t) if name.startswith("teacher/")],
    "an unknown part of the teacher": lambda t: t.update({"teacher/elsewhere/x": torch.zeros(1)}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_tensors_that_do_not_fit_are_one_clear_error(
    saved: Path, lie: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    _, tensors = stored(saved)
    lie(tensors)
    rewritten(saved, {checkpoint.STATE: safetensors.torch.save(tensors)})
    with pytest.raises(ValueError, match=r"fit|expected|unknown") as caught:
        SelfDistilledPPO.load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [[10**9, 10**9], [2**62, 8], [-1], [7]])
def test_a_header_that_lies_about_its_tensors_is_one_clear_error(saved: Path, shape: list[int]) -> None:
    header = json.dumps({"replay/targets": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    data = len(header).to_bytes(8, "little") + header + b"\0\0\0\0"
    rewritten(saved, {checkpoint.STATE: data})
    with pytest.raises(ValueError, match="is damaged") as caught:
        SelfDistilledPPO.load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"format": 99}',
        '{"format": 1, "distill": {"teachr": "snapshot"}}',
        '{"format": 1, "distill": 3}',
        '{"format": 1, "distill": {"teacher": {"type": "nobody"}}}',
        '{"format": 1, "distill": {}}',
        '{"format": 1, "distill": {}, "state": []}',
        '{"format": 1, "distill": {}, "state": {"teacher": 3}}',
        "[" * 100_000,
    ],
)
def test_a_config_that_is_wrong_is_one_clear_error(saved: Path, text: str) -> None:
    rewritten(saved, {checkpoint.CONFIG: text.encode()})
    with pytest.raises(ValueError, match=re.escape(str(saved))) as caught:
        SelfDistilledPPO.load(saved)
    assert "\n" not in str(caught.value)


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a negative count": lambda s: s["replay"].update(count=-48),
    "a count that is none": lambda s: s["replay"].update(count="many"),
    "a generator of another kind": lambda s: s["replay"]["generator"].update(bit_generator="MT19937"),
    "a generator without its state": lambda s: s["replay"].update(generator={}),
    "gates that are not there": lambda s: s["strength"].update(gates=[{}]),
    "no replay": lambda s: s.pop("replay"),
    "steps that are none": lambda s: s["penalty"].update(steps=None),
    "an endless number of steps": lambda s: s["penalty"].update(steps=float("inf")),
}


@pytest.mark.parametrize("lie", STATES.values(), ids=STATES.keys())
def test_a_state_that_is_wrong_is_one_clear_error(saved: Path, lie: Callable[[dict[str, Any]], Any]) -> None:
    data, _ = stored(saved)
    lie(data["state"])
    rewritten(saved, {checkpoint.CONFIG: json.dumps(data).encode()})
    with pytest.raises(ValueError, match=re.escape(str(saved))):
        SelfDistilledPPO.load(saved)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_was_put_together_anew_is_loaded_as_it_was_saved(saved: Path, compression: int) -> None:
    whole = SelfDistilledPPO.load(saved)
    rewritten(saved, {"README.txt": b"by hand"}, compression)
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("rlsd/", "")  # what archivers write for a folder
    again = SelfDistilledPPO.load(saved)
    assert not differences(distillation_state(whole), distillation_state(again))
    assert not differences(whole.get_parameters(), again.get_parameters())
    assert SelfDistilledPPO.load(saved, distill=None).distiller is None


@pytest.mark.parametrize("distill", ["as saved", None])
def test_an_object_that_cannot_be_read_is_warned_of_as_sb3_does(saved: Path, distill: Any) -> None:
    with zipfile.ZipFile(saved) as archive:
        data = json.loads(archive.read("data"))
    data["lr_schedule"][":serialized:"] = base64.b64encode(b"cmath\nno_such_thing\n.").decode()
    rewritten(saved, {"data": json.dumps(data, indent=4).encode()}, zipfile.ZIP_DEFLATED)
    kwargs = {} if distill else {"distill": None}
    with pytest.warns(UserWarning, match="Could not deserialize object lr_schedule. Consider using `custom_objects`"):
        agent = SelfDistilledPPO.load(saved, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent = SelfDistilledPPO.load(saved, custom_objects={"lr_schedule": lambda _: 1e-3}, **kwargs)
    agent.set_env(make_env())
    agent.learn(ROLLOUT)


def test_a_bomb_is_refused_before_it_unfolds(saved: Path) -> None:
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb", "w") as entry:
        for _ in range(300):
            entry.write(bytes(10**6))
    with pytest.raises(ValueError, match=r"would unfold into 300\.\d MB, more than the 256\.0 MB.*zip -0"):
        SelfDistilledPPO.load(saved)


def test_a_state_of_endless_empty_tensors_is_refused(saved: Path) -> None:
    names = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(70_000)}
    header = json.dumps(names).encode()
    rewritten(saved, {checkpoint.STATE: struct.pack("<Q", len(header)) + header}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"agent\.zip is damaged: its tensors are described in more than 4\.0 MB"):
        SelfDistilledPPO.load(saved)


def test_reading_the_distillation_runs_no_code(saved: Path) -> None:
    """A pickle in the place of our entries is refused as data, not run."""
    bomb = pickle.dumps(pytest.fail)
    for entry in (checkpoint.CONFIG, checkpoint.STATE):
        copy = saved.with_name("bomb.zip")
        copy.write_bytes(saved.read_bytes())
        rewritten(copy, {entry: bomb})
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.read(copy, PPO)


def test_a_wrong_file_leaves_the_agent_at_hand_alone(saved: Path) -> None:
    agent = distilled().learn(3 * ROLLOUT)
    before = copied((training_state(agent), distillation_state(agent)))
    saved.write_bytes(saved.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        agent.load(saved)
    assert not differences(before, (training_state(agent), distillation_state(agent)))


@pytest.mark.parametrize("year", [1970, 1979, 2108])
def test_a_clock_that_zips_cannot_take_keeps_nothing_from_being_saved(tmp_path, monkeypatch, year):
    agent = distilled().learn(ROLLOUT)
    plain = time.localtime
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time((year, 1, 1, 0, 0, 0, 0, 1, 0)))
    agent.save(tmp_path / "agent.zip")
    monkeypatch.setattr(time, "localtime", plain)
    assert zipfile.time is time, "the clock was not given back"
    loaded = SelfDistilledPPO.load(tmp_path / "agent.zip")
    assert all(map(torch.equal, loaded.policy.parameters(), agent.policy.parameters())), "it is another agent"
