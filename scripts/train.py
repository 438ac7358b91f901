"""Train an agent: ``python scripts/train.py --env CartPole-v1`` (the same as ``rlsd train``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
