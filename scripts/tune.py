"""Search for hyperparameters: ``python scripts/tune.py --env CartPole-v1`` (the same as ``rlsd tune``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
