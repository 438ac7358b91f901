"""Random numbers that nobody else notices: SB3's code draws from the global generators, the distillation must not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def own_generator(seed: int | None, stream: int) -> np.random.Generator:
    """Return a generator for one purpose.

    :param seed: the agent's, None for an arbitrary one.
    :param stream: sets it apart from every other that is made from the same seed.
    """
    return np.random.default_rng(None if seed is None else [seed, stream])


@contextmanager
def private_numbers(seed: int | np.random.Generator) -> Iterator[None]:
    """Seed the global generators for what runs inside, and put them back afterwards.

    :param seed: a number, or the generator that draws one.
    """
    seed = seed if isinstance(seed, int) else int(seed.integers(2**31))
    # SB3 draws from numpy's global generator.
    python, numpy_state, cpu = random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
