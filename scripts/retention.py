"""Measure forgetting: ``python scripts/retention.py --env CartPole-v1``, see docs/retention.md."""

import sys

from experiments.retention import main

from rlsd.cli.main import run_program

if __name__ == "__main__":
    sys.exit(run_program(lambda: main(sys.argv[1:])))
