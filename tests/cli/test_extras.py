"""Extras: what a command says is missing is what the extra brings."""

import tomllib
from pathlib import Path

import pytest

from rlsd.cli.errors import UserError
from rlsd.cli.extras import EXTRAS, need

DECLARED = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
#: Extras that bring what is imported nowhere: tools.
TOOLS = {"test", "docs"}


def test_no_extra_is_empty():
    assert all(DECLARED.values()), "an extra that installs nothing"


def test_every_extra_that_a_command_may_need_is_known():
    assert EXTRAS.keys() == DECLARED.keys() - TOOLS, "rlsd/cli/extras.py and pyproject.toml differ"


def test_what_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(EXTRAS, "video", ("sys", "no_such_package"))
    with pytest.raises(UserError, match=r"^a film needs no_such_package: pip install 'rlsd\[video\]'$"):
        need("video", "a film")
