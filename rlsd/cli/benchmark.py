"""``rlsd benchmark NAME``: finds the benchmark."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from rlsd.cli.console import say
from rlsd.cli.errors import UserError, choices
from rlsd.cli.main import Command

BENCHMARKS = {
    "overhead": Command("rlsd.cli.benchmarks.overhead", "training with distillation / without, in seconds"),
    "throughput": Command(
        "rlsd.cli.benchmarks.throughput", "steps/s with distillation / those of SB3, sbx or one file"
    ),
    "scaling": Command("rlsd.cli.benchmarks.scaling", "time against reservoir, teachers and environments"),
    "solve": Command("rlsd.cli.benchmarks.solve", "seconds from a cold start to a target / those of plain SB3"),
    "successors": Command("rlsd.cli.benchmarks.successors", "what smaller and reborn agents keep of an agent's return"),
}


def run(argv: Sequence[str]) -> int:
    """Run the benchmark that the first word names, and return its exit code.

    :raises UserError: when there is no such benchmark.
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:<10} {command.summary}" for name, command in BENCHMARKS.items()]
        hint = "rlsd benchmark NAME --help says what a benchmark takes."
        say("\n".join(["usage: rlsd benchmark NAME ...", "", *lines, "", hint]))
        return 0
    if argv[0] not in BENCHMARKS:
        known = choices(argv[0], BENCHMARKS, "benchmarks")
        raise UserError(f"unknown benchmark {argv[0]!r}; {known}")
    exit_code: int = importlib.import_module(BENCHMARKS[argv[0]].module).run(argv[1:])
    return exit_code
