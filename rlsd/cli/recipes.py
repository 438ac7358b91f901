"""``rlsd recipes``: the names that ``--recipe`` takes, and what one of them answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlsd.cli.console import say
from rlsd.cli.errors import UserError, blame_input

_USAGE = """usage: rlsd recipes [NAME]

List the recipes that rlsd train --recipe takes; with NAME: its answers, whose method it is, and when to take it. Of
several at once, NAME+NAME, it tells each."""

#: When to take a recipe: docs/recipes/README.md in short.
WHEN = {
    "guard": "nothing is wrong, and it should stay so: it does nothing until the return falls",
    "selective": "a task must be kept while another is learned",
    "remember": "a task must be kept while another is learned, and nothing may change before",
    "keeper": "a task must be kept while another is learned, and the agent must learn freely",
    "rehearse": "a task must be kept while another is learned",
    "cascade": "a task must be kept while another is learned",
    "churn": "updates are unsteady",
    "mirror": "updates are unsteady",
    "ema": "updates are unsteady",
    "best": "a long run peaks and declines",
    "reborn": "a long run has stopped learning",
    "phasic": "the values are hard to learn, and have more to say to the policy's features",
    "kickstart": "there is a trained agent that can teach",
    "retain": "the agent itself is trained, and is trained on: fine-tuning",
    "snapshot": "to study self-distillation at its plainest",
    "ensemble": "to study self-distillation at its plainest",
}


def run(argv: Sequence[str]) -> int:
    """List the recipes, or tell of one.

    :raises UserError: when there is no such recipe.
    """
    if argv and argv[0] in ("-h", "--help"):
        say(_USAGE)
        return 0
    if len(argv) > 1:
        raise UserError(f"rlsd recipes takes one name, got {' '.join(argv)!r}")
    from rlsd.presets import DEFAULT, describe, recipes

    if argv:
        names = argv[0].split("+")
        with blame_input():
            for name in names:
                describe(name)  # each is known before one is told
        for place, name in enumerate(names):
            if place:
                say()
            _tell(name)
        return 0
    width = max(map(len, recipes()))
    for name in recipes():
        say(f"{name:<{width}}  {describe(name)}")
    say(f"\nThe default is {DEFAULT}, both at once. rlsd recipes NAME tells more of one.")
    return 0


def _tell(name: str) -> None:
    from rlsd.presets import DEFAULT, describe, source
    from rlsd.presets import recipe as answers

    with blame_input():
        said = describe(name)
        # Kickstart's teacher is the user's, and has no default.
        changes: dict[str, Any] = {"teacher": "TEACHER.zip"} if name == "kickstart" else {}
        config = answers(name, **changes)
    also = " --distill teacher.path=TEACHER.zip --trust" if name == "kickstart" else ""
    say(f"{name}{', of the default' if name in DEFAULT.split('+') else ''}: {said}")
    if name in WHEN:
        say(f"Take it when  {WHEN[name]}")
    say(f"Source        {source(name)}")
    say(f"Use it        rlsd train --env CartPole-v1 --recipe {name}{also}")
    say(f"Change it     --distill KEY=VALUE, with the keys below, e.g. teacher.{_example(config.to_dict())}\n")
    say(config.to_yaml().rstrip())


def _example(config: dict[str, dict[str, object]]) -> str:
    """Return a field of the teacher with its value; its type where it has no other."""
    fields = [*config["teacher"].items()]
    name, value = next((pair for pair in fields if pair[0] != "type"), fields[0])
    return f"{name}={value}"
