"""Importing this registers the wrapped algorithms in rl_zoo3, whose ``--gym-packages`` takes it. See docs/zoo.md."""

from rlsd.zoo_registration import register_in_zoo

register_in_zoo()
