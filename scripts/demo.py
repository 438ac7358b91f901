"""A task kept that plain SB3 forgets: ``python scripts/demo.py`` (the same as ``rlsd demo``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
