"""Adam on all parameters at once: as one vector, bit for bit what torch does to one tensor after the other.

Each of Adam's operations treats every number for itself, so it may as well run once over all of them. For the networks
of most tasks this is a tenth of the work, which is nearly all overhead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim import optimizer as _everywhere

#: Floats. Each parameter begins where a vector register and a cache line do, as if it had storage of its own.
ALIGNMENT = 16
_PLAIN = {"amsgrad": False, "maximize": False, "capturable": False, "differentiable": False, "weight_decay": 0}


class FlatAdam:
    """The steps of one Adam optimizer, while it is :meth:`engaged`.

    Meanwhile the parameters are views of one vector. Before and after, parameters and the optimizer's state have the
    storage they had: copies and saved files know nothing of it.

    :param optimizer: one that :func:`can_flatten` accepts.
    :param fused: step with torch's fused kernel, which rounds otherwise.
    """

    def __init__(self, optimizer: Adam, fused: bool = False) -> None:
        self.fused = fused
        self.parameters: list[nn.Parameter] = list(optimizer.param_groups[0]["params"])
        sizes = [-(-p.numel() // ALIGNMENT) * ALIGNMENT for p in self.parameters]
        rows = torch.zeros(5, sum(sizes))
        self._values, self.gradient, self._mean, self._square, self._scratch = rows.unbind()

        def views(row: Tensor) -> list[Tensor]:
            parts = zip(row.split(sizes), self.parameters, strict=True)
            return [part[: p.numel()].view_as(p) for part, p in parts]

        self._value_views, self._mean_views, self._square_views = map(views, (self._values, self._mean, self._square))
        #: Where each parameter's gradient belongs, views of :attr:`gradient`.
        self.gradients = views(self.gradient)
        self._steps = 0.0
        self._counter = torch.zeros(())

    def fits(self, optimizer: Optimizer) -> bool:
        """Tell whether this was made for an optimizer of these parameters."""
        theirs = optimizer.param_groups[0]["params"]
        return len(theirs) == len(self.parameters) and all(
            p is q and p.shape == view.shape
            for p, q, view in zip(theirs, self.parameters, self._value_views, strict=True)
        )

    @contextmanager
    def engaged(self, optimizer: Adam) -> Iterator[None]:
        """Let :meth:`step` make the optimizer's steps inside."""
        self._optimizer, self._group = optimizer, optimizer.param_groups[0]
        own = [p.data for p in self.parameters]
        states = [optimizer.state.get(p) or None for p in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self._value_views, own)
            if states[0] is None:
                self._steps = 0.0
                self._mean.zero_()
                self._square.zero_()
            else:
                self._steps = states[0]["step"].item()
                torch._foreach_copy_(self._mean_views, [state["exp_avg"] for state in states if state])
                torch._foreach_copy_(self._square_views, [state["exp_avg_sq"] for state in states if state])
        began = self._steps
        for p, view, gradient in zip(self.parameters, self._value_views, self.gradients, strict=True):
            p.data, p.grad = view, gradient
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(own, self._value_views)
                for p, data in zip(self.parameters, own, strict=True):
                    p.data = data
                if self._steps != began:
                    self._hand_back(optimizer)
            del self._optimizer, self._group

    def _hand_back(self, optimizer: Adam) -> None:
        states = [optimizer.state[p] for p in self.parameters]
        for state, p in zip(states, self.parameters, strict=True):
            if not state:  # as Adam makes it at its first step
                state["step"] = torch.zeros((), dtype=torch.get_default_dtype())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"].fill_(self._steps)
        torch._foreach_copy_([state["exp_avg"] for state in states], self._mean_views)
        torch._foreach_copy_([state["exp_avg_sq"] for state in states], self._square_views)

    def step(self) -> None:
        """Make one step with :attr:`gradient`, and call who asked to be told of steps."""
        optimizer: Any = self._optimizer
        self._tell(_everywhere._global_optimizer_pre_hooks, optimizer._optimizer_step_pre_hooks)
        self._steps += 1.0
        if self.fused:
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
        group, gradient, square, scratch = self._group, self.gradient, self._square, self._scratch
        beta1, beta2 = group["betas"]
        self._mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step_size = group["lr"] / (1 - beta1**self._steps)
        torch.sqrt(square, out=scratch)
        scratch.div_((1 - beta2**self._steps) ** 0.5).add_(group["eps"])
        self._values.addcdiv_(self._mean, scratch, value=-step_size)

    def _step_fused(self) -> None:
        group = self._group
        beta1, beta2 = group["betas"]
        torch._fused_adam_(
            *([self._values], [self.gradient], [self._mean], [self._square], [], [self._counter.fill_(self._steps)]),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def can_flatten(optimizer: Optimizer) -> bool:
    """Tell whether an optimizer is Adam as SB3 makes it, on the CPU, with all parameters at the same step."""
    if type(optimizer) is not Adam or "step" in optimizer.__dict__ or len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    plain = all(group[key] == value for key, value in _PLAIN.items()) and not (group["foreach"] or group["fused"])
    numbers = (group["lr"], group["eps"], *group["betas"])
    if not plain or any(isinstance(number, Tensor) for number in numbers):
        return False
    parameters = group["params"]
    if not all(
        p.requires_grad and p.device.type == "cpu" and p.dtype == torch.float32 and p.is_contiguous()
        for p in parameters
    ):
        return False
    states = [optimizer.state.get(p) for p in parameters]
    known = [state["step"].item() for state in states if state]
    return not known or (len(known) == len(parameters) and len(set(known)) == 1)
