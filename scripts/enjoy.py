"""Enjoy a saved agent: ``python scripts/enjoy.py logs/ppo/CartPole-v1_1`` (the same as ``rlsd enjoy``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["enjoy", *sys.argv[1:]]))
