"""The benchmark for a GPU runs on a machine without one, so that it runs when there is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from benchmarks import gpu


def test_every_case_is_timed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--quick", "--json", str(tmp_path / "gpu.json")]) == 0
    written = json.loads((tmp_path / "gpu.json").read_text())
    for case in gpu.CASES:
        (pair,) = written[case.name]["pairs"]
        assert pair["rlsd"]["steps"] == pair["sb3"]["steps"] == case.quick
    assert written["tests"] == "left out"
    assert "sac-max: wall-clock" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has one")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main([])
    assert "no such device" in capsys.readouterr().err
