"""Export a saved agent: ``python scripts/export.py logs/ppo/CartPole-v1_1`` (the same as ``rlsd export``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
