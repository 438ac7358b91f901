"""Files that are whole or as they were, whatever happens while they are written: the one way in which rlsd writes.

What is to be written goes to a file beside its target, down to the disk, and then takes the target's place. A process
that is killed meanwhile leaves the target as it was, and a file ``.NAME.XXXXXXXX.part``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".part"


@contextmanager
def replacing(target: Path, suffix: str = PARTIAL) -> Iterator[Path]:
    """Give a file to write to, and put it in ``target``'s place once it is whole; on failure ``target`` stays.

    :param suffix: of the file's name, for writers that choose the format by it.
    """
    unfinished = beside(target, suffix)
    unfinished.open("xb").close()  # with the rights of any new file, which tempfile would not give
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, target)
        sync_folder(target.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(target: Path, data: bytes) -> None:
    """Write ``data``, whole or not at all."""
    with replacing(target) as unfinished:
        unfinished.write_bytes(data)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` in UTF-8, whole or not at all."""
    write_bytes(target, text.encode("utf-8"))


def beside(target: Path, suffix: str = "") -> Path:
    """Return a hidden path in the same folder that nobody else uses."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{suffix}")


def sync(file: Path) -> None:
    """Wait until a file is on the disk: a rename may get there before it, and a power failure between the two."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    with suppress(OSError):  # Windows opens no folders, some file systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written. Only where no other process can be writing."""
    for left in folder.glob(f".*{PARTIAL}"):
        left.unlink(missing_ok=True)
