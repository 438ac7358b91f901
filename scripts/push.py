"""Push an agent to the Hub: ``python scripts/push.py logs/ppo/CartPole-v1_1 --repo me/name`` (as ``rlsd push``)."""

import sys

from rlsd.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
