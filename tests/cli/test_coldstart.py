"""A training starts without torch's compiler, and nobody who wants it later finds it broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_CODE = """
import sys
from rlsd.cli.main import main
quiet = "--no-progress --eval-freq 0 --save-freq 0 --eval-episodes 0".split()
assert main(["train", "--env", "CartPole-v1", "-n", "512", "-f", sys.argv[1], *quiet]) == 0
assert "torch._dynamo" not in sys.modules, "it was imported"

import torch
layer = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(layer.parameters())
assert "torch._dynamo" not in sys.modules, "it was imported"

@torch.compile(backend="eager")
def gradient(x):
    optimizer.zero_grad()
    layer(x).sum().backward()
    return x * 2

assert gradient(torch.ones(2)).tolist() == [2.0, 2.0] and layer.bias.grad.tolist() == [1.0, 1.0]
optimizer.step()
"""


def test_a_training_does_without_the_compiler_which_works_afterwards(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _CODE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
