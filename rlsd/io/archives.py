"""Zips: of those that may come from anybody what unfolds is bounded, whatever the file claims.

SB3 compresses nothing, but its zips are plain archives that people open and put back together, mostly compressed. So
compression is no fault. What an entry claims to unfold into is looked at first, and what really unfolds is counted.
"""

from __future__ import annotations

import bz2
import copy
import io
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from rlsd.memory import readable

#: What compressed entries may unfold into, all together: so many bytes, or so many times the file, whichever is more.
#: Weights shrink by a tenth, stored images to a tenth, grids of a few ones to a fiftieth; zeros to a thousandth.
_BYTES, _TIMES = 256 * 10**6, 100
#: Each entry takes time, also an empty one. An agent has ten, and a file of torch's one for each tensor.
_ENTRIES = 10_000
#: Bytes asked for at a time. zipfile stops there when it inflates. Of lzma it unfolds all that it read, 7,000 times as
#: much at most; of bzip2 too, and there a few hundred bytes can become a GB, so it is not asked.
_PIECE, _SMALL_PIECE = 1 << 18, 1 << 12


def check_sizes(archive: zipfile.ZipFile) -> None:
    """Raise when a zip claims to unfold into far more than its file holds.

    :raises zipfile.BadZipFile: then.
    """
    assert archive.fp is not None
    held = archive.fp.seek(0, io.SEEK_END)
    entries = archive.infolist()
    if len(entries) > _ENTRIES:
        raise zipfile.BadZipFile(f"it has {len(entries):,} entries, at most {_ENTRIES:,} expected")
    if sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED) > held:
        raise zipfile.BadZipFile("its entries claim to be larger than the file")
    claimed, allowed = sum(entry.file_size for entry in entries), max(_BYTES, _TIMES * held)
    if claimed > allowed:
        raise zipfile.BadZipFile(
            f"its {readable(held)} would unfold into {readable(claimed)}, more than the {readable(allowed)} that are "
            "read of such a file: if it is yours, put it together without compression (zip -0)"
        )


def unfold(archive: zipfile.ZipFile, entry: str, limit: int | None = None) -> bytes:
    """Return the content of an entry.

    :param limit: in bytes; more than that is not even begun.
    :raises KeyError: when there is no such entry.
    :raises zipfile.BadZipFile: when it is damaged, or larger than it claims or may be.
    """
    info = archive.getinfo(entry)
    if limit is not None and info.file_size > limit:
        size = f"{readable(info.file_size)}, at most {readable(limit)} expected"
        raise zipfile.BadZipFile(f"its entry {entry!r} is too large: {size}")
    return b"".join(_pieces(archive, info))


def broken(archive: zipfile.ZipFile) -> str | None:
    """Return the name of an entry that is damaged or larger than it claims, None when there is none."""
    for info in archive.infolist():
        try:
            for _ in _pieces(archive, info):
                pass
        except zipfile.BadZipFile:
            return info.filename
    return None


def _pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    claimed = info.file_size
    one_more = copy.copy(info)  # else zipfile stops at the claim, and nobody learns that there is more
    one_more.file_size = claimed + 1
    size = _SMALL_PIECE if info.compress_type == zipfile.ZIP_LZMA else _PIECE
    found, crc = 0, 0
    with _bunzipped(archive, info) if info.compress_type == zipfile.ZIP_BZIP2 else archive.open(one_more) as file:
        while piece := file.read(size):
            found += len(piece)
            if found > claimed:
                break
            crc = zlib.crc32(piece, crc)
            yield piece
    if found != claimed or crc != info.CRC:
        raise zipfile.BadZipFile(f"the entry {info.filename!r} does not hold the {claimed} bytes that it claims")


def _bunzipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a bzip2 entry so that no more is unfolded than is asked for."""
    raw: Any = copy.copy(info)
    raw.compress_type, raw.file_size, raw.CRC = zipfile.ZIP_STORED, info.compress_size, None
    return bz2.BZ2File(archive.open(raw))


@contextmanager
def dates_that_zips_take() -> Iterator[None]:
    """Let zips be written inside whatever the clock says: without a battery it begins in 1970, and zips in 1980."""
    year = time.localtime().tm_year
    if 1980 <= year <= 2107:
        yield
        return
    clock: Any = zipfile.time  # type: ignore[attr-defined] # the module that zipfile asks
    zipfile.time = SimpleNamespace(time=clock.time, localtime=lambda *_: (1980, 1, 1, 0, 0, 0, 0, 1, 0))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        zipfile.time = clock  # type: ignore[attr-defined]


def with_suffix(path: Any) -> Path:
    """Return the file that SB3 means by a path: ``.zip`` is added when it has no suffix."""
    return Path(path) if Path(path).suffix else Path(f"{os.fspath(path)}.zip")
