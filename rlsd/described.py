"""What people are told of the doors: ``help`` of a class that ``SelfDistilled`` makes, and a second ``distill``."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from rlsd.config import QUESTIONS, DistillConfig
from rlsd.several import DistillConfigs, each

_OURS = """
    :param distill: what distils the agent: a recipe's name, a :class:`DistillConfig`, ``True`` for the default recipe,
        a list of such for several at once, ``None`` for an agent that trains as {name} does, bit for bit.
    :param speed: as for :func:`accelerate`.
    :param rollout_device: where the agent acts, when not where it trains.
    :param workers: who collects the rollouts, see :class:`rlsd.RayWorkers`.
    :param teacher: and ``states``, ``divergence``, ``strength``, ``timing``: changes to what ``distill`` names,
        as for :func:`recipe`.
"""


def describe(cls: type[Any], base: type[Any]) -> None:
    """Give a class that distils the signature and the docstring of its base, with what is added to both."""
    own = inspect.signature(cls.__init__)
    theirs = inspect.signature(base.__init__)
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [one for one in own.parameters.values() if one.kind is keyword]
    added += [inspect.Parameter(question, keyword, default=None, annotation=Any) for question in _changeable(base)]
    parameters = list(theirs.parameters.values())
    at = len(parameters) - (bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
    signature = theirs.replace(parameters=[*parameters[:at], *added, *parameters[at:]])
    cls.__init__.__signature__ = signature
    first = f"{base.__name__} that distils itself while it trains, see :func:`rlsd.SelfDistilled`.\n\n    "
    cls.__doc__ = (
        first + (inspect.getdoc(base) or "").replace("\n", "\n    ").rstrip() + _OURS.format(name=base.__name__)
    )


def changes(base: type[Any], kwargs: dict[str, Any]) -> Mapping[str, Any]:
    """Take out of a constructor's keywords those that change the distillation: answers, and fields of answers.

    A subclass's own parameter of such a name stays its own. With a dot in it no word is a parameter's.
    """
    questions = _changeable(base)
    return {key: kwargs.pop(key) for key in list(kwargs) if key in questions or "." in key}


def _changeable(base: type[Any]) -> list[str]:
    taken = inspect.signature(base.__init__).parameters
    return [question for question in QUESTIONS if question not in taken]


def say_what_ends(present: Any, config: DistillConfig | DistillConfigs) -> None:
    """Warn that a distillation which has learned something makes room for another.

    :param present: the agent's distiller, None where it has none.
    :param config: the answers that take its place.
    """
    members = [] if present is None else [one for one in present.members.values() if one.teacher.ready]
    if members:
        configs = ([member.config for member in members], each(config))
        old, new = (" and ".join(repr(one.teacher.name) for one in some) for some in configs)
        count = sum(one.states.count for one in members)
        lost = f"its teacher {old} and {count:,} states are dropped"
        warnings.warn(f"distill starts over with teacher {new}: {lost}", stacklevel=3)
