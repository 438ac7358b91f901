"""What a run was made with: versions, git commit, command. Enough to make it again."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlsd.version import __version__

_PACKAGES = ("stable-baselines3", "gymnasium", "torch", "numpy")


def provenance(argv: Sequence[str]) -> dict[str, Any]:
    """Return when, by what command and with which versions this process trains, as plain data."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(argv),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "versions": {"rlsd": __version__, **{package: package_version(package) for package in _PACKAGES}},
    }


def command(argv: Sequence[str], program: Sequence[str] = ("rlsd",)) -> str:
    """Return the command line, ready to be pasted into a shell.

    :param program: the words that start rlsd there.
    """
    return shlex.join([*program, "train", *argv])


def git_commit() -> str | None:
    """Return the commit of the checkout that rlsd runs from, with ``-dirty`` after changes; None when installed."""
    checkout = Path(__file__).resolve().parents[2]
    # A package in somebody's .venv would otherwise be given the commit of the project around it.
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def package_version(package: str) -> str | None:
    """Return the installed version of a package, None when it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
