"""Plain data that may come from anybody: YAML and JSON read within bounds, and values shown in messages.

A few hundred bytes of YAML can stand for gigabytes, by names for parts that are made of names for parts. So what they
stand for is counted while it is read, and a message shows the beginning of a value, not all of it.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

import yaml

#: What an object saves besides its tensors, by name: numbers, texts, lists and mappings that JSON can hold.
State = dict[str, Any]
#: The same, read from a file.
SavedState = Mapping[str, Any]

#: How deep lists and mappings may lie in each other, and how many values there may be in all, repeated ones each time.
#: A config of rlsd is 6 deep and holds 50 values; a table of rl_zoo3's holds 2,000.
DEPTH, VALUES = 50, 100_000
#: JSON is written by programs, and cannot repeat: the bound only keeps 1 MB from becoming 100.
_JSON_VALUES = 2_000_000
#: Characters of a value in a message, and the parts of it that are looked at.
_LONGEST, _PARTS = 300, 60


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 10, _PARTS, _PARTS, _PARTS
        self.maxstring = self.maxother = _LONGEST
        self._left = _PARTS

    def repr1(self, x: Any, level: int) -> str:
        self._left -= 1
        return super().repr1(x, level) if self._left >= 0 else "..."

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """Keep the order, which reprlib's own does not."""
        parts = []
        for key, value in x.items():
            if level <= 0 or self._left <= 0:
                parts.append("...")
                break
            parts.append(f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}")
        return f"{{{', '.join(parts)}}}"

    def repr_int(self, x: int, level: int) -> str:
        """Show no digits of what Python refuses to write out."""
        return repr(x) if x.bit_length() < 14_000 else f"<a whole number of {x.bit_length()} bits>"


def shown(value: Any) -> str:
    """Return a value as Python writes it, on one line; only its beginning where it is long."""
    return cut(_Short().repr(value))


def cut(text: str) -> str:
    """Return a text on one line; only its beginning where it is long."""
    line = " ".join(text[: 10 * _LONGEST].split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def read_yaml(text: str) -> Any:
    """Parse a YAML text. Runs no code from it.

    :raises ValueError: when it is no YAML, deeper than :data:`DEPTH` or of more than :data:`VALUES` values, or refers
        to itself.
    """
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # of wrong dates, numbers and tags the reader raises anything
        known = isinstance(error, (yaml.YAMLError, ValueError))
        raise ValueError(cut(str(error) if known else f"{type(error).__name__}: {error}")) from error


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._sizes: dict[int, int] = {}  # of each node that is whole, everything in it counted

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise ValueError("a part of it refers to itself")
            self._count(self._sizes[id(node)])
            return node
        before = self._values
        self._count(1)
        self._depth += 1
        if self._depth > DEPTH:
            raise ValueError(f"it is more than {DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._values - before
        return node

    def _count(self, more: int) -> None:
        self._values += more
        if self._values > VALUES:
            raise ValueError(f"it stands for more than {VALUES:,} values")


def read_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    :raises ValueError: when it is no JSON, deeper than :data:`DEPTH`, or of millions of values.
    """
    marks: Any = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    if sum(text.count(mark) for mark in marks) > _JSON_VALUES:
        raise ValueError(f"it holds more than {_JSON_VALUES:,} values")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is more than {DEPTH} levels deep") from error
    level = [found]
    for _ in range(DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [value for values in inner for value in values]
        if not level:
            return found
    raise ValueError(f"it is more than {DEPTH} levels deep")
