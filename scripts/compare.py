"""Compare variants: ``python scripts/compare.py --env CartPole-v1`` (the same as ``rlsd compare``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
