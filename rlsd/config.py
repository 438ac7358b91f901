"""What a distillation is made of: five answers, as plain data that can be written down and read back.

Every published way of distilling a policy into itself answers the same five questions, and
:class:`DistillConfig` holds one :class:`Answer` to each:

=============  ==================================================
question       asks
=============  ==================================================
``teacher``    which teacher?
``states``     on which states?
``divergence`` by what measure of difference?
``strength``   how strongly?
``timing``     at which gradient steps?
=============  ==================================================

An answer is a small frozen dataclass. It says what is wanted; the state that training builds up lives in the
objects its ``build`` makes, so one config serves any number of agents. This module lies at the bottom of the
package: it knows no answer by itself, the modules above register theirs by subclassing :class:`Answer`.
"""

from __future__ import annotations

import dataclasses
import difflib
import html
import importlib
import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import yaml

from rlsd.plain import cut, read_json, read_yaml, shown

QUESTIONS = ("teacher", "states", "divergence", "strength", "timing")

#: The answers that a config gives where nothing is said: the plainest to each question. See also ``recipes.DEFAULT``.
DEFAULTS: dict[str, str] = {
    "teacher": "snapshot",
    "states": "reservoir",
    "divergence": "kl",
    "strength": "constant",
    "timing": "every_step",
}

_REGISTRY: dict[str, dict[str, type[Answer]]] = {}
_SelfAnswer = TypeVar("_SelfAnswer", bound="Answer")
_Check = Callable[[str, Any], Any]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that lists the known names, the nearest first when one is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def _number_between(low: float, high: float, low_open: bool) -> str:
    if low == -math.inf and high == math.inf:
        return "a finite number"
    if high == math.inf:
        return f"a number {'>' if low_open else '>='} {low:g}"
    return f"a number in {'(' if low_open else '['}{low:g}, {high:g}]"


def integer(default: int, *, low: int = 0, high: float = math.inf) -> Any:
    """Declare a whole-number field of an :class:`Answer`, checked to lie in ``[low, high]``."""

    def check(key: str, value: Any) -> int:
        return checked_integer(key, value, low=low, high=high)

    return dataclasses.field(default=default, metadata={"check": check})


