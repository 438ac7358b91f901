"""Reading a pickle as data, without ever unpickling it.

A pickle is a program that builds objects. Here its instructions are followed on paper: what it would look up becomes a
:class:`Symbol`, what it would call becomes a :class:`Made`, and nothing is looked up or called. Numbers, texts and
containers are what they are. Time and memory grow with the bytes alone.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Instructions that put their argument on the stack.
_ARGUMENTS = frozenset(
    [
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        *("BINBYTES", "SHORT_BINBYTES", "BYTEARRAY8"),
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, type[list[Any]] | type[dict[Any, Any]]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_NOTHING = ("PROTO", "FRAME")
#: Of tuples and frozen sets the hash goes as deep as they do, and C has no guard there.
_KEYS = (str, int, bool, type(None))


class Symbol(NamedTuple):
    """What a pickle would look up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


class Stored(NamedTuple):
    """What a pickle leaves to its reader: for torch a storage."""

    key: Any


@dataclass(eq=False)
class Made:
    """What a pickle would make by calling something.

    :param call: what it would call.
    :param args: with which arguments.
    :param items: what it would set in it by key.
    :param state: what it would give it afterwards.
    """

    call: Any
    args: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any = None


def read(data: bytes, symbols: Collection[str] | None = None) -> Any:
    """Return the content of a pickle.

    :param data: the pickle.
    :param symbols: all that it may look up, as ``module.name``; None for anything.
    :raises ValueError: when it is no pickle, is damaged, or uses what neither weights nor statistics need.
    """
    reader = _Reader(symbols)
    try:
        for instruction, argument, _ in pickletools.genops(data):
            if instruction.name == "STOP":
                return reader.stack.pop()
            reader.follow(instruction.name, argument)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"it is no whole pickle: {type(error).__name__}: {str(error)[:100]}") from error
    raise ValueError("it is no whole pickle: it has no end")


class _Reader:
    def __init__(self, symbols: Collection[str] | None) -> None:
        self.symbols = symbols
        self.stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _ARGUMENTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(stack)
            self.stack = []
        elif name == "TUPLE":
            items = self._since_mark()
            self.stack.append(tuple(items))
        elif name in _TUPLES:
            stack.append(tuple(self._popped(_TUPLES[name])))
        elif name == "APPEND":
            (item,) = self._popped(1)
            self._extend([item])
        elif name == "APPENDS":
            self._extend(self._since_mark())
        elif name == "SETITEM":
            self._set(self._popped(2))
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(self._symbol(module, attribute))
        elif name == "STACK_GLOBAL":
            stack.append(self._symbol(*self._popped(2)))
        elif name in ("REDUCE", "NEWOBJ"):
            call, args = self._popped(2)
            if type(call) is not Symbol or type(args) is not tuple:
                raise ValueError("it calls what is nothing to call")
            stack.append(Made(call, args, {}))
        elif name == "BUILD":
            (state,) = self._popped(1)
            if type(self.stack[-1]) is not Made:
                raise ValueError(f"it gives a state to a {type(self.stack[-1]).__name__}")
            self.stack[-1].state = state
        elif name == "BINPERSID":
            stack.append(Stored(self._popped(1)[0]))
        elif name not in _NOTHING:
            raise ValueError(f"it uses the instruction {name}, which neither weights nor statistics need")

    def _popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("an instruction finds too little")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marks.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError(f"it appends to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        target = target.items if type(target) is Made else target
        if type(target) is not dict or len(pairs) % 2:
            raise ValueError(f"it sets items of a {type(target).__name__}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in _KEYS:
                raise ValueError(f"it has a key that is a {type(key).__name__}")
            target[key] = value

    def _symbol(self, module: Any, name: Any) -> Symbol:
        symbol = Symbol(module, name)
        if type(module) is not str or type(name) is not str:
            raise ValueError("it looks up what has no name")
        if self.symbols is not None and f"{module}.{name}" not in self.symbols:
            raise ValueError(f"it names {str(symbol)!r}, which no weights need")
        return symbol
