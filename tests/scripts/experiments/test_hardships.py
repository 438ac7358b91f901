"""``scripts/experiments/hardships.py``: in every hardship a run is saved or says so, and goes on after it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="hardships are brought about in forked processes")


def endure(*words):
    """Run the hardships whose names hold these words, and return the lines of the table."""
    script = ROOT / "scripts" / "experiments" / "hardships.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout.splitlines()[1:]


def test_a_run_endures_a_full_disk():
    assert len(endure("100 kB")) == 1, "there is no such hardship, or more than one"


@pytest.mark.slow
def test_a_run_endures_all():
    assert len(endure()) > 40, "hardships are missing"
