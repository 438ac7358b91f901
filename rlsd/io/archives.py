"""Reading zips that may come from anybody: what unfolds is bounded, whatever the file claims.

SB3 compresses nothing, but its zips are plain archives that people open and put back together, mostly compressed. So
compression is no fault. What an entry claims to unfold into is looked at first, and what really unfolds is counted.
"""

from __future__ import annotations

import copy
import io
import zipfile
from collections.abc import Iterator

from rlsd.memory import readable

#: What compressed entries may unfold into, all together: so many bytes, or so many times the file, whichever is more.
#: Weights shrink by a tenth, stored images to a tenth, grids of a few ones to a fiftieth; zeros to a thousandth.
_BYTES, _TIMES = 256 * 10**6, 100
#: Bytes asked for at a time. zipfile stops there when it inflates; of other methods it unfolds all that it read, and
#: 4 kB of bzip2 can become 80 MB.
_PIECE, _SMALL_PIECE = 1 << 18, 1 << 12


def check_sizes(archive: zipfile.ZipFile) -> None:
    """Raise when a zip claims to unfold into far more than its file holds.

    :raises zipfile.BadZipFile: then.
    """
    assert archive.fp is not None
    held = archive.fp.seek(0, io.SEEK_END)
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED) > held:
        raise zipfile.BadZipFile("its entries claim to be larger than the file")
    claimed, allowed = sum(entry.file_size for entry in entries), max(_BYTES, _TIMES * held)
    if claimed > allowed:
        raise zipfile.BadZipFile(
            f"its {readable(held)} would unfold into {readable(claimed)}, more than the {readable(allowed)} that are "
            "read of such a file: if it is yours, put it together without compression (zip -0)"
        )


def unfold(archive: zipfile.ZipFile, entry: str, limit: int | None = None) -> bytes:
    """Return what an entry holds.

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
    known = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    found = 0
    with archive.open(one_more) as file:
        while piece := file.read(_PIECE if known else _SMALL_PIECE):
            found += len(piece)
            if found > claimed:
                break
            yield piece
    if found != claimed:
        raise zipfile.BadZipFile(f"the entry {info.filename!r} does not hold the {claimed} bytes that it claims")
