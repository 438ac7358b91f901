"""Fetch an agent from the Hub: ``python scripts/pull.py me/name`` (the same as ``rlsd pull``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["pull", *sys.argv[1:]]))
