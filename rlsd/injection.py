"""The injection: a gradient put into ``.grad`` before the agent's own backward pass adds to it.

Everything that is changed on the optimizer is changed on the instance, while one update runs, and taken back after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

#: A gradient by parameter.
Gradient = Sequence[tuple[nn.Parameter, Tensor]]


class Injected(Protocol):
    """What is injected."""

    def gradients(self) -> Gradient:
        """Return the gradient to inject at this gradient step; empty for none."""

    @property
    def wants_ratio(self) -> bool:
        """Whether the gradient just injected is to be compared with the agent's own."""

    def ratio(self, injected: Tensor, own: Tensor) -> None:
        """Record the norms of the injected gradient and of the agent's own, on the same parameters."""


class Injection:
    """Injects a penalty's gradient whenever an optimizer's gradients are cleared.

    An optimizer has one at a time: what is armed inside another one is injected by that, too, and the gradients add up.

    :param optimizer: the one whose steps train the acting module.
    :param penalty: what is injected.
    """

    def __init__(self, optimizer: Optimizer, penalty: Injected) -> None:
        self._optimizer, self._penalties = optimizer, [penalty]
        self._injected: Gradient = ()
        self._ratios: list[tuple[Injected, Tensor]] = []  # who wants to know a ratio, and the norm of its gradient
        # While somebody does: of each parameter the norm of the agent's own gradient, and what notes it.
        self._own: dict[Tensor, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Inject at each ``zero_grad`` inside, and check at each ``step`` that the gradient is still there.

        :raises RuntimeError: when it is not.
        """
        optimizer = self._optimizer
        had_own = "zero_grad" in optimizer.__dict__
        original = optimizer.zero_grad
        outer: Injection | None = getattr(original, "injection", None)
        if outer is not None:
            outer._penalties += self._penalties
            try:
                yield
            finally:
                outer._penalties = outer._penalties[:-1]
            return

        def zero_grad(set_to_none: bool = True) -> None:
            original(set_to_none=set_to_none)
            self._inject()

        zero_grad.injection = self  # type: ignore[attr-defined]
        handle = optimizer.register_step_pre_hook(self._verify)
        optimizer.__dict__["zero_grad"] = zero_grad
        try:
            yield
        finally:
            handle.remove()
            del optimizer.__dict__["zero_grad"]
            if had_own:
                optimizer.__dict__["zero_grad"] = original
            self._clear()

    def _inject(self) -> None:
        self._clear()
        found = [(penalty, penalty.gradients()) for penalty in self._penalties]
        self._ratios = [(one, norm_of([g for _, g in part])) for one, part in found if part and one.wants_ratio]
        total: dict[nn.Parameter, Tensor] = {}
        for _, part in found:
            for parameter, gradient in part:
                total[parameter] = total[parameter] + gradient if parameter in total else gradient
        self._injected = [*total.items()]
        for parameter, gradient in self._injected:
            parameter.grad = gradient
            if self._ratios:
                self._own[parameter] = torch.zeros((), device=gradient.device)
                arrived = partial(self._compare, gradient.clone())
                self._handles.append(parameter.register_post_accumulate_grad_hook(arrived))

    def _compare(self, injected: Tensor, parameter: Tensor) -> None:
        # The agent's own gradient has arrived on top of what was injected, and the sum is not clipped yet.
        assert parameter.grad is not None
        self._own[parameter] = torch.linalg.vector_norm(parameter.grad.detach() - injected)

    def _verify(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        # Autograd adds to a gradient in place, so what was injected must still be the very same tensors.
        for parameter, gradient in self._injected:
            if parameter.grad is not gradient:
                raise RuntimeError(
                    "the algorithm cleared the gradients between optimizer.zero_grad() and optimizer.step(), "
                    "so the distillation gradient was lost: this algorithm cannot be distilled through its optimizer"
                )
        for penalty, injected in self._ratios:
            penalty.ratio(injected, torch.linalg.vector_norm(torch.stack([*self._own.values()])))
        self._clear()

    def _clear(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._injected, self._ratios, self._handles, self._own = (), [], [], {}


def norm_of(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all numbers of some tensors, one at least."""
    found: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return found


def clip_and_sanitize(
    gradients: Gradient, bound: float | None
) -> tuple[list[tuple[nn.Parameter, Tensor]], Tensor, Tensor]:
    """Clip a gradient to a norm of at most ``bound``; set it to zero where it is not finite. Never synchronizes.

    :param gradients: by parameter, one at least.
    :param bound: None for none.
    :return: the gradient by parameter, whether it was finite, and the factor by which it was shrunk.
    """
    norm = norm_of([g for _, g in gradients])
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
