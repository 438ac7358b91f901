"""``python scripts/benchmark.py NAME``: finds the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from rlsd.cli.main import Command
from rlsd.cli.main import main as run_command

PROGRAM = "python scripts/benchmark.py"

BENCHMARKS = {
    "overhead": Command("benchmarks.overhead", "training with distillation / without, in seconds"),
    "throughput": Command("benchmarks.throughput", "steps/s with distillation / those of SB3, sbx or one file"),
    "board": Command("benchmarks.board", "training with all that TensorBoard shows / without what rlsd adds to it"),
    "scaling": Command("benchmarks.scaling", "time against reservoir, teachers and environments"),
    "scale": Command("benchmarks.scale_model", "steps/s of 1, 2, 4 workers, measured and predicted, and of 1,000"),
    "solve": Command("benchmarks.solve", "seconds from a cold start to a target / those of plain SB3"),
    "successors": Command("benchmarks.successors", "what smaller and reborn agents keep of an agent's return"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and return its exit code, see :func:`rlsd.cli.main.main`."""
    return run_command(argv, BENCHMARKS, PROGRAM)
