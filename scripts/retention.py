"""Measure forgetting: ``python scripts/retention.py --env CartPole-v1`` (the same as ``rlsd retention``)."""

import sys

from rlsd.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["retention", *sys.argv[1:]]))
