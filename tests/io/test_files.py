"""Files that are whole or as they were."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import rlsd
from rlsd.io import files

SOURCES = sorted(Path(rlsd.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("broken", ["os.fsync", "os.replace", "pathlib.Path.write_bytes"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken, error):
    def fail(*_, **__):
        raise error("disk full")

    target = tmp_path / "a.json"
    files.write_text(target, "old")
    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(error, match="disk full"):
            files.write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    files.write_text(target, "new")
    assert target.read_text() == "new"


def test_what_is_written_is_on_the_disk_before_it_takes_its_place_and_its_name_afterwards(tmp_path, monkeypatch):
    did = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: did.append("sync") or sync(handle))
    monkeypatch.setattr(os, "replace", lambda *places: did.append("replace") or replace(*places))
    files.write_bytes(tmp_path / "a", b"x")
    assert did == ["sync", "replace", "sync"]


def test_a_new_file_has_the_rights_that_any_new_file_has(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_only_what_a_killed_process_left_is_cleared_away(tmp_path):
    target = tmp_path / "a.zip"
    left = files.beside(target, files.PARTIAL)
    for path in (target, left, tmp_path / ".hidden", tmp_path / "b.part"):
        path.touch()
    files.clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.zip", "b.part"]


def test_nothing_else_puts_a_file_in_place_or_writes_one_where_it_will_stay():
    """Every way to write a file goes through ``rlsd.io.files``; those that may write otherwise are named here."""
    allowed = {
        "files.py": {"os.replace", "write_bytes"},
        "folders.py": {"os.replace", "write_text"},  # within a folder that is not in its place yet
        "resume.py": {"write_text", "write_bytes"},  # the same
        "evaluation.py": {"savez"},  # to memory
        "push.py": {"write_text"},  # in a temporary folder that goes to the Hub
        "plot.py": {"savefig"},  # to what stands in for the file until it is whole
    }
    for source in SOURCES:
        tree = ast.parse(source.read_text())
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        found = {name.rpartition(".")[2] for name in called if not name.startswith(("files.", "folder."))}
        found &= {"write_text", "write_bytes", "mkstemp", "mkdtemp", "savez", "savefig"}
        found |= called & {"os.replace", "os.rename", "shutil.move"}
        assert found <= allowed.get(source.name, set()), f"{source} writes by itself"
