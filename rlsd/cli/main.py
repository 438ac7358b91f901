"""``rlsd``: finds the command, and turns what can go wrong outside it into one line and an exit code."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.popen_fork
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rlsd.cli.console import say, swallow_failures, warn
from rlsd.cli.errors import MachineError, UserError, choices, refusal
from rlsd.cli.interrupt import interrupt, on_signals
from rlsd.version import __version__
from rlsd_envs.lifeline import SIGNALS, guard

EXIT_REFUSED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Command(NamedTuple):
    """A subcommand: the module whose ``run(argv) -> exit code`` does it, and a line for the help."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("rlsd.cli.demo", "see in two minutes what it is for: a task kept that plain SB3 forgets"),
    "train": Command("rlsd.cli.train", "train an agent: rlsd train --env CartPole-v1"),
    "enjoy": Command("rlsd.cli.enjoy", "watch a saved agent, in a window or as a film"),
    "evaluate": Command("rlsd.cli.evaluate", "measure a saved agent, also against another one"),
    "plot": Command("rlsd.cli.plot", "draw learning curves of runs"),
    "export": Command("rlsd.cli.export", "write a saved agent as ONNX, or its weights as safetensors"),
    "push": Command("rlsd.cli.push", "push a run's agent to the Hugging Face Hub"),
    "pull": Command("rlsd.cli.pull", "fetch an agent from the Hub, pushed by rlsd or rl_zoo3"),
    "tune": Command("rlsd.cli.tune", "search for better hyperparameters, with Optuna"),
    "compare": Command("rlsd.cli.compare", "train variants on many seeds and compare them"),
    "doctor": Command("rlsd.cli.doctor", "tell what is installed here, and how fast this machine is"),
    "recipes": Command("rlsd.cli.recipes", "list the recipes that --recipe takes; NAME tells of one"),
}


def main(argv: Sequence[str] | None = None, commands: Mapping[str, Command] = COMMANDS, program: str = "rlsd") -> int:
    """Run one command and return its exit code.

    0: done; 1: the machine refused something, such as room on its disk; 2: wrong input; 130: stopped by a signal.

    :param argv: the words after the program; those of this process by default.
    :param commands: the subcommands by name.
    :param program: what the help calls the program.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = _as_line
    try:
        with on_signals(interrupt):
            return _dispatch(words, commands, program)
    except KeyboardInterrupt:
        warn("stopped")
        return EXIT_INTERRUPTED
    except Exception as error:
        said = str(error) if isinstance(error, (UserError, MachineError)) else refusal(error)
        if said is None:
            raise
        if "--debug" in words:
            traceback.print_exc()
        warn(f"error: {said}")
        return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_REFUSED


def run_program(run: Callable[[], int]) -> int:
    """Run a command as all that this process does, and return its exit code.

    :param run: calls :func:`main`.
    """
    swallow_failures()
    _leave_disk_errors_to_those_who_wrote()
    # A worker that ignores what Python's own `terminate` sends would be waited for without end.
    multiprocessing.popen_fork.Popen.terminate = multiprocessing.popen_fork.Popen.kill  # type: ignore[method-assign]
    guard(os.getpid())
    try:
        return run()
    finally:
        for number in SIGNALS:  # nothing is left to be stopped
            signal.signal(number, signal.SIG_IGN)
        for child in multiprocessing.active_children():
            child.kill()


def _leave_disk_errors_to_those_who_wrote() -> None:
    """Print no traceback where a thread or a finalizer meets a full disk, too: whoever wrote says it."""
    unraisable, unhandled = sys.unraisablehook, threading.excepthook

    def quiet_unraisable(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, OSError):
            unraisable(found)

    def quiet_unhandled(found: threading.ExceptHookArgs) -> None:
        if not isinstance(found.exc_value, OSError):
            unhandled(found)

    sys.unraisablehook, threading.excepthook = quiet_unraisable, quiet_unhandled


def _as_line(message: Warning | str, *_: object, **__: object) -> str:
    """Return a warning as a person reads it: Python's own form shows the line of code that gave it."""
    return f"warning: {' '.join(str(message).split())}\n"


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
