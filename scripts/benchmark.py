"""Measure speed: ``python scripts/benchmark.py NAME``, see docs/benchmarks.md."""

import sys

from benchmarks.main import main

from rlsd.cli.main import run_program

if __name__ == "__main__":
    sys.exit(run_program(main))
