"""``rlsd``: finds the command, and turns wrong input into one line and exit code 2."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlsd.cli.console import say, warn
from rlsd.cli.errors import UserError, choices
from rlsd.version import __version__

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Command(NamedTuple):
    """A subcommand: the module whose ``run(argv) -> exit code`` does it, and a line for the help."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("rlsd.cli.train", "train an agent: rlsd train --env CartPole-v1"),
    "compare": Command("rlsd.cli.compare", "train variants on many seeds and compare them"),
    "recipes": Command("rlsd.cli.recipes", "list the recipes that --recipe takes"),
}


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Command] = COMMANDS, program: str = "rlsd") -> int:
    """Run one command and return its exit code: 0 done, 2 wrong input, 130 stopped by Ctrl-C.

    :param argv: the words after the program; those of this process by default.
    :param commands: the subcommands by name.
    :param program: what the help calls the program.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words, commands, program)
    except UserError as error:
        if "--debug" in words:
            traceback.print_exc()
        warn(f"error: {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        warn("stopped")
        return EXIT_INTERRUPTED


def _dispatch(words: list[str], commands: Mapping[str, Command], program: str) -> int:
    if not words or words[0] in ("-h", "--help"):
        say(_help(commands, program))
        return 0
    if words[0] == "--version":
        say(f"rlsd {__version__}")
        return 0
    if words[0] not in commands:
        known = choices(words[0], commands, "commands")
        raise UserError(f"unknown command {words[0]!r}; {known}")
    exit_code: int = importlib.import_module(commands[words[0]].module).run(words[1:])
    return exit_code


def _help(commands: Mapping[str, Command], program: str) -> str:
    lines = [f"  {name:<10} {command.summary}" for name, command in commands.items()]
    head = [f"usage: {program} [--version] COMMAND ...", "", "Self-distillation for Stable-Baselines3 agents.", ""]
    return "\n".join([*head, *lines, "", f"{program} COMMAND --help says what a command takes."])


if __name__ == "__main__":
    sys.exit(main())