def checked_integer(key: str, value: Any, *, low: int = 0, high: float = math.inf) -> int:
    """Return ``value`` as an int, also where it is a whole float, or raise as :func:`checked_number` does."""
    whole = isinstance(value, numbers.Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not low <= value <= high:
        wanted = f"a whole number >= {low}" if high == math.inf else f"a whole number in [{low}, {high:g}]"
        raise ValueError(f"{key} must be {wanted}, got {shown(value)}")
    return int(value)


def number(
    default: float, *, low: float = 0.0, high: float = math.inf, low_open: bool = False, kw_only: bool = False
) -> Any:
    """Declare a finite real field of an :class:`Answer`, checked to lie in ``[low, high]`` (``(low, high]``)."""

    def check(key: str, value: Any) -> float:
        return checked_number(key, value, low=low, high=high, low_open=low_open)

    return dataclasses.field(default=default, kw_only=kw_only, metadata={"check": check})


def checked_number(key: str, value: Any, *, low: float = 0.0, high: float = math.inf, low_open: bool = False) -> float:
    """Return ``value`` as a float, or raise a ``ValueError`` that names key, value and range."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool) and _is_finite(value)
    if not good or not low <= value <= high or (low_open and value == low):
        raise ValueError(f"{key} must be {_number_between(low, high, low_open)}, got {shown(value)}")
    return float(value)


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def choice(default: str, options: tuple[str, ...]) -> Any:
    """Declare a field of an :class:`Answer` that takes one of a few words."""

    def check(key: str, value: Any) -> str:
        if value not in options:
            raise ValueError(f"{key} must be one of {', '.join(map(repr, options))}, got {shown(value)}")
        return str(value)

    return dataclasses.field(default=default, metadata={"check": check})


def switch(default: bool, *, kw_only: bool = False) -> Any:
    """Declare a field of an :class:`Answer` that is on or off."""

    def check(key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{key} must be true or false, got {value!r}")
        return value

    return dataclasses.field(default=default, kw_only=kw_only, metadata={"check": check})


def answers(question: str) -> Any:
    """Declare a field of an :class:`Answer` that holds any number of answers to ``question``."""

    def check(key: str, value: Any) -> tuple[Answer, ...]:
        items = [value] if isinstance(value, (str, Mapping, Answer)) else value
        if not isinstance(items, Iterable):
            raise ValueError(f"{key} must be a list of {question}s, got {shown(value)}")
        return tuple(Answer.parse(question, item) for item in items)

    return dataclasses.field(default=(), kw_only=True, metadata={"check": check})


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer to one question: a frozen dataclass that checks its own fields.

    A subclass names its question and the word that stands for it in YAML, and declares its fields with
    :func:`integer`, :func:`number`, :func:`choice` or :func:`answers`::

        @dataclass(frozen=True)
        class Snapshot(TeacherConfig, name="snapshot"):
            every: int = integer(2048, low=1)

    A name belongs to the class that took it first; only the same class, defined anew, may take it again.

    :raises ValueError: when a field's value is out of its range; the message names key, value and range.
    """

    question: ClassVar[str] = ""
    name: ClassVar[str] = ""

    def __init_subclass__(cls, question: str = "", name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if question:
            cls.question = question
        if name:
            known = _REGISTRY.setdefault(cls.question, {})
            ours, theirs = (f"{one.__module__}.{one.__qualname__}" for one in (cls, known.get(name, cls)))
            if ours != theirs:  # a cell of a notebook that is run again defines the same class once more
                raise ValueError(f"{cls.question} {name!r} is already the name of {theirs}: give {ours} another name")
            cls.name = name
            known[name] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check: _Check | None = field.metadata.get("check")
            if check is not None:
                value = check(f"{self.question}.{field.name}", getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain data: its ``type`` and its fields."""
        return {"type": self.name} | {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @staticmethod
    def parse(question: str, value: Any) -> Answer:
        """Read an answer to ``question`` from an answer, a name, or a mapping with ``type`` and fields.

        :raises ValueError: when the name, a key or a value is wrong; the message says which and what is known.
        """
        if isinstance(value, Answer):
            if value.question != question:
                raise ValueError(
                    f"{question} must be an answer to {question!r}, "
                    f"got {type(value).__name__}, which answers {value.question!r}"
                )
            return value
        if isinstance(value, str):
            return Answer.named(question, value)()
        if isinstance(value, Mapping):
            fields = dict(value)
            cls = Answer.named(question, fields.pop("type", DEFAULTS.get(question)))
            return cls.from_fields(fields)
        if question == "strength" and (callable(value) or isinstance(value, numbers.Real)):
            # As everywhere in SB3: a number is a constant, a function is a schedule of remaining progress.
            return Answer.named(question, "schedule" if callable(value) else "constant").from_fields({"value": value})
        raise ValueError(f"{question} must be a name, a mapping or an answer, got {shown(value)}")

    @staticmethod
    def named(question: str, name: Any) -> type[Answer]:
        """Return the class that answers ``question`` under ``name``."""
        # Answers register as their modules are imported, and who asks may have imported this one alone.
        importlib.import_module("rlsd.api")
        known = _REGISTRY.get(question, {})
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"unknown {question} {shown(name)}; {nearest(cut(str(name)), known)}")
        return known[name]

    @classmethod
    def from_fields(cls: type[_SelfAnswer], fields: Mapping[str, Any]) -> _SelfAnswer:
        """Make the answer from its fields, refusing any it does not have."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in fields:
            if key not in known:
                raise ValueError(
                    f"unknown key {cls.question}.{cut(str(key))} = {shown(fields[key])} for {cls.name!r}; "
                    f"{nearest(str(key), known)}"
                )
        return cls(**fields)


def own_modules(value: object) -> set[str]:
    """Return the modules that answers come from which are not rlsd's: an answer's, or a config's with all in it."""
    if isinstance(value, (tuple, list)):
        return {module for item in value for module in own_modules(item)}
    if not isinstance(value, (Answer, DistillConfig)):
        return set()
    module = type(value).__module__
    found = {module} if module.partition(".")[0] != "rlsd" else set()
    return found.union(*(own_modules(getattr(value, field.name)) for field in dataclasses.fields(value)))


def _plain(value: Any) -> Any:
    if isinstance(value, Answer):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if callable(value):
        return {"function": f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"}
    return value


def _default(question: str) -> Any:
    return dataclasses.field(default_factory=lambda: Answer.parse(question, DEFAULTS[question]))


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Five answers: everything that defines a self-distillation.

    Each field takes an answer (``rlsd.Snapshot(every=4096)``), its name (``"snapshot"``) or a mapping
    (``{"type": "snapshot", "every": 4096}``); ``strength`` also takes a number or a function of remaining progress.

    :param teacher: the teacher.
    :param states: on which states.
    :param divergence: by what measure of difference.
    :param strength: how strongly the penalty pulls, relative to a loss of weight 1.
    :param timing: at which gradient steps.
    :raises ValueError: when a key is unknown or a value is out of its range; the message names key, value and range.
    """

    teacher: Answer = _default("teacher")
    states: Answer = _default("states")
    divergence: Answer = _default("divergence")
    strength: Answer = _default("strength")
    timing: Answer = _default("timing")

    def __post_init__(self) -> None:
        for question in QUESTIONS:
            object.__setattr__(self, question, Answer.parse(question, getattr(self, question)))

    def changed(self, changes: Mapping[str, Any]) -> DistillConfig:
        """Return a copy with some answers replaced (``teacher=...``) or some fields set (``"teacher.every": 4096``)."""
        data: dict[str, Any] = {question: getattr(self, question) for question in QUESTIONS}
        fields: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            question, _, field = str(key).partition(".")
            if question not in QUESTIONS:
                raise ValueError(f"unknown key {cut(str(key))} = {shown(value)}; {nearest(question, QUESTIONS)}")
            if field:
                fields.setdefault(question, {})[field] = value
            else:
                data[question] = value
        for question, some in fields.items():  # all of an answer's fields at once: one may depend on another
            answer = Answer.parse(question, data[question])
            present = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer)}
            data[question] = type(answer).from_fields(present | some)
        return DistillConfig(**data)

    def __repr__(self) -> str:
        return "\n".join(["DistillConfig", *(f"  {q:<10}  {getattr(self, q)!r}" for q in QUESTIONS)])

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{q}</th><td><code>{html.escape(repr(getattr(self, q)))}</code></td></tr>" for q in QUESTIONS)
        return f"<table>{''.join(rows)}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Return the config as nested plain data, ready for JSON or YAML."""
        return {question: getattr(self, question).to_dict() for question in QUESTIONS}

    @classmethod
    def from_dict(cls, data: Any) -> DistillConfig:
        """Read the config from nested plain data; what is left out takes its default.

        :raises ValueError: when ``data`` is no mapping, or a key or value in it is wrong.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"a distillation config must be a mapping of {', '.join(QUESTIONS)}, got {shown(data)}")
        for key in data:
            if key not in QUESTIONS:
                raise ValueError(f"unknown key {cut(str(key))} = {shown(data[key])}; {nearest(str(key), QUESTIONS)}")
        return cls(**data)

    def to_json(self) -> str:
        """Return the config as a JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> DistillConfig:
        """Read the config from a JSON text."""
        try:
            data = read_json(text)
        except ValueError as error:
            raise ValueError(f"the distillation config is not valid JSON: {error}") from error
        return cls.from_dict(data)

    def to_yaml(self) -> str:
        """Return the config as a YAML text."""
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False))

    @classmethod
    def from_yaml(cls, text: str) -> DistillConfig:
        """Read the config from a YAML text."""
        data = yaml_data(text)
        return cls.from_dict({} if data is None else data)


def yaml_data(text: str) -> Any:
    """Parse the YAML text of a distillation config.

    :raises ValueError: when it is no YAML.
    """
    try:
        return read_yaml(text)
    except ValueError as error:
        raise ValueError(f"the distillation config is not valid YAML: {error}") from error
