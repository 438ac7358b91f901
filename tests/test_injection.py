"""The deposit on its own, on a bare optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlsd.injection import Injection, clip_and_sanitize, eval_mode


class Pull:
    """A penalty that pulls every weight of a module with a fixed gradient."""

    def __init__(self, module: nn.Module, gradient: float = 2.0, wants_ratio: bool = False) -> None:
        self.module = module
        self.gradient = gradient
        self.wants_ratio = wants_ratio
        self.asked = 0
        self.ratios: list[tuple[float, float]] = []

    def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        self.asked += 1
        if self.gradient == 0.0:
            return ()
        return [(p, torch.full_like(p, self.gradient)) for p in self.module.parameters()]

    def ratio(self, deposited: Tensor, own: Tensor) -> None:
        self.ratios.append((float(deposited), float(own)))


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.fixture
def optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def loss(module: nn.Module) -> Tensor:
    return module(torch.ones(4, 3)).square().sum()


def own_gradients(module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss(module), list(module.parameters())))


def clean(optimizer: torch.optim.Optimizer, module: nn.Module) -> bool:
    hooks = [p._post_accumulate_grad_hooks for p in module.parameters()]
    return "zero_grad" not in optimizer.__dict__ and not optimizer._optimizer_step_pre_hooks and not any(hooks)


def test_the_gradient_is_the_sum_of_both(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    own = own_gradients(module)
    with Injection(optimizer, Pull(module)).armed():
        optimizer.zero_grad()
        loss(module).backward()
        for parameter, gradient in zip(module.parameters(), own, strict=True):
            torch.testing.assert_close(parameter.grad, gradient + 2.0, rtol=0, atol=0)
        optimizer.step()


@pytest.mark.parametrize("set_to_none", [True, False])
def test_old_gradients_are_cleared_before_the_deposit(
    module: nn.Module, optimizer: torch.optim.Optimizer, set_to_none: bool
) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    with Injection(optimizer, Pull(module)).armed():
        optimizer.zero_grad(set_to_none=set_to_none)
    assert all(torch.equal(p.grad, torch.full_like(p, 2.0)) for p in module.parameters())


def test_each_clearing_deposits_once(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    pull = Pull(module)
    with Injection(optimizer, pull).armed():
        for _ in range(3):
            optimizer.zero_grad()
            loss(module).backward()
            optimizer.step()
    assert pull.asked == 3


def test_no_gradient_leaves_the_agents_own_step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    expected = [p.detach() - 0.1 * g for p, g in zip(module.parameters(), own_gradients(module), strict=True)]
    with Injection(optimizer, Pull(module, gradient=0.0)).armed():
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()
    for parameter, value in zip(module.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)


def test_a_wiped_deposit_is_an_error(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with Injection(optimizer, Pull(module)).armed():
        optimizer.zero_grad()
        module.zero_grad()
        loss(module).backward()
        with pytest.raises(RuntimeError, match="cleared the gradients"):
            optimizer.step()
    assert clean(optimizer, module)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("moment", ["before", "deposited", "backward"])
def test_nothing_stays_behind_whatever_happens(
    module: nn.Module, optimizer: torch.optim.Optimizer, error: type[BaseException], moment: str
) -> None:
    def update() -> None:
        with Injection(optimizer, Pull(module, wants_ratio=True)).armed():
            assert not clean(optimizer, module), "armed, the optimizer is patched"
            if moment == "before":
                raise error
            optimizer.zero_grad()
            if moment == "deposited":
                raise error
            loss(module).backward()
            raise error

    with pytest.raises(error):
        update()
    assert clean(optimizer, module)


def test_someone_elses_patch_is_put_back(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    calls = []
    real = optimizer.zero_grad

    def theirs(set_to_none: bool = True) -> None:
        calls.append(set_to_none)
        real(set_to_none=set_to_none)

    optimizer.__dict__["zero_grad"] = theirs
    with Injection(optimizer, Pull(module)).armed():
        optimizer.zero_grad()
    assert calls == [True]
    assert optimizer.__dict__["zero_grad"] is theirs


def test_a_failing_penalty_leaves_nothing_behind(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    class Failing(Pull):
        def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
            raise ValueError("no gradient today")

    with pytest.raises(ValueError, match="no gradient today"), Injection(optimizer, Failing(module)).armed():
        optimizer.zero_grad()
    assert clean(optimizer, module)


def test_the_ratio_compares_both_gradients_before_the_clip(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    pull = Pull(module, wants_ratio=True)
    own = torch.cat([g.flatten() for g in own_gradients(module)]).norm()
    with Injection(optimizer, pull).armed():
        optimizer.zero_grad()
        loss(module).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.01)
        optimizer.step()
    ((deposited, measured),) = pull.ratios
    assert deposited == pytest.approx(2.0 * 8**0.5), "8 weights, pulled by 2 each"
    assert measured == pytest.approx(float(own), rel=1e-5)
    assert clean(optimizer, module)


@pytest.mark.parametrize(
    ("slope", "bound", "left", "whole"),
    [(3.0, None, 1.0, True), (3.0, 60.0, 1.0, True), (3.0, 6.0, 0.5, True), (float("inf"), 6.0, 0.0, False)],
)
def test_a_gradient_is_shrunk_as_one_and_dropped_as_one(slope: float, bound: Any, left: float, whole: bool) -> None:
    pairs = [(nn.Parameter(torch.zeros(n)), torch.full((n,), 3.0)) for n in (6, 10)]  # the norm is 12
    pairs[0][1][0] = slope
    found, finite, scale = clip_and_sanitize(pairs, bound)
    assert bool(finite) is whole
    assert [parameter for parameter, _ in found] == [parameter for parameter, _ in pairs]
    torch.testing.assert_close(torch.cat([gradient for _, gradient in found]), torch.full((16,), 3.0 * left))
    assert float(scale) == pytest.approx(left)


def test_evaluation_mode_comes_and_goes_for_each_module_by_itself() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(0.5), nn.ReLU()))
    net.train()
    net[1].eval()
    net[2][0].eval()
    before = {name: m.training for name, m in net.named_modules()}
    with eval_mode(list(net.modules())):
        assert not any(m.training for m in net.modules())
    assert {name: m.training for name, m in net.named_modules()} == before

    with pytest.raises(KeyboardInterrupt), eval_mode(net.modules()):
        raise KeyboardInterrupt
    assert {name: m.training for name, m in net.named_modules()} == before


def test_one_that_is_armed_inside_another_adds_up_and_each_is_told_its_own_ratio(
    module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    own = own_gradients(module)
    size = sum(p.numel() for p in module.parameters()) ** 0.5
    first, second, idle = Pull(module, 2.0, wants_ratio=True), Pull(module, 0.5, wants_ratio=True), Pull(module, 0.0)
    with Injection(optimizer, first).armed(), Injection(optimizer, idle).armed():
        with Injection(optimizer, second).armed():
            optimizer.zero_grad()
            loss(module).backward()
            for parameter, gradient in zip(module.parameters(), own, strict=True):
                torch.testing.assert_close(parameter.grad, gradient + 2.5)
            optimizer.step()
        optimizer.zero_grad()
        assert all(torch.equal(p.grad, torch.full_like(p, 2.0)) for p in module.parameters())
    norm = float(torch.cat([gradient.flatten() for gradient in own]).norm())
    assert first.ratios == [pytest.approx((2.0 * size, norm))]
    assert second.ratios == [pytest.approx((0.5 * size, norm))]
    assert (first.asked, second.asked, idle.asked) == (2, 1, 2)
    assert clean(optimizer, module)
