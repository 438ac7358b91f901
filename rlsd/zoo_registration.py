"""rl_zoo3 trains with self-distillation: its table of algorithms gets the wrapped ones."""

from __future__ import annotations

import importlib

from rlsd.wrapping import SelfDistilled


def register_in_zoo() -> tuple[str, ...]:
    """Put the wrapped algorithms into rl_zoo3's ``ALGOS``, under the names of the plain ones, and return these.

    ``python -m rl_zoo3.train --algo ppo --env CartPole-v1 --gym-packages rlsd.zoo`` does so before it trains, and
    hyperparameters may then say ``distill``, ``strength`` and the other answers. Zips stay plain.

    :raises ImportError: when rl_zoo3 is not installed.
    """
    algorithms = importlib.import_module("rl_zoo3.utils").ALGOS
    for name, algorithm in algorithms.items():
        algorithms[name] = SelfDistilled(algorithm)
    return tuple(algorithms)
