"""The deposit: a gradient laid down in ``.grad`` before the agent's own backward pass adds to it.

Everything that is changed on the optimizer is changed on the instance, while one update runs, and taken back after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Penalty(Protocol):
    """What is deposited."""

    def gradients(self) -> Sequence[tuple[nn.Parameter, Tensor]]:
        """Return the gradient to deposit at this gradient step, by parameter; empty for none."""

    @property
    def wants_ratio(self) -> bool:
        """Whether the deposit just made is to be compared with the agent's own gradient."""

    def ratio(self, deposited: Tensor, own: Tensor) -> None:
        """Record the norms of the deposited gradient and of the agent's own, on the same parameters."""


class Injection:
    """Deposits a penalty's gradient whenever an optimizer's gradients are cleared.

    :param optimizer: the one whose steps train the acting module.
    :param penalty: what is deposited.
    """

    def __init__(self, optimizer: Optimizer, penalty: Penalty) -> None:
        self._optimizer = optimizer
        self._penalty = penalty
        self._injected: list[tuple[nn.Parameter, Tensor]] = []
        self._comparison: _Comparison | None = None

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Deposit at each ``zero_grad`` inside, and check at each ``step`` that the deposit is still there.

        :raises RuntimeError: when it is not.
        """
        optimizer = self._optimizer
        had_own = "zero_grad" in optimizer.__dict__
        original = optimizer.zero_grad

        def zero_grad(set_to_none: bool = True) -> None:
            original(set_to_none=set_to_none)
            self._inject()

        handle = optimizer.register_step_pre_hook(self._check)
        optimizer.__dict__["zero_grad"] = zero_grad
        try:
            yield
        finally:
            handle.remove()
            del optimizer.__dict__["zero_grad"]
            if had_own:
                optimizer.__dict__["zero_grad"] = original
            self._forget()

    def _inject(self) -> None:
        self._forget()
        for parameter, gradient in self._penalty.gradients():
            parameter.grad = gradient
            self._injected.append((parameter, gradient))
        if self._injected and self._penalty.wants_ratio:
            self._comparison = _Comparison(self._injected)

    def _check(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Autograd adds to a gradient in place, so what was laid down must still be the very same tensors.
        if any(parameter.grad is not gradient for parameter, gradient in self._injected):
            raise RuntimeError(
                "the algorithm cleared the gradients between optimizer.zero_grad() and optimizer.step(), "
                "so the distillation gradient was lost: this algorithm cannot be distilled through its optimizer"
            )
        if self._comparison is not None:
            self._penalty.ratio(*self._comparison.norms())
        self._forget()

    def _forget(self) -> None:
        self._injected.clear()
        if self._comparison is not None:
            self._comparison.remove()
            self._comparison = None


class _Comparison:
    """Measures the agent's own gradient as it arrives on top of a deposit, before the agent clips the sum."""

    def __init__(self, laid: list[tuple[nn.Parameter, Tensor]]) -> None:
        self._deposited = [gradient.clone() for _, gradient in laid]
        self._own = [torch.zeros((), device=gradient.device) for _, gradient in laid]
        self._handles: list[RemovableHandle] = []
        for i, (parameter, _) in enumerate(laid):
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._arrived(i)))

    def _arrived(self, i: int) -> Any:
        def hook(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self._own[i] = torch.linalg.vector_norm(parameter.grad.detach() - self._deposited[i])

        return hook

    def norms(self) -> tuple[Tensor, Tensor]:
        """Return the norms of the deposited gradient and of the agent's own."""
        deposited = torch.stack(torch._foreach_norm(self._deposited))
        return torch.linalg.vector_norm(deposited), torch.linalg.vector_norm(torch.stack(self._own))

    def remove(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()


def clip_and_sanitize(
    gradients: Sequence[tuple[nn.Parameter, Tensor]], bound: float | None
) -> tuple[list[tuple[nn.Parameter, Tensor]], Tensor, Tensor]:
    """Return a gradient shrunk to a norm of at most ``bound``, and all zero where it is not finite.

    Waits for no device.

    :param gradients: by parameter, one at least.
    :param bound: None for none.
    :return: the gradient by parameter, whether it was finite, and the factor by which it was shrunk.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([g for _, g in gradients])))
    finite = torch.isfinite(norm)
    if bound is None:
        return [(p, torch.where(finite, g, 0.0)) for p, g in gradients], finite, torch.ones_like(norm)
    scale = (bound / (norm + 1e-12)).clamp(max=1.0)
    return [(p, torch.where(finite, g * scale, 0.0)) for p, g in gradients], finite, scale


@contextmanager
def eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put every module in evaluation mode, and each back into its own afterwards.

    Else batch norm would learn from replayed states and dropout would draw random numbers. Each flag is set for itself,
    since some algorithms train with part of the policy in evaluation mode.
    """
    training = [module for module in modules if module.training]
    for module in training:
        module.__dict__["training"] = False
    try:
        yield
    finally:
        for module in training:
            module.__dict__["training"] = True
