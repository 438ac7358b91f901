"""``scripts/experiments/chaos.py``: runs that are killed end as those that nobody killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "experiments" / "chaos.py"


def chaos(*words):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, env=environment
    )


def kills(done):
    return sum(
        int(line.split(" kills in ")[0].split()[-1]) for line in done.stdout.splitlines() if " kills in " in line
    )


def test_a_few_kills_change_nothing():
    done = chaos("--runs", "ppo-vecnormalize", "--kills", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills(done) >= 1, done.stdout  # a moment drawn at random may lie after the end of a short training


@pytest.mark.slow
def test_what_differs_is_told(tmp_path):
    """The campaign can fail: with evaluations that are not repeatable it does."""
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import random\nimport stable_baselines3.common.callbacks as callbacks\n"
        "own = callbacks.evaluate_policy\n"
        "def otherwise(*words, **named):\n"
        "    returns, lengths = own(*words, **named)\n"
        "    return [r + random.SystemRandom().random() for r in returns], lengths\n"
        "callbacks.evaluate_policy = otherwise\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        done = chaos("--runs", "ppo", "--kills", "1")
    finally:
        sys.path.remove(str(tmp_path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "evaluations results" in done.stdout, done.stdout


@pytest.mark.slow
def test_a_hundred_kills_change_nothing():
    done = chaos("--kills", "100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills(done) >= 100, done.stdout


@pytest.mark.slow
def test_a_checkpoint_that_takes_anothers_place_is_never_lost():
    done = chaos("--runs", "replace", "--every")
    assert done.returncode == 0, done.stdout + done.stderr
    assert kills(done) > 30, done.stdout
