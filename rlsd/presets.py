"""Named answers: every recipe is five answers, written as data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from rlsd import divergences, states, strength, teachers, timing  # noqa: F401
from rlsd.config import DistillConfig, nearest

# The modules of the answers register them on import.
from rlsd.plain import shown
from rlsd.several import DistillConfigs, by_name, check_name, is_several, listed
from rlsd.states import Episodes, Reservoir

#: One distillation.
One = DistillConfig | Mapping[str, Any] | str
#: What ``distill=`` takes everywhere.
Distill = One | DistillConfigs | Sequence[One] | bool | None

#: What ``distill=True`` and ``train.py`` mean: chosen by experiment, see docs/defaults.md. ARS does not tell where
#: episodes begin, and takes ``guard`` alone.
DEFAULT = "remember+guard"


class Recipe(NamedTuple):
    """Five answers under a name.

    :param summary: one line.
    :param source: whose method it is.
    :param answers: the answers, as data; what is left out is as in :class:`DistillConfig`.
    :param without_values: changes where the algorithm has no values of states to distil.
    """

    summary: str
    source: str
    answers: Mapping[str, Any]
    without_values: Mapping[str, Any] = {}


_NO_VALUE_TERM = {"divergence.value_weight": 0.0}
_RECENT = {"type": "recent", "capacity": 4096}

_RECIPES: dict[str, Recipe] = {
    "selective": Recipe(
        "Free where the agent learns, held where it no longer goes: decided state by state.",
        "this project",
        {
            "teacher": {"type": "selective", "every": 1024, "threshold": 0.2, "visited": 0.5, "average": 5000},
            "strength": {"type": "constant", "value": 1.0},
            "timing": {"type": "every_step", "stride": 4},
        },
        # The form that was chosen on DQN and SAC: the average was on PPO, and there gradients are clipped together.
        {"teacher.visited": 0.0, "teacher.average": 0.0, "strength.value": 10.0, "strength.bound": 10.0},
    ),
    "remember": Recipe(
        "Idle until episodes begin otherwise than they did; then held on what is no longer met.",
        "this project",
        {
            "teacher": {"type": "remember"},
            "states": {"type": "episodes"},
            "strength": {"type": "constant", "value": 1.0},
            # Idle steps cost nothing whatever the stride is; where it holds, a rough pull held less.
            "timing": {"type": "every_step", "stride": 1},
        },
        {"strength.value": 10.0, "strength.bound": 10.0, "timing.stride": 4},
    ),
    "keeper": Recipe(
        "The agent learns freely; a second policy is fitted at each change to the tasks that it left.",
        "this project; after Reset & Distill (Ahn et al. 2025) and FAME (2026)",
        {
            "teacher": {"type": "remember"},
            "states": {"type": "episodes"},
            "strength": {"type": "constant", "value": 1.0},
            "timing": {"type": "keep"},
        },
    ),
    "guard": Recipe(
        "A recent snapshot pulls the agent back when its training return falls behind what it was then.",
        "this project; the gate after Dual Policy Distillation (Lai et al. 2020)",
        {
            "teacher": {"type": "snapshot", "every": 10_000},
            "strength": {"type": "constant", "value": 1.0, "gates": [{"type": "return", "margin": 0.1, "width": 0.1}]},
            "timing": {"type": "every_step", "stride": 2},
        },
    ),
    "snapshot": Recipe(
        "A frozen copy of the policy, taken now and then, holds it on states from its whole life.",
        "this project",
        {
            "teacher": {"type": "snapshot", "every": 2048},
            "strength": {"type": "constant", "value": 1.0},
            "timing": {"type": "every_step", "stride": 4},
        },
    ),
    "churn": Recipe(
        "The policy of some updates ago limits what an update changes on states outside its batch.",
        "CHAIN (Tang and Berseth 2024)",
        {
            "teacher": {"type": "snapshot", "every": 64},
            "states": _RECENT,
            "strength": {"type": "relative", "share": 0.1, "of": "loss"},
        },
    ),
    "phasic": Recipe(
        "Now and then a phase of its own trains value features into the policy network, held at what it did before.",
        "Phasic Policy Gradient (Cobbe et al. 2020)",
        {
            "teacher": {"type": "snapshot", "every": 1},
            "strength": {"type": "constant", "value": 1.0},
            "timing": {"type": "phase", "every_rollouts": 32, "epochs": 6, "learning_rate": 5e-4},
        },
    ),
    "reborn": Recipe(
        "Now and then a student with new weights learns what the agent does, and takes its place.",
        "ITER (Igl et al. 2021)",
        {
            "teacher": {"type": "snapshot", "every": 1},
            "strength": {"type": "constant", "value": 1.0},
            "timing": {"type": "reborn", "every": 50_000},
        },
    ),
    "rehearse": Recipe(
        "Every past self teaches the states of its time; half of each minibatch is new, half replayed.",
        "CLEAR (Rolnick et al. 2019)",
        {
            "teacher": {"type": "stored"},
            "states": {"type": "mixture", "parts": [_RECENT, {"type": "reservoir"}], "shares": [0.5, 0.5]},
            "divergence": {"type": "kl", "value_weight": 0.5},
            "strength": {"type": "constant", "value": 0.01},
        },
        _NO_VALUE_TERM,
    ),
    "cascade": Recipe(
        "Hidden policies on ever longer time scales hold the agent, and one another.",
        "Policy Consolidation (Kaplanis et al. 2019)",
        {
            "teacher": {"type": "cascade", "n": 8, "omega": 4.0, "beta": 0.5},
            "states": _RECENT,
            "divergence": {"type": "kl", "direction": "reverse"},
            "strength": {"type": "constant", "value": 1.5},
        },
    ),
    "ema": Recipe(
        "A moving average of the policy's own weights teaches it.",
        "PPO-EWMA (Hilton et al. 2021); mean teacher (Tarvainen and Valpola 2017)",
        {"teacher": {"type": "ema", "decay": 0.9}, "timing": {"type": "every_step", "stride": 4}},
    ),
    "best": Recipe(
        "The best policy so far teaches, and only while the agent earns less than it did.",
        "this project; the gate after Dual Policy Distillation (Lai et al. 2020)",
        {
            "teacher": {"type": "best", "every": 2048},
            "strength": {"type": "constant", "value": 1.0, "gates": [{"type": "return", "margin": 0.1, "width": 0.1}]},
            "timing": {"type": "every_step", "stride": 2},
        },
    ),
    "ensemble": Recipe(
        "Several past policies teach together, by the mean of their action distributions.",
        "snapshot ensembles; deep mutual learning (Zhang et al. 2018); Weltevrede et al. 2025",
        {
            "teacher": {"type": "ensemble", "k": 5, "every": 2048},
            "strength": {"type": "constant", "value": 0.3},
            "timing": {"type": "every_step", "stride": 4},
        },
    ),
    "kickstart": Recipe(
        'Another trained agent teaches at first, and lets go bit by bit: give teacher="path.zip".',
        "Kickstarting (Schmitt et al. 2018); Proximal Policy Distillation (Spigler 2025)",
        {
            "teacher": {"type": "frozen"},
            "states": _RECENT,
            "strength": {"type": "schedule", "value": 1.0, "end": 0.0, "shape": "linear"},
        },
    ),
    "retain": Recipe(
        "What the agent was when distillation began pulls it back when its return falls behind: for fine-tuning.",
        "Wolczyk et al. 2024",
        {
            "teacher": {"type": "origin"},
            "strength": {"type": "constant", "value": 1.0, "gates": [{"type": "return", "margin": 0.1, "width": 0.1}]},
            "timing": {"type": "every_step", "stride": 2},
        },
    ),
    "mirror": Recipe(
        "The policy before the update holds it back on the very states of the update, as hard as a KL target asks.",
        "MDPO (Tomar et al. 2020); PPO's adaptive KL penalty (Schulman et al. 2017)",
        {
            "teacher": {"type": "snapshot", "every": 64},
            "states": {"type": "minibatch"},
            "divergence": {"type": "kl", "direction": "reverse"},
            "strength": {"type": "adaptive", "target": 0.01},
        },
    ),
}


def recipes() -> tuple[str, ...]:
    """Return the names of all recipes."""
    return tuple(_RECIPES)


def describe(name: str) -> str:
    """Return one line about a recipe."""
    return _named(name).summary


def source(name: str) -> str:
    """Return whose method a recipe is."""
    return _named(name).source


def recipe(name: str, *, values: bool = True, **changes: Any) -> DistillConfig:
    """Return a recipe's five answers, with changes.

    :param name: one of :func:`recipes`.
    :param values: whether the agent's algorithm has values of states (PPO, A2C, TRPO, MaskablePPO). Without them a
        recipe that distils values too leaves that term out. An agent that is built with a recipe's name knows.
    :param changes: whole answers (``strength=0.3``, ``teacher=rlsd.Snapshot(every=4096)``) or single fields, as
        ``**{"teacher.every": 4096}``. For ``"kickstart"``, ``teacher`` is also the path of an agent's zip, or an agent.
    :raises ValueError: when the name, a key or a value is wrong.
    """
    found = _named(name)
    answers = dict(found.answers)
    if answers["teacher"]["type"] == "frozen":
        answers["teacher"] = _other_agent(answers["teacher"], changes)
    config = DistillConfig.from_dict(answers)
    if not values:
        config = config.changed(found.without_values)
    return config.changed(changes)


def _other_agent(answer: Mapping[str, Any], changes: dict[str, Any]) -> Any:
    """Take the teacher out of the changes to a recipe that has none by itself: a path, an agent, or fields."""
    fields = {key: changes.pop(key) for key in [*changes] if key.startswith("teacher.")}
    given = changes.pop("teacher", {})
    if isinstance(given, (str, os.PathLike)):
        given = {"path": os.fspath(given)}
    elif isinstance(given, BaseAlgorithm):
        given = {"agent": given}
    if not isinstance(given, Mapping):
        return given
    return {**answer, **given, **{key.removeprefix("teacher."): value for key, value in fields.items()}}


def resolve(
    distill: Distill, algorithm: type[BaseAlgorithm] | None = None, changes: Mapping[str, Any] | None = None
) -> DistillConfig | DistillConfigs | None:
    """Return the config that ``distill=`` asks for, None for no distillation.

    :param distill: a config, a recipe's name, a mapping as in YAML, ``True`` for the default, ``None`` for off; a list
        of such, or names joined by ``+``, for several at once.
    :param algorithm: the agent's, to which a recipe is fitted.
    :param changes: to what ``distill`` names, as for :func:`recipe`; of several each key begins with a name.
    :raises ValueError: when it is wrong.
    """
    changes = changes or {}
    if distill is None or distill is False:
        if changes:
            raise ValueError(f"{next(iter(changes))} changes a distillation, and there is none with distill={distill}")
        return None
    if distill is True:
        distill = default(algorithm)
    if isinstance(distill, (list, tuple)) or is_several(distill) or (isinstance(distill, str) and "+" in distill):
        return _several(distill, algorithm, changes)
    if isinstance(distill, str):
        return _one(distill, algorithm, changes)
    if isinstance(distill, Mapping):
        distill = DistillConfig.from_dict(distill)
    if not isinstance(distill, (DistillConfig, DistillConfigs)):
        taken = "a recipe's name, a DistillConfig, a list of them, True or None"
        raise ValueError(f"distill must be {taken}, got {shown(distill)}")
    return distill.changed(changes) if changes else distill


def default(algorithm: type[BaseAlgorithm] | None = None) -> str:
    """Return the recipes that are the default of an algorithm, joined by ``+``."""
    return "guard" if algorithm is not None and "ARS" in _names(algorithm) else DEFAULT


def _one(one: Any, algorithm: type[BaseAlgorithm] | None, changes: Mapping[str, Any]) -> DistillConfig:
    if isinstance(one, str):
        return recipe(one, values=algorithm is None or has_values(algorithm), **changes)
    config = DistillConfig.from_dict(one) if isinstance(one, Mapping) else one
    if not isinstance(config, DistillConfig):
        taken = "a recipe's name, a mapping of answers or a DistillConfig"
        raise ValueError(f"each of several distillations must be {taken}, got {shown(one)}")
    return config.changed(changes) if changes else config


def _several(distill: Any, algorithm: type[BaseAlgorithm] | None, changes: Mapping[str, Any]) -> DistillConfigs:
    """Return the configs of a list, each by the name that it is given, or by its recipe or its teacher."""
    named: list[tuple[str, Any, dict[str, Any]]] = []
    for one in listed(distill):
        own: dict[str, Any] = {}
        answers: Any = one
        if isinstance(one, Mapping):
            answers = {key: value for key, value in one.items() if key not in ("name", "recipe")}
            if "recipe" in one:
                answers, own = one["recipe"], answers
        name = answers if isinstance(answers, str) else _one(answers, algorithm, own).teacher.name
        named.append((check_name(one.get("name", name) if isinstance(one, Mapping) else name), answers, own))
    found = by_name(changes, [name for name, _, _ in named])
    made = [(name, _one(answers, algorithm, own | found[name])) for name, answers, own in named]
    episodic = [config.states for _, config in made if isinstance(config.states, Episodes)]
    return DistillConfigs.of([(name, _sharing(config, episodic)) for name, config in made])


def _sharing(config: DistillConfig, episodic: Sequence[Episodes]) -> DistillConfig:
    """Let a distillation keep a reservoir together with one that also keeps of which episode each state is."""
    if type(config.states) is not Reservoir:
        return config
    kept = config.states
    same = Episodes(capacity=kept.capacity, batch_size=kept.batch_size, saved=kept.saved)
    return replace(config, states=same) if same in episodic else config


def _names(algorithm: type[BaseAlgorithm]) -> list[str]:
    return [cls.__name__ for cls in algorithm.__mro__]


def has_values(algorithm: type[BaseAlgorithm]) -> bool:
    """Tell whether an algorithm's agents have values of states that can be distilled."""
    # A subclass of RecurrentPPO, such as ours, has none either.
    return issubclass(algorithm, OnPolicyAlgorithm) and "RecurrentPPO" not in _names(algorithm)


def _named(name: str) -> Recipe:
    if not isinstance(name, str) or name not in _RECIPES:
        raise ValueError(f"unknown recipe {shown(name)}; {nearest(str(name), _RECIPES)}")
    return _RECIPES[name]
