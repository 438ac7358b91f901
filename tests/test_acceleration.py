"""What makes an agent faster registers itself: the doors know it by what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from agents import ROLLOUT, build
from stable_baselines3 import PPO

import rlsd
from rlsd import acceleration


class Watched:
    """An acceleration that accelerates nothing and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def check(self, agent: Any) -> None:
        self.asked.append("check")

    def learning(self, agent: Any) -> Any:
        self.asked.append("learning")
        return nullcontext()

    def collecting(self, agent: Any) -> Any:
        self.asked.append("collecting")
        return nullcontext()

    def update(self, agent: Any, train: Callable[[], None]) -> None:
        self.asked.append("update")
        train()

    def as_trained(self, agent: Any) -> Any:
        return nullcontext()

    def state_of(self, agent: Any) -> dict[str, Any]:
        return vars(agent)

    def release(self, agent: Any) -> None:
        self.asked.append("release")


def test_an_acceleration_of_ones_own_is_asked_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setattr(acceleration, "_MAKERS", [])
    acceleration.register(lambda speed, rollout_device: watched)
    agent = build(rlsd.SelfDistilled(PPO), distill=None)
    agent.learn(2 * ROLLOUT)
    assert watched.asked == ["check", "learning", *["collecting", "update"] * 2]
    rlsd.undistill(agent)
    assert watched.asked[-1] == "release"


def test_without_another_it_is_ours() -> None:
    ours = acceleration.accelerator_for("exact", None)
    assert ours is not None and ours.__class__.__module__ == "rlsd.speed.accelerator"
    assert acceleration.accelerator_for(None, None) is None
