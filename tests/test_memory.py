"""What would not fit in memory is refused before it is allocated, in a line that says what to do."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from agents import DICT, IMAGE_CHW, VECTOR, build
from gymnasium import spaces
from stable_baselines3 import PPO

import rlsd
from rlsd import memory

CPU = torch.device("cpu")
ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (VECTOR, 12),
        (spaces.Box(-1, 1, (3,), np.float64), 12),
        (spaces.Box(0, 9, (3,), np.uint16), 12),
        (spaces.Box(0, 9, (3,), np.uint64), 24),
        (IMAGE_CHW, 36 * 36 * 3),
        (DICT, 36 * 36 * 3 + 12),
        (spaces.Discrete(5), 8),
        (spaces.MultiDiscrete([2, 3]), 16),
        (spaces.MultiBinary(4), 4),
    ],
)
def test_bytes_of_a_state(space: Any, expected: int) -> None:
    assert memory.observation_bytes(space) == expected


@pytest.mark.parametrize("kind", ["discrete", "image_chw", "dict", "discrete_observations"])
def test_the_bytes_foretold_are_those_taken(kind: str) -> None:
    agent = build(rlsd.SelfDistilled(PPO), kind, distill=rlsd.recipe("snapshot", states=rlsd.Reservoir(30, 8)))
    agent.learn(16)
    assert agent.distiller.states.nbytes == 30 * memory.observation_bytes(agent.observation_space)


def test_a_million_images_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "8GB")
    with pytest.raises(ValueError, match="RLSD_MEMORY_BUDGET") as refused:
        memory.check_states(1_000_000, ATARI, CPU)
    message = str(refused.value)
    assert "\n" not in message
    assert "28.2 GB" in message and "budget of 8.0 GB" in message and "RLSD_MEMORY_BUDGET=29GB" in message
    lower = int(re.search(r"lower states.capacity to (\d+)", message)[1])
    memory.check_states(lower, ATARI, CPU)
    with pytest.raises(ValueError, match="budget"):
        memory.check_states(lower + 1, ATARI, CPU)


def test_where_not_even_one_fits_nothing_lower_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "100")
    with pytest.raises(ValueError, match=r"budget of 100 bytes: set RLSD_MEMORY_BUDGET \(for example"):
        memory.check_states(2, ATARI, CPU)


def test_an_agent_is_refused_when_it_is_built_and_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, "100")
    with pytest.raises(ValueError, match=r"states\.capacity=20000 states .* take 240\.0 KB on cpu"):
        build(rlsd.SelfDistilled(PPO), distill="guard")
    agent = build(PPO)
    with pytest.raises(ValueError, match="budget of 100 bytes"):
        rlsd.distill(agent)
    assert type(agent) is PPO


@pytest.mark.parametrize(("said", "expected"), [("12", 12), ("8GB", 8 * 10**9), (" 1.5 kb", 1500), ("1e3B", 1000)])
def test_the_budget_can_be_said(said: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, said)
    assert memory.budget(CPU) == expected


@pytest.mark.parametrize("said", ["", "much", "-1GB", "8 GBit", "nan"])
def test_a_budget_that_is_none_is_an_error(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, said)
    with pytest.raises(ValueError, match="RLSD_MEMORY_BUDGET must be bytes or a number with KB, MB, GB or TB"):
        memory.budget(CPU)


def test_the_budget_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    assert memory.budget(CPU) > 10**6
    monkeypatch.setattr(memory, "_machine", lambda: 1000)
    monkeypatch.setattr(memory, "_container", lambda: 600)
    assert memory.budget(CPU) == 300
    monkeypatch.setattr(memory, "_container", lambda: None)
    assert memory.budget(CPU) == 500
    monkeypatch.setattr(memory, "_machine", lambda: None)
    assert memory.budget(CPU) is None
    memory.check_states(10**15, ATARI, CPU)  # where nothing can be told, nothing is refused
