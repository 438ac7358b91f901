"""Folders of checkpoints: replaced whole, found again, and checked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from agents import ROLLOUT, distilled
from stable_baselines3 import SAC

import rlsd
from rlsd.io import folders


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of SAC with VecNormalize: all kinds of files."""
    folder = tmp_path_factory.mktemp("made")
    agent = distilled(SAC, "normalized")
    for _ in range(3):
        agent.learn(ROLLOUT, reset_num_timesteps=False)
        rlsd.save_checkpoint(agent, folder / str(agent.num_timesteps))
    return folder


@pytest.fixture
def several(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


# --- Never lost -----------------------------------------------------------------------------------


@pytest.mark.parametrize("aside", [".{}.0123abcd/old", ".{}-x_y1z/old"], ids=["now", "as rlsd 0.1 wrote it"])
@pytest.mark.parametrize("ask", ["latest", "resume", "by its name"])
def test_a_checkpoint_that_was_being_replaced_is_found(several: Path, aside: str, ask: str) -> None:
    """The process was killed after the old one was moved away, and before the new one was in its place."""
    last = rlsd.latest_checkpoint(several)
    hidden = several / aside.format(last.name)
    hidden.parent.mkdir()
    last.rename(hidden)
    if ask == "latest":
        assert rlsd.latest_checkpoint(several) == last
    assert rlsd.resume(last if ask == "by its name" else several).num_timesteps == int(last.name)
    assert last.is_dir()


def test_the_next_save_does_not_clear_away_what_was_being_replaced(several: Path) -> None:
    last = rlsd.latest_checkpoint(several)
    (several / f".{last.name}.0123abcd").mkdir()
    last.rename(several / f".{last.name}.0123abcd" / "old")
    folders.clear_unfinished(several)
    assert folders.damage(last) is None
    assert not list(several.glob(".*"))


def test_what_is_in_its_place_is_not_replaced_by_what_was_there_before(several: Path) -> None:
    last = rlsd.latest_checkpoint(several)
    shutil.copytree(last.parent / str(ROLLOUT), several / f".{last.name}.0123abcd" / "old")
    assert rlsd.resume(several).num_timesteps == int(last.name)


def test_where_the_second_step_fails_the_first_is_taken_back(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = rlsd.latest_checkpoint(several)
    agent, before = rlsd.resume(last), (last / "agent.zip").read_bytes()
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target) == last and Path(source).name != "old":
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        rlsd.save_checkpoint(agent, last)
    assert (last / "agent.zip").read_bytes() == before
    assert not list(several.glob(".*"))


def test_a_folder_has_the_rights_that_any_new_folder_has(several: Path) -> None:
    (several / "other").mkdir()
    assert rlsd.latest_checkpoint(several).stat().st_mode == (several / "other").stat().st_mode


# --- Checksums ------------------------------------------------------------------------------------

FILES = ("agent.zip", "environment.pkl", "generators.json", "checkpoint.json", "replay_buffer.pkl")
FILES += ("vecnormalize.pkl", "SHA256SUMS")


def test_every_file_of_a_checkpoint_has_its_checksum(several: Path) -> None:
    last = rlsd.latest_checkpoint(several)
    assert {path.name for path in last.iterdir()} == set(FILES)
    listed = {line.split()[1] for line in (last / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(FILES) - {"SHA256SUMS"}
    assert folders.damage(last) is None


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_is_found_and_the_file_named(several: Path, name: str) -> None:
    last = rlsd.latest_checkpoint(several)
    older = folders.checkpoints(several)[-2]
    whole = (last / name).read_bytes()
    generator = np.random.default_rng(0)
    for spot in (0, len(whole) - 1, *generator.integers(0, len(whole), 20).tolist()):
        damaged = bytearray(whole)
        damaged[spot] ^= 1 << int(generator.integers(8))
        (last / name).write_bytes(damaged)
        said = folders.damage(last)
        assert said is not None, f"byte {spot} of {name}"
        assert name in said or name == "SHA256SUMS", said
    with pytest.raises(ValueError, match="SHA256SUMS") as caught:
        rlsd.resume(several)
    assert str(caught.value).endswith(f"; {older} is the latest that is whole")
    assert "\n" not in str(caught.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _without_a_line(path: Path) -> None:
    sums = path.with_name("SHA256SUMS")
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if path.name not in line))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [_cut, Path.unlink, _without_a_line], ids=["cut", "removed", "not listed"])
def test_other_harm_is_found_too(several: Path, name: str, harm) -> None:
    last = rlsd.latest_checkpoint(several)
    if harm is _without_a_line and name == "SHA256SUMS":
        pytest.skip("it does not list itself")
    harm(last / name)
    said = folders.damage(last)
    assert said is not None
    assert name in said


def test_of_two_damaged_checkpoints_neither_is_offered(several: Path) -> None:
    first, second, third = folders.checkpoints(several)
    for path in (second, third):
        _cut(path / "agent.zip")
    assert folders.whole_before(third) == first
    assert folders.whole_before(first) is None


def test_files_of_others_in_the_folder_are_no_damage(several: Path) -> None:
    last = rlsd.latest_checkpoint(several)
    (last / "notes.txt").write_text("mine")
    assert folders.damage(last) is None
