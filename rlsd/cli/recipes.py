"""``rlsd recipes``: the names that ``--recipe`` takes, with a line about each."""

from __future__ import annotations

from collections.abc import Sequence

from rlsd.cli.console import say
from rlsd.cli.errors import UserError


def run(argv: Sequence[str]) -> int:
    """List the recipes. Takes no arguments but ``--help``."""
    if argv and argv[0] in ("-h", "--help"):
        say("usage: rlsd recipes\n\nList the recipes that rlsd train --recipe takes.")
        return 0
    if argv:
        raise UserError(f"rlsd recipes takes no arguments, got {' '.join(argv)!r}")
    from rlsd.presets import describe, recipes

    width = max(map(len, recipes()))
    for name in recipes():
        say(f"{name:<{width}}  {describe(name)}")
    return 0
