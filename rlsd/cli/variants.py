"""The variants that a comparison sets side by side, each a name and the flags it adds to ``rlsd train``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlsd.cli.errors import UserError, choices
from rlsd.cli.options import SPEEDS
from rlsd.cli.values import as_words, parse_pairs
from rlsd.plain import shown

#: The variant that the others are measured against.
BASELINE = "baseline"
DEFAULT = "default"

_NAME = re.compile(r"\w[\w.+-]*")
_HYPERPARAMS = "hyperparams."


@dataclass(frozen=True)
class Variant:
    """One way to train.

    :param name: for the table; also the name of a folder.
    :param baseline: plain SB3.
    :param recipe: kind of self-distillation, None for the default.
    :param distill: changes to it, by key.
    :param hyperparams: changes to the environment's hyperparameters, by name.
    :param speed: how rlsd computes, None for as it does by itself.
    """

    name: str
    baseline: bool = False
    recipe: str | None = None
    distill: Mapping[str, Any] = field(default_factory=dict)
    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    speed: str | None = None

    def flags(self, hyperparams: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the words for ``rlsd train``.

        :param hyperparams: changes that all variants share; the variant's own come after them.
        """
        words = ["--baseline"] if self.baseline else []
        words += ["--recipe", self.recipe] if self.recipe else []
        words += ["--speed", self.speed] if self.speed else []
        words += _flag("--distill", self.distill)
        return (*words, *_flag("--hyperparams", {**hyperparams, **self.hyperparams}))


def parse_variants(words: Iterable[str], recipes: Sequence[str]) -> list[Variant]:
    """Read ``baseline,default,RECIPE,name:key=value;key=value``, in one word or several.

    :param recipes: the names that stand for a recipe.
    :raises UserError: when a name is unknown, given twice, or its settings cannot be read.
    """
    texts = [text.strip() for word in words for text in _split(word)]
    variants = [_variant(text, recipes) for text in texts if text]
    if not variants:
        raise UserError("--variants is empty: give for example baseline,default")
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--variants names {shown(name)} twice: give each variant a name of its own")
    return variants


def parse_seeds(text: str) -> list[int]:
    """Read ``100-109`` or ``0,3,7-9``.

    :raises UserError: when it is no such list, or a seed stands in it twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UserError(f"--seeds takes whole numbers and ranges such as 100-109 or 0,3,7-9, got {shown(text)}")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text} names a seed twice")
    return seeds


def _variant(text: str, recipes: Sequence[str]) -> Variant:
    name, colon, settings = text.partition(":")
    if not _NAME.fullmatch(name):
        raise UserError(f"the name of a variant takes letters, digits and . + - _, got {shown(name)}")
    if not colon:
        return _known(name, recipes)
    if name in (BASELINE, DEFAULT):
        raise UserError(f"{shown(name)} cannot have settings, since it means one thing; give the variant another name")
    words = [word.strip() for word in settings.split(";") if word.strip()]
    baseline = "baseline" in words
    pairs = parse_pairs(f"variant {name}", [word for word in words if word != "baseline"])
    recipe = pairs.pop("recipe", name if name in recipes else None)
    speed = pairs.pop("speed", None)
    if speed not in (None, *SPEEDS):
        raise UserError(f"variant {name}: speed must be one of {', '.join(SPEEDS)}, got {shown(speed)}")
    hyperparams = {key.removeprefix(_HYPERPARAMS): pairs.pop(key) for key in [*pairs] if key.startswith(_HYPERPARAMS)}
    if baseline and (pairs or recipe or speed):
        raise UserError(f"variant {name}: baseline is training without distillation, {shown(text)} contradicts it")
    return Variant(name, baseline, None if recipe is None else str(recipe), pairs, hyperparams, speed)


def _split(text: str) -> list[str]:
    """Split at commas, but not inside brackets, where a comma belongs to a value."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _known(name: str, recipes: Sequence[str]) -> Variant:
    if name in recipes:
        return Variant(name, recipe=name)
    if name not in (BASELINE, DEFAULT):
        known = (BASELINE, DEFAULT, *recipes)
        hint = f"{choices(name, known)}; or {name}:key=value;key=value"
        raise UserError(f"unknown variant {shown(name)}; {hint}")
    return Variant(name, baseline=name == BASELINE)


def _flag(flag: str, pairs: Mapping[str, Any]) -> list[str]:
    return [flag, *as_words(dict(pairs))] if pairs else []
