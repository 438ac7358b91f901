"""Evaluate a saved agent: ``python scripts/evaluate.py logs/ppo/CartPole-v1_1`` (the same as ``rlsd evaluate``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
