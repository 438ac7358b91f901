"""``rlsd demo``: what it runs, what it says and draws, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rlsd.cli import demo, two_tasks
from rlsd.cli.main import main


@pytest.fixture
def short(monkeypatch):
    """Few looks and short episodes of evaluation: what is shown, not how well it is learned."""
    monkeypatch.setattr(demo, "_EPISODES", 1)
    monkeypatch.setattr(demo, "_LOOKS", 2)


def test_it_shows_both_agents_and_leaves_the_picture(tmp_path, capsys, short):
    assert main(["demo", "-n", "1024", "--recipe", "snapshot", "-f", str(tmp_path / "demo")]) == 0
    out, _ = capsys.readouterr()
    assert "rlsd, recipe snapshot" in out and "Task A after B: plain SB3" in out
    assert "</svg>" in (tmp_path / "demo" / "demo.svg").read_text(encoding="utf-8")
    plain, ours = (json.loads((tmp_path / "demo" / f"{name}.json").read_text()) for name in ("plain", "rlsd"))
    assert plain["settings"]["distill"] is None and ours["settings"]["distill"]["teacher"]["type"] == "snapshot"
    assert len(demo.curve(tmp_path / "demo" / "plain.log")) >= 4, "looks at the agent in both tasks"


def test_the_curve_is_read_from_a_log_that_is_still_written(tmp_path):
    log = tmp_path / "log"
    assert demo.curve(log) == []
    log.write_text('warning: something\n{"steps": 8, "a": 1.0, "b": 2.0}\n{"steps": 16, "a"', encoding="utf-8")
    assert demo.curve(log) == [two_tasks.Point(8, 1.0, 2.0)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--recipe snapshott", "unknown recipe 'snapshott'"),
        ("--recipe kickstart", "needs a trained agent"),
        ("-n 10", "must be 1000 or more"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(words, said, tmp_path, capsys):
    assert main(["demo", *words.split(), "-f", str(tmp_path / "demo")]) == 2
    _, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "demo").exists()


def test_an_agent_that_fails_is_named_with_its_last_words(tmp_path, capsys, monkeypatch):
    def fail(launcher, words, log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("no room\n", encoding="utf-8")
        return 1

    monkeypatch.setattr("rlsd.cli.sweep.Launcher.run", fail)
    assert main(["demo", "-f", str(tmp_path / "demo")]) == 1
    assert "plain SB3 came to no end: no room" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_leaves_no_process(tmp_path):
    words = [sys.executable, "-m", "rlsd", "demo", "-f", str(tmp_path / "demo")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("demo/*.log")) and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err == "stopped\n"
