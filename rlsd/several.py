"""Several distillations of one agent at once: the config of each, under a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlsd.config import DistillConfig
from rlsd.plain import shown

#: Under which key plain data holds them; a single config is a mapping of its five answers.
_KEY = "distillations"
#: Answers that a change without a name gives to each: only a teacher is one's own.
_ALIKE = ("states", "divergence", "strength", "timing")


@dataclass(frozen=True)
class DistillConfigs:
    """The configs of several distillations, whose penalties add up: what ``distill=["remember", "guard"]`` stands for.

    :param members: each config by its name. Names show in TensorBoard, as in ``distill/guard/kl``.
    :raises ValueError: when there is none, a name cannot be one, or two train beside the agent's updates.
    """

    members: Mapping[str, DistillConfig]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("distill is an empty list: name one distillation at least, or give None for none")
        for name in self.members:
            check_name(name)
        timings: dict[str, Any] = {name: config.timing for name, config in self.members.items()}
        beside = [name for name, timing in timings.items() if not (timing.deposits or timing.by_episode)]
        if len(beside) > 1:
            raise ValueError(
                f"distillations {beside[0]!r} and {beside[1]!r} would both train the policy beside the agent's own "
                "updates: leave out one of them"
            )

    @classmethod
    def of(cls, named: Sequence[tuple[str, DistillConfig]]) -> DistillConfigs:
        """Return the configs of a list.

        :raises ValueError: when two have the same name.
        """
        names = [name for name, _ in named]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(
                f"distill names {shown(twice[0])} twice: leave one out, or call them otherwise, by "
                f"{{'name': ..., 'recipe': {shown(twice[0])}}}"
            )
        return cls(dict(named))

    def changed(self, changes: Mapping[str, Any]) -> DistillConfigs:
        """Return a copy with changes: to one by its name, ``{"guard.strength.value": 0.3}``, or to all of them."""
        found = by_name(changes, [*self.members])
        return DistillConfigs({name: config.changed(found[name]) for name, config in self.members.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the configs as nested plain data, ready for JSON or YAML."""
        return {_KEY: [{"name": name, **config.to_dict()} for name, config in self.members.items()]}


def by_name(changes: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return changes by the distillation that they are for, whose name their keys begin with.

    What is no teacher's and names none is for each; what names one comes after it.

    :raises ValueError: when a key does neither.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in changes.items():
        if str(key).partition(".")[0] in _ALIKE and key not in names:
            for name in names:
                found[name][key] = value
    for key, value in changes.items():
        name, _, rest = str(key).partition(".")
        if name in found and rest:
            found[name][rest] = value
        elif name not in _ALIKE:
            known = " or ".join(f"{one}." for one in names)
            raise ValueError(f"{shown(key)} does not say which distillation it changes: begin it with {known}")
    return found


def is_several(data: Any) -> bool:
    """Tell whether plain data is that of several distillations."""
    return isinstance(data, Mapping) and _KEY in data


def check_name(name: Any) -> str:
    """Return the name of a distillation, after a look whether it is one.

    :raises ValueError: when it is not.
    """
    if not isinstance(name, str) or not name or {*name} & {*"/.+ "}:
        raise ValueError(f"a distillation's name must be a word without '/', '.' and '+', got {shown(name)}")
    return name


def listed(data: Any) -> list[Any]:
    """Return the list that stands for several distillations: itself, names joined by ``+``, or in plain data.

    :raises ValueError: when there is none.
    """
    if isinstance(data, str):
        return [*data.split("+")]
    if not isinstance(data, Mapping):
        return [*data]
    found = data[_KEY]
    if not isinstance(found, (list, tuple)) or len(data) > 1:
        raise ValueError(f"{_KEY} must be a list of distillations, and nothing beside it, got {shown(data)}")
    return [*found]


def config_from(data: Any) -> DistillConfig | DistillConfigs:
    """Read back what ``to_dict`` of either returned.

    :raises ValueError: when something in it is wrong.
    """
    if not is_several(data):
        return DistillConfig.from_dict(data)
    named = []
    for answers in listed(data):
        if not isinstance(answers, Mapping) or "name" not in answers:
            raise ValueError(f"a distillation of several must be a mapping with a name, got {shown(answers)}")
        named.append((answers["name"], DistillConfig.from_dict({k: v for k, v in answers.items() if k != "name"})))
    return DistillConfigs.of(named)


def each(config: DistillConfig | DistillConfigs | None) -> list[DistillConfig]:
    """Return each config of what may be one, several or none."""
    if config is None:
        return []
    return [config] if isinstance(config, DistillConfig) else [*config.members.values()]
