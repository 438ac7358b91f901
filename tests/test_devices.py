"""A device that cannot be used is named in one line, with those that can."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agents import build
from stable_baselines3 import PPO

import rlsd
from rlsd.devices import usable_device


@pytest.mark.parametrize("name", ["gpu0", "cuda:63", "cuda:", "", "meta", "mps:7", None, 3.5])
def test_a_device_that_is_not_here_is_one_clear_line(name: Any) -> None:
    with pytest.raises(ValueError, match="cannot be used on this machine: choose one of cpu") as refused:
        usable_device("rollout_device", name)
    assert "\n" not in str(refused.value) and f"rollout_device={str(name)!r}" in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is here")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="rollout_device='cuda' cannot be used on this machine: choose one of cpu"):
        build(rlsd.SelfDistilled(PPO), rollout_device="cuda")
    agent = build(PPO)
    with pytest.raises(ValueError, match="rollout_device='cuda'"):
        rlsd.accelerate(agent, rollout_device="cuda")
    assert type(agent) is PPO


@pytest.mark.parametrize("name", ["cpu", "auto", torch.device("cpu")])
def test_devices_that_are_here_are_taken(name: Any) -> None:
    assert usable_device("rollout_device", name).type in ("cpu", "cuda")
