"""The small classifier that tells states met now from stored ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agents import untouched_generators

from rlsd.teachers.discriminator import Discriminator


def normal(n: int, mean: float, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, 1.0, (n, 3)).astype(np.float32))


def make(seed: int = 0) -> Discriminator:
    return Discriminator(3, np.random.default_rng(seed), torch.device("cpu"))


def trained(now: torch.Tensor, stored: torch.Tensor, steps: int = 300) -> Discriminator:
    made = make()
    made.train(now, stored, steps, 128)
    return made


def test_it_learns_the_share_of_the_density_that_is_met_now():
    now, stored = normal(4000, 0.0, 1), normal(4000, 1.0, 2)
    found = trained(now, stored, 1000).probability(stored)
    # For two unit normals the log odds are linear: log N(x; 0) - log N(x; 1) = sum(1/2 - x).
    expected = torch.sigmoid((0.5 - stored).sum(-1))
    assert (found - expected).abs().mean() < 0.05


def test_states_of_the_same_kind_get_a_half():
    made = trained(normal(4000, 0.0, 1), normal(4000, 0.0, 2))
    assert made.probability(normal(1000, 0.0, 3)).mean().item() == pytest.approx(0.5, abs=0.05)
    assert made.accuracy < 0.6


def test_states_that_are_met_no_more_get_almost_nothing_whatever_their_scale():
    old, now = 1e4 * normal(2000, 0.0, 1), 1e4 * normal(2000, 8.0, 2)
    made = trained(now, torch.cat([old, now]))
    assert made.probability(old).max() < 0.1
    assert made.probability(now).min() > 0.3


def test_an_input_that_never_varies_does_no_harm():
    now, stored = normal(500, 0.0, 1), normal(500, 3.0, 2)
    now[:, 0] = stored[:, 0] = 7.0
    made = trained(now, stored)
    assert torch.isfinite(made.probability(stored)).all()
    assert made.accuracy > 0.9


def test_it_draws_from_its_own_generator_only():
    with untouched_generators():
        trained(normal(300, 0.0, 1), normal(300, 1.0, 2), steps=3)


def test_saved_and_taken_up_it_goes_on_as_if_never_stopped():
    now, stored = normal(300, 0.0, 1), normal(300, 1.0, 2)
    straight = make()
    straight.train(now, stored, 5, 64)
    saved = {name: tensor.clone() for name, tensor in straight.tensors().items()}
    other = make(seed=9)
    other.load(saved)
    other._generator.bit_generator.state = straight._generator.bit_generator.state
    for one in (straight, other):
        one.train(now, stored, 5, 64)
    assert torch.equal(straight.probability(stored), other.probability(stored))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="discriminator"):
        make().load(Discriminator(4, np.random.default_rng(0), torch.device("cpu")).tensors())
