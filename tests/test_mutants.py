"""Structural mutants of the pickles inside zips, and bombs: no code runs, no agent is half changed, all is bounded."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "experiments" / "mutants.py"
pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by /proc"),
    pytest.mark.filterwarnings("ignore"),  # zipfile's about names that stand twice
]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["mutants"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_hundred_mutants_run_no_code_and_leave_no_agent_half_changed():
    mutants, _ = script().campaign(100, with_bombs=False)
    assert mutants.good, str(mutants)
    assert mutants.files == 100
    assert 0 < mutants.read < 75, "mutants that are all read, or all refused, try nothing"


def test_the_watch_sees_code_that_runs(tmp_path):
    module = script()
    module.Watch.install()
    module.Watch.events = []
    (tmp_path / "made").mkdir()
    seen, module.Watch.events = module.Watch.events, None
    assert any("os.mkdir" in event for event in seen)


@pytest.mark.slow
def test_ten_thousand_mutants_and_bombs_keep_the_promises():
    for tally in script().campaign(10_000, with_bombs=True):
        assert tally.good, str(tally)
