"""Measure speed: ``python scripts/benchmark.py NAME``, of docs/benchmarks.md (the same as ``rlsd benchmark``)."""

import sys

from rlsd.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
