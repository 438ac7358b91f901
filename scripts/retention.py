"""Measure forgetting: ``python scripts/retention.py --env CartPole-v1``, see docs/retention.md."""

import sys

from experiments.retention import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
