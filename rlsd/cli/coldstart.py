"""Starting without torch's compiler, which takes longer to import than a short training takes."""

from __future__ import annotations

import sys

from torch.optim import Optimizer

#: The methods of every optimizer that torch keeps its compiler out of, by asking the compiler itself.
_KEPT_OUT = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
#: Where torch keeps, on such a function, what is called in its place.
_DISABLED = "__dynamo_disable"


def leave_compiler_out() -> None:
    """Let optimizers be made without importing ``torch._dynamo``; without effect once that is imported.

    The first optimizer of a process imports the compiler, for more than a second, only to say that it must leave the
    optimizer's methods alone. Nothing here compiles anything, so they may be called as they are, and compute the same.
    An optimizer's own ``step`` imports the compiler still; :class:`rlsd.speed.adam.FlatAdam` does without it.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in _KEPT_OUT:
        plain = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if plain is not None:
            vars(plain).setdefault(_DISABLED, plain)
