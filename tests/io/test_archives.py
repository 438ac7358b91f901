"""Zips of anybody's: compressed or not they are read, and nothing unfolds beyond its bounds."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from typing import Any

import pytest

from rlsd.io.archives import broken, check_sizes, unfold

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
every_method = pytest.mark.parametrize("method", METHODS)


def zipped(content: bytes, method: int = zipfile.ZIP_DEFLATED, **claims: int) -> zipfile.ZipFile:
    """A zip of one entry; ``claims`` are what its directory says instead of the truth."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("entry", content)
        info: Any = archive.getinfo("entry")
        for name, value in claims.items():
            setattr(info, name, value)
    return zipfile.ZipFile(out)


@every_method
@pytest.mark.parametrize("size", [0, 1, 1 << 12, (1 << 18) + 1])
def test_an_entry_is_read_whole(method, size):
    content = bytes(i * i % 251 for i in range(size))
    archive = zipped(content, method)
    check_sizes(archive)
    assert unfold(archive, "entry", limit=size) == content
    assert broken(archive) is None


@every_method
def test_an_entry_that_holds_more_than_it_claims_is_damaged(method):
    archive = zipped(bytes(3 * 10**6), method, file_size=10)
    with pytest.raises(zipfile.BadZipFile):
        unfold(archive, "entry")
    assert broken(archive) == "entry"


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_entry_that_holds_less_than_it_claims_is_damaged(method):
    archive = zipped(bytes(1000), method, file_size=2000)
    with pytest.raises(zipfile.BadZipFile, match="does not hold the 2000 bytes"):
        unfold(archive, "entry")
    assert broken(archive) == "entry"


@every_method
def test_more_than_the_limit_is_not_begun(method):
    archive = zipped(bytes(1001), method)
    with pytest.raises(zipfile.BadZipFile, match=r"'entry' is too large: 1\.0 KB, at most 1\.0 KB expected"):
        unfold(archive, "entry", limit=1000)


@pytest.mark.parametrize(
    ("claim", "refused"), [(256 * 10**6, False), (256 * 10**6 + 1, True), (2**40, True), (2**60, True)]
)
def test_a_small_file_may_unfold_into_no_more_than_some_bytes(claim, refused):
    archive = zipped(bytes(1000), file_size=claim)
    if refused:
        with pytest.raises(zipfile.BadZipFile, match=r"would unfold into .* more than the 256\.0 MB"):
            check_sizes(archive)
    else:
        check_sizes(archive)


def test_many_entries_count_together():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(30):
            archive.writestr(str(number), b"")
            archive.getinfo(str(number)).file_size = 10**7
    with pytest.raises(zipfile.BadZipFile, match="would unfold into"):
        check_sizes(zipfile.ZipFile(out))


def test_a_large_file_may_unfold_into_many_times_itself(monkeypatch):
    monkeypatch.setattr("rlsd.io.archives._BYTES", 10)
    held = 1000
    for size, refused in ((90 * held, False), (101 * held, True)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("entry", b"0" * 990)
            info = archive.getinfo("entry")
            info.file_size = size
        out.write(bytes(held - len(out.getvalue())))
        archive = zipfile.ZipFile(out)
        if refused:
            with pytest.raises(zipfile.BadZipFile, match="would unfold"):
                check_sizes(archive)
        else:
            check_sizes(archive)


def test_an_entry_without_compression_cannot_be_larger_than_the_file():
    archive = zipped(bytes(1000), zipfile.ZIP_STORED, file_size=5000, compress_size=5000)
    with pytest.raises(zipfile.BadZipFile, match="claim to be larger than the file"):
        check_sizes(archive)


@pytest.mark.parametrize("method", METHODS[1:])
def test_no_more_is_unfolded_at_once_than_a_piece(method):
    archive = zipped(bytes(100 * 10**6), method, file_size=100)
    tracemalloc.start()
    with pytest.raises(zipfile.BadZipFile):
        unfold(archive, "entry")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 80 * 10**6


@every_method
def test_a_wrong_checksum_is_damage(method):
    archive = zipped(b"content", method, CRC=1)
    assert broken(archive) == "entry"


def test_entries_without_end_are_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(10_001):
            archive.writestr(str(number), b"")
    with pytest.raises(zipfile.BadZipFile, match="it has 10,001 entries, at most 10,000 expected"):
        check_sizes(zipfile.ZipFile(out))
