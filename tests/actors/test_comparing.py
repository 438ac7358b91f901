"""What adapters are compared by when an agent is built."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import OBSERVATION_SPACES
from torch import nn

from rlsd.actors.comparing import chosen_best, close, imagined, overrides_none, scramble

CPU = torch.device("cpu")
SPACES = OBSERVATION_SPACES | {
    "multidiscrete": spaces.MultiDiscrete([2, 5]),
    "far": spaces.Box(np.float32(7.0), np.float32(9.0), (2,)),
    "narrow": spaces.Box(np.float32(-0.5), np.float32(-0.25), (2,)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "from 3": spaces.Discrete(4, start=3),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_imagined_observations_are_of_the_space_and_near_to_1(space: spaces.Space[Any]) -> None:
    found = imagined(space, 5, np.random.default_rng(0), CPU)
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for key, part in parts.items():
        values = (found[key] if isinstance(found, dict) else found).numpy()
        assert len(values) == 5
        for value in values:
            value = value[0] if isinstance(part, spaces.Discrete) else value
            assert part.contains(np.asarray(value, dtype=part.dtype)[()])
        if np.issubdtype(part.dtype, np.floating):
            assert np.abs(values - np.clip(0.0, part.low, part.high)).max() <= 1.0


def test_answers_are_the_same_up_to_rounding_and_where_both_are_finite() -> None:
    one = torch.tensor([1.0, 100.0, torch.nan, torch.inf])
    assert close(one, torch.tensor([1.0005, 100.5, 3.0, 4.0]))
    assert not close(one, torch.tensor([1.1, 100.0, 3.0, 4.0]))
    assert not close(one, one[:2]), "of another number"


def test_the_best_is_told_from_another_and_a_tie_counts_as_best() -> None:
    scores = torch.tensor([[0.0, 2.0, 2.0], [5.0, 1.0, 0.0]])
    assert chosen_best(scores, torch.tensor([1, 0])) and chosen_best(scores, torch.tensor([2, 0]))
    assert not chosen_best(scores, torch.tensor([0, 0]))


def test_a_method_is_overridden_in_a_class_or_on_the_object() -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    plain, patched = nn.Linear(2, 2), nn.Linear(2, 2)
    patched.forward = lambda x: x
    assert overrides_none(plain, nn.Linear, ("forward",))
    assert not overrides_none(Own(2, 2), nn.Linear, ("forward",))
    assert not overrides_none(patched, nn.Linear, ("forward",))


def test_scrambled_weights_are_others_and_answers_stay_of_a_size() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    scramble(net)
    found = net(torch.rand(50, 100))
    assert 0.1 < found.std() < 10.0
