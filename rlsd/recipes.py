"""Named answers: every recipe is five answers, written as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The modules of the answers register them on import.
from rlsd import divergences, states, strength, teachers, timing  # noqa: F401
from rlsd.config import DistillConfig, nearest

#: What ``distill=`` takes everywhere.
Distill = DistillConfig | Mapping[str, Any] | str | bool | None

#: What ``distill=True`` and ``train.py`` mean: chosen by experiment, see docs/defaults.md.
DEFAULT = "guard"

_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "guard": (
        "A recent snapshot pulls the agent back when its training return falls behind what it was then.",
        {
            "teacher": {"type": "snapshot", "every": 10_000},
            "strength": {"type": "constant", "value": 1.0, "gates": [{"type": "return", "margin": 0.1, "width": 0.1}]},
            "timing": {"type": "every_step", "stride": 2},
        },
    ),
    "snapshot": (
        "A frozen copy of the policy, taken now and then, holds it on states from its whole life.",
        {
            "teacher": {"type": "snapshot", "every": 2048},
            "strength": {"type": "constant", "value": 1.0},
            "timing": {"type": "every_step", "stride": 4},
        },
    ),
}


def recipes() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(_RECIPES)


def describe(name: str) -> str:
    """Return one line about a recipe."""
    return _named(name)[0]


def recipe(name: str, **changes: Any) -> DistillConfig:
    """Return a recipe's five answers, with changes.

    :param name: one of :func:`recipes`.
    :param changes: whole answers (``strength=0.3``, ``teacher=rlsd.Snapshot(every=4096)``) or single fields, as
        ``**{"teacher.every": 4096}``.
    :raises ValueError: when the name, a key or a value is wrong.
    """
    return DistillConfig.from_dict(_named(name)[1]).changed(changes)


def resolve(distill: Distill) -> DistillConfig | None:
    """Return the config that ``distill=`` asks for, None for no distillation.

    :param distill: a config, a recipe's name, a mapping as in YAML, ``True`` for the default, ``None`` for off.
    :raises ValueError: when it is wrong.
    """
    if distill is None or distill is False:
        return None
    if distill is True:
        return recipe(DEFAULT)
    if isinstance(distill, DistillConfig):
        return distill
    if isinstance(distill, str):
        return recipe(distill)
    if isinstance(distill, Mapping):
        return DistillConfig.from_dict(distill)
    raise ValueError(f"distill must be a recipe's name, a DistillConfig, True or None, got {distill!r}")


def _named(name: str) -> tuple[str, dict[str, Any]]:
    if name not in _RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {nearest(str(name), _RECIPES)}")
    return _RECIPES[name]
