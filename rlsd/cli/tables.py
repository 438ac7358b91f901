"""Figures in columns, for people."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlsd.cli.errors import UserError
from rlsd.io import files


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines with the cells below each other: the first column to the left, the others to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(cells) for cells in aligned)


def check_file(flag: str, path: str | None) -> None:
    """Raise a :class:`UserError` when ``path`` could not be written: before the work, not after it."""
    if path is None:
        return
    folder = next(place for place in Path(path).absolute().parents if place.exists())
    target = Path(path) if Path(path).exists() else folder
    if Path(path).is_dir() or not folder.is_dir() or not os.access(target, os.W_OK):
        raise UserError(f"{flag} {path} cannot be written; name another file")


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(data, indent=2) + "\n")
