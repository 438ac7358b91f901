"""``rlsd plot``."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest

from rlsd.cli.curves import Curve
from rlsd.cli.main import main
from rlsd.cli.plot import band


@pytest.mark.parametrize(
    "words", ["-x steps", "-x time -y length -w 5", "--evaluations -x time", "-x episodes --separate"]
)
def test_a_picture_of_runs_is_drawn(words, small_run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    target = tmp_path / "pictures" / "curve.svg"
    assert main(["plot", str(small_run), *words.split(), "-o", str(target)]) == 0
    drawn = target.read_text()
    assert drawn.startswith("<?xml") and len(drawn) > 5000, "no picture"
    assert "PPO default" in capsys.readouterr().out


def test_several_runs_are_their_mean_with_an_interval_where_all_have_been():
    curves = [Curve(np.arange(0.0, last), np.zeros(1), np.full(last, value)) for last, value in ((11, 1.0), (21, 3.0))]
    places, mean, (low, high) = band(curves, "steps")
    assert (places[0], places[-1]) == (0.0, 10.0), "the longer one alone is no mean"
    assert (mean == 2.0).all() and (low == 1.0).all() and (high == 3.0).all()


def test_a_run_without_an_episode_is_told_of_and_left_out(small_run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    begun = tmp_path / "ppo" / "CartPole-v1_2"
    shutil.copytree(small_run / "CartPole-v1", begun / "CartPole-v1")
    assert main(["plot", str(small_run), str(tmp_path), "-o", str(tmp_path / "a.png")]) == 0
    assert "left out" in (said := capsys.readouterr()).err and str(begun) in said.err
    assert main(["plot", str(begun), "-o", str(tmp_path / "b.png")]) == 2
    assert "nothing to draw" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("", "which runs?"),
        ("RUN -o curve.txt", "must end with .png"),
        ("RUN -x years", "-x"),
        ("RUN -w 0", "--episode-window"),
        ("RUN --evaluations -x episodes", "--evaluations"),
        ("nowhere", "no run 'nowhere'"),
    ],
)
def test_wrong_input_is_one_line(words, hint, small_run, refused):
    pytest.importorskip("matplotlib")
    assert hint in refused("plot", *words.replace("RUN", str(small_run)).split())


def test_without_matplotlib_it_names_the_extra(small_run, monkeypatch, refused):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert "matplotlib: pip install 'rlsd[plots]'" in refused("plot", str(small_run))
