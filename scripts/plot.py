"""Draw learning curves: ``python scripts/plot.py logs/ppo/CartPole-v1_1`` (the same as ``rlsd plot``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["plot", *sys.argv[1:]]))
