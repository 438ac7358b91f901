"""How Ray is joined, with a stand-in for Ray."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from rlsd.scaling import ray_cluster


def stand_in(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setattr(ray_cluster, "import_ray", lambda: ray)


def test_without_an_address_a_ray_of_its_own_is_started(monkeypatch):
    asked: list[Any] = []
    stand_in(monkeypatch, lambda address, **_: asked.append(address))
    assert ray_cluster.connect(None, {})
    assert not ray_cluster.connect("auto", {})
    assert asked == ["local", "auto"]


def test_what_the_process_does_at_sigterm_stays(monkeypatch):
    stand_in(monkeypatch, lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    before = signal.getsignal(signal.SIGTERM)
    ray_cluster.connect(None, {})
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("error", [Exception, ConnectionError, RuntimeError])
def test_whatever_ray_says_is_told_in_one_line(monkeypatch, error):
    def init(**_: Any) -> None:
        raise error("timed out\nduring startup")

    stand_in(monkeypatch, init)
    with pytest.raises(ValueError, match=r"^no Ray cluster on this machine: timed out during startup$"):
        ray_cluster.connect(None, {})
