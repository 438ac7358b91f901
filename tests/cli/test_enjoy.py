"""``rlsd enjoy``."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from rlsd.cli.main import main


def test_it_plays_as_many_steps_as_asked(small_run, capsys):
    # An episode of CartPole has 500 steps at most.
    assert main(["enjoy", str(small_run), "-n", "501", "--no-render"]) == 0
    said = capsys.readouterr().out
    assert "episode 1: return" in said and "Mean return" in said, said
    assert main(["enjoy", str(small_run), "-n", "1", "--no-render", "--stochastic"]) == 0
    assert "No episode ended within 1 steps" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_a_film_has_a_picture_for_each_step(small_run, suffix, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pygame")
    imageio, ffmpeg = pytest.importorskip("imageio.v2"), pytest.importorskip("imageio_ffmpeg")
    monkeypatch.delenv("DISPLAY", raising=False)
    film = tmp_path / "films" / f"film.{suffix}"
    assert main(["enjoy", str(small_run), "-n", "12", "--record", str(film)]) == 0
    assert "50 pictures a second" in capsys.readouterr().out, "CartPole's time"
    assert [path.name for path in film.parent.iterdir()] == [film.name], "something unfinished was left"
    if suffix == "mp4":
        assert ffmpeg.count_frames_and_secs(str(film))[0] == 12, "pictures"
        return
    with imageio.get_reader(film) as found:
        pictures = [np.asarray(picture)[..., :3] for picture in found]
    # What two steps show alike is one picture in a GIF, for twice the time.
    assert 2 < len(pictures) <= 12, "pictures"
    assert pictures[0].shape == (400, 600, 3), "CartPole's size"


def test_without_a_display_it_offers_a_film(small_run, monkeypatch, refused):
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "no display here" in (said := refused("enjoy", str(small_run))) and "--record film.mp4" in said


def test_a_missing_package_is_named_with_its_extra(small_run, monkeypatch, refused):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imageio" else found(name))
    said = refused("enjoy", str(small_run), "--record", "film.mp4")
    assert "imageio" in said and "pip install 'rlsd[video]'" in said


@pytest.mark.parametrize(
    ("words", "hint"),
    [("--record film.avi", ".mp4 or .gif"), ("--record a.gif --no-render", "exclude"), ("-n 0", "--n-timesteps")],
)
def test_wrong_flags_are_one_line(words, hint, small_run, refused):
    assert hint in refused("enjoy", str(small_run), *words.split())
