"""Measure speed: ``python scripts/benchmark.py NAME``, see docs/benchmarks.md."""

import sys

from benchmarks.main import main

if __name__ == "__main__":
    sys.exit(main())
