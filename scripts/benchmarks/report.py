"""What every benchmark says about itself, and the conditions it measures under."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsd.cli.console import say
from rlsd.cli.machine import describe, load_average, machine
from rlsd.cli.provenance import provenance
from rlsd.cli.tables import write_json

if TYPE_CHECKING:
    import torch


def begin(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """Return when, where, by what command and with which versions a benchmark is run, as plain data."""
    command = shlex.join(["python", "scripts/benchmark.py", name, *argv])
    return {"benchmark": name, **provenance([]), "command": command, "machine": machine()}


def finish(figures: dict[str, Any], json_file: str | None) -> None:
    """Print machine and versions, and write all to the file if one was asked for.

    :param figures: what :func:`begin` returned, and what was measured.
    """
    after = load_average()
    say(f"Machine   {describe(figures['machine'])}{f', at the end {after[0]:.2f}' if after else ''}")
    versions = ", ".join(f"{package} {version}" for package, version in figures["versions"].items())
    say(f"Versions  python {figures['python']}, {versions}; commit {figures['git_commit'] or 'unknown'}")
    if json_file is not None:
        write_json(Path(json_file), {**figures, "load_average_after": after})
        say(f"Results   {json_file}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside: more only add noise to a small net."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked to do, which otherwise goes on behind the clock's back."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
