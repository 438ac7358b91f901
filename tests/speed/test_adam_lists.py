"""Adam's steps on lists are torch's: to the last bit, or within rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agents import differences
from torch import nn
from torch.optim import Adam

from rlsd.speed.adam_lists import ListAdam

SHAPES = [(5, 3), (5,), (33, 17), (1,)]


def _pair(**settings: Any) -> tuple[list[nn.Parameter], list[nn.Parameter], Adam, Adam]:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    return ours, theirs, Adam(ours, **settings), Adam(theirs, **settings)


@torch.no_grad()
def _train(steps: ListAdam, optimizer: Adam, theirs: list[nn.Parameter], their_optimizer: Adam, times: int) -> None:
    for _ in range(times):
        with steps.engaged(optimizer):
            for _ in range(2):
                for p, place in zip(theirs, steps.gradients, strict=True):
                    place.normal_()
                    p.grad = place.clone()
                steps.arrive()
                steps.step()
                their_optimizer.step()


@pytest.mark.parametrize("settings", [{}, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}])
@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_torchs(settings: dict[str, Any], fused: bool) -> None:
    ours, theirs, optimizer, their_optimizer = _pair(**settings)
    steps = ListAdam(optimizer, fused)
    _train(steps, optimizer, theirs, their_optimizer, times=20)
    assert optimizer.state_dict()["state"][0]["step"] == 40
    if not fused:
        assert not differences(optimizer.state_dict(), their_optimizer.state_dict())
        assert not differences(list(ours), list(theirs))
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


def test_it_goes_on_from_what_the_optimizer_remembers() -> None:
    ours, theirs, optimizer, their_optimizer = _pair()
    for mine, its in zip(ours, theirs, strict=True):
        mine.grad, its.grad = torch.ones_like(mine), torch.ones_like(its)
    optimizer.step()
    their_optimizer.step()
    _train(ListAdam(optimizer, fused=False), optimizer, theirs, their_optimizer, times=2)
    assert not differences(optimizer.state_dict(), their_optimizer.state_dict())
    assert not differences(list(ours), list(theirs))


def test_it_fits_until_the_optimizer_is_another() -> None:
    ours, _, optimizer, other = _pair()
    steps = ListAdam(optimizer, fused=False)
    assert steps.fits(optimizer)
    assert not steps.fits(other)
    optimizer.param_groups[0]["lr"] = 0.1
    assert steps.fits(optimizer), "the learning rate is looked up at every step"
    optimizer.param_groups[0]["weight_decay"] = 0.1
    assert not steps.fits(optimizer)
    optimizer.param_groups[0]["weight_decay"] = 0
    optimizer.load_state_dict(optimizer.state_dict())
    assert not steps.fits(optimizer), "its state may be anything"
    steps = ListAdam(optimizer, fused=False)
    ours[0].data = ours[0].data.clone()
    assert not steps.fits(optimizer), "its parameters lie elsewhere"
