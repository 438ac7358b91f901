"""Folders that hold one checkpoint each: replaced whole, never lost, and sealed with checksums.

A folder that takes another's place cannot do so in one step everywhere. The old one goes to ``.NAME.XXXXXXXX/old``, the
new one gets its name, and only then the old one is removed. Whoever looks for checkpoints puts an old one back where a
process was killed between the two.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlsd.io import files

#: What makes a folder a checkpoint, and the checksums of all files in it, as ``sha256sum -c`` reads them.
SUMMARY, CHECKSUMS = "checkpoint.json", "SHA256SUMS"
AGENT, ENVIRONMENT, GENERATORS = "agent.zip", "environment.pkl", "generators.json"
REPLAY_BUFFER, MEMORY, STATISTICS = "replay_buffer.pkl", "memory.safetensors", "vecnormalize.pkl"
_READ = {SUMMARY, AGENT, ENVIRONMENT, GENERATORS, REPLAY_BUFFER, MEMORY, STATISTICS}


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Give a folder to write to, seal it, and put it in ``target``'s place; on failure ``target`` stays."""
    unfinished = files.beside(target)
    unfinished.mkdir()
    try:
        yield unfinished
        seal(unfinished)
        _replace(unfinished, target)
        files.sync_folder(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """Return the latest whole checkpoint that :class:`Checkpoints` left in a folder.

    :raises ValueError: when there is none.
    """
    folder = Path(folder)
    found = checkpoints(folder) if folder.is_dir() else []
    if not found:
        raise ValueError(f"no checkpoint in {folder}")
    return found[-1]


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder that are named by their steps, the earliest first."""
    put_back(folder)
    whole = [path for path in folder.iterdir() if path.name.isdigit() and (path / SUMMARY).is_file()]
    return sorted(whole, key=lambda path: int(path.name))


def put_back(folder: Path) -> None:
    """Give folders their names back that a process was killed in replacing."""
    for old in folder.glob(".*/old"):
        # "-" is what stood there in checkpoints of rlsd 0.1.
        name = re.fullmatch(r"\.(.+)[.-][^.-]*", old.parent.name)
        if name is not None and (old / SUMMARY).is_file() and not (folder / name[1]).exists():
            with suppress(OSError):  # a disk that is only to be read
                os.replace(old, folder / name[1])


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes left half written, in a folder of checkpoints named by their steps."""
    put_back(folder)
    for left in folder.glob(".[0-9]*[.-]*"):
        shutil.rmtree(left, ignore_errors=True)


def damage(folder: Path) -> str | None:
    """Name the damage to a checkpoint, None where nothing is damaged, or where it has no checksums to tell."""
    sums = folder / CHECKSUMS
    try:
        if not sums.is_file():
            sealed = CHECKSUMS.encode() in (folder / SUMMARY).read_bytes()
            return f"{sums} is missing" if sealed else None
        listed = [re.fullmatch(r"([0-9a-f]{64})  ([^/\\]+)", line) for line in sums.read_text("utf-8").split("\n")[:-1]]
        expected = {line[2]: line[1] for line in listed if line is not None}
        if None in listed:
            return f"{sums} is damaged: not every line is a checksum and a name"
        for name, checksum in expected.items():
            if not (folder / name).is_file():
                return f"{folder / name} is missing"
            if _checksum(folder / name) != checksum:
                return f"{folder / name} is damaged: it does not match its checksum in {CHECKSUMS}"
        unlisted = sorted(_READ & {path.name for path in folder.iterdir()} - expected.keys())
        return f"{sums} is damaged: it does not tell of {unlisted[0]}" if unlisted else None
    except (OSError, UnicodeError) as error:
        return f"{folder} cannot be read: {error}"


def whole_before(folder: Path) -> Path | None:
    """Return the latest checkpoint before this one in which nothing is damaged, None when there is none."""
    if not folder.name.isdigit():
        return None
    older = [path for path in checkpoints(folder.parent) if int(path.name) < int(folder.name)]
    return next((path for path in reversed(older) if damage(path) is None), None)


def seal(folder: Path) -> None:
    """Write down the checksum of every file, and see all of them on the disk."""
    lines = [f"{_checksum(file)}  {file.name}\n" for file in sorted(folder.iterdir()) if file.name != CHECKSUMS]
    (folder / CHECKSUMS).write_text("".join(lines), "utf-8", newline="\n")
    for file in folder.iterdir():
        files.sync(file)
    files.sync_folder(folder)


def _checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _replace(new: Path, target: Path) -> None:
    if not target.exists():
        os.replace(new, target)
        return
    aside = files.beside(target)
    aside.mkdir()
    try:
        os.replace(target, aside / "old")
        os.replace(new, target)
    finally:
        put_back(target.parent)  # where the second step failed
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
