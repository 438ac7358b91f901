"""Adam's steps for gradients made by hand, on the parameters where they lie: for updates of one gradient step or two.

:class:`rlsd.speed.adam.FlatAdam` moves the parameters into one vector and back, which pays over many steps only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim import optimizer as _everywhere

_SETTINGS = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "capturable", "differentiable", "foreach", "fused")


class ListAdam:
    """The steps of one Adam optimizer, while it is :meth:`engaged`.

    :param optimizer: one that :func:`rlsd.speed.adam.can_flatten` accepts.
    :param fused: step with torch's fused kernel, which rounds otherwise.
    """

    def __init__(self, optimizer: Adam, fused: bool) -> None:
        self._fused = fused
        self.parameters: list[nn.Parameter] = list(optimizer.param_groups[0]["params"])
        self._values = [p.detach() for p in self.parameters]
        #: Where each parameter's gradient belongs.
        self.gradients = [torch.zeros_like(value) for value in self._values]
        self._places = {id(p): place for p, place in zip(self.parameters, self.gradients, strict=True)}
        self._counters = [torch.zeros(())] * len(self.parameters)
        self._settings = _settings(optimizer)
        self._state: Any = optimizer.state

    def place(self, parameter: nn.Parameter) -> Tensor:
        """Return where the gradient of a parameter belongs.

        :raises KeyError: when the optimizer does not train it.
        """
        return self._places[id(parameter)]

    def fits(self, optimizer: Optimizer) -> bool:
        """Tell whether this may make an optimizer's steps still: it is as it was when this was made."""
        theirs = optimizer.param_groups[0]["params"]
        return (
            optimizer.state is self._state
            and "step" not in optimizer.__dict__
            and len(theirs) == len(self.parameters)
            and all(p is q for p, q in zip(theirs, self.parameters, strict=True))
            and all(p.data_ptr() == v.data_ptr() for p, v in zip(self.parameters, self._values, strict=True))
            and _settings(optimizer) == self._settings
        )

    @contextmanager
    def engaged(self, optimizer: Adam) -> Iterator[None]:
        """Let :meth:`step` make the optimizer's steps inside."""
        self._optimizer, self._group = optimizer, optimizer.param_groups[0]
        self._states = [optimizer.state[p] for p in self.parameters]
        for state, p in zip(self._states, self.parameters, strict=True):
            if not state:  # as Adam makes it at its first step
                state["step"] = torch.zeros((), dtype=torch.get_default_dtype())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        self._means = [state["exp_avg"] for state in self._states]
        self._squares = [state["exp_avg_sq"] for state in self._states]
        began = self._steps = self._states[0]["step"].item()
        self._use_places()
        try:
            yield
        finally:
            if self._steps != began:
                for state in self._states:
                    state["step"].fill_(self._steps)
            del self._optimizer, self._group, self._states, self._means, self._squares

    def _use_places(self) -> None:
        self._used = self.gradients
        for p, place in zip(self.parameters, self.gradients, strict=True):
            p.grad = place

    def clear(self) -> None:
        """Let whoever wraps ``zero_grad`` put down a gradient, as SB3 does before a backward pass."""
        if "zero_grad" in self._optimizer.__dict__:
            with torch.enable_grad():  # as SB3 calls it
                self._optimizer.zero_grad()

    def arrive(self) -> list[Tensor]:
        """Add what is written in the places to what was put down, tell who asked to be told, and return the sums."""
        if "zero_grad" in self._optimizer.__dict__:
            self._meet()
        for p in self.parameters:
            hooks: Any = p._post_accumulate_grad_hooks
            if hooks:
                for hook in tuple(hooks.values()):
                    hook(p)
        return self._used

    def _meet(self) -> None:
        laid, own = [], []
        for p, place in zip(self.parameters, self.gradients, strict=True):
            if p.grad is None:
                p.grad = place
            elif p.grad is not place:
                laid.append(p.grad)
                own.append(place)
        if laid:  # autograd adds in place, too
            torch._foreach_add_(laid, own)
        self._used = [cast(Tensor, p.grad) for p in self.parameters]

    def step(self) -> None:
        """Make one step with the gradients that have arrived, and call who asked to be told of steps."""
        optimizer: Any = self._optimizer
        self._tell(_everywhere._global_optimizer_pre_hooks, optimizer._optimizer_step_pre_hooks)
        self._steps += 1.0
        if self._fused:
            self._step_fused()
        else:
            self._step_exactly()
        self._tell(optimizer._optimizer_step_post_hooks, _everywhere._global_optimizer_post_hooks)

    def _tell(self, *hooks: dict[int, Any]) -> None:
        for hook in [hook for some in hooks for hook in some.values()]:
            with torch.enable_grad():  # as torch calls them
                hook(self._optimizer, (self._optimizer,), {})

    def _step_exactly(self) -> None:
        # torch.optim.adam._single_tensor_adam, operation by operation.
        group, gradients, squares = self._group, self._used, self._squares
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(self._means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        step_size = group["lr"] / (1 - beta1**self._steps)
        scratch = torch._foreach_sqrt(squares)
        torch._foreach_div_(scratch, (1 - beta2**self._steps) ** 0.5)
        torch._foreach_add_(scratch, group["eps"])
        torch._foreach_addcdiv_(self._values, self._means, scratch, -step_size)

    def _step_fused(self) -> None:
        group = self._group
        beta1, beta2 = group["betas"]
        self._counters[0].fill_(self._steps)
        torch._fused_adam_(
            *(self._values, self._used, self._means, self._squares, [], self._counters),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def _settings(optimizer: Optimizer) -> tuple[Any, ...]:
    (group, *more) = optimizer.param_groups
    return len(more), *(group[name] for name in _SETTINGS)
