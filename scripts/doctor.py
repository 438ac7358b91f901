"""Tell what is installed here: ``python scripts/doctor.py`` (the same as ``rlsd doctor``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
