"""Lending a module other methods for a while, so that no copy made meanwhile takes them along.

The module is given a subclass of its class. Unlike an attribute of the instance, that is not part of what is copied,
pickled or saved: a copy made inside is of the module's own class, and acts by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

#: Where the lent methods lie on the module. Only the subclasses here look there.
_LENT = "_rlsd_lent"
_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


@contextmanager
def standing_in(module: nn.Module, methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Answer calls of some of a module's methods with others; whatever happens, it is itself again afterwards.

    :param module: of any class.
    :param methods: by name. They are called without the module.
    """
    if not methods:
        yield
        return
    cls, before = type(module), module.__dict__.get(_LENT)
    own: type[nn.Module] = cls.__mro__[1] if cls in _CLASSES.values() else cls
    lent = {**(before or {}), **methods}
    module.__dict__[_LENT] = lent
    module.__class__ = _subclass(own, tuple(sorted(lent)))
    try:
        yield
    finally:
        module.__class__ = cls
        del module.__dict__[_LENT]
        if before is not None:
            module.__dict__[_LENT] = before


@contextmanager
def until_rebuilt(module: nn.Module) -> Iterator[None]:
    """Within :func:`standing_in`, take back what is lent as soon as a layer or a parameter of the module is exchanged.

    torch tells of that by itself, so calls need not look for it.
    """
    lent = module.__dict__.get(_LENT)
    if lent is None:
        yield
        return

    def take_back(changed: nn.Module, *_: Any) -> None:
        if any(changed is part for part in module.modules()):
            lent.clear()

    handles = [
        nn.modules.module.register_module_module_registration_hook(take_back),
        nn.modules.module.register_module_parameter_registration_hook(take_back),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _subclass(own: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    if (own, names) not in _CLASSES:
        body: dict[str, Any] = {name: _calling(own, name) for name in names}
        body |= {"__reduce_ex__": _as(own), "__module__": own.__module__, "__qualname__": own.__qualname__}
        made: Any = type(own)  # the metaclass: policies are abstract classes
        _CLASSES[own, names] = made(own.__name__, (own,), body)
    return _CLASSES[own, names]


def _calling(own: type[nn.Module], name: str) -> Callable[..., Any]:
    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        lent = self.__dict__.get(_LENT)
        if not lent:  # it was taken back, or this one was made from ``type(module)`` and never lent anything
            return getattr(own, name)(self, *args, **kwargs)
        return lent[name](*args, **kwargs)

    return method


def _as(own: type[nn.Module]) -> Callable[..., Any]:
    """Return the ``__reduce_ex__`` that makes every copy one of the module's own class."""

    def reduce(self: nn.Module, protocol: Any) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key != _LENT}
        return object.__new__, (own,), state

    return reduce
