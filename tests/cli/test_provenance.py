"""What a run was made with."""

import re
import shlex

from rlsd.cli import provenance


def test_the_command_can_be_pasted_into_a_shell():
    argv = ["--env", "A-v0", "-params", "policy_kwargs:{net_arch: [8]}"]
    assert shlex.split(provenance.command(argv)) == ["rlsd", "train", *argv], "quoting lost something"


def test_versions_and_commit_are_recorded():
    found = provenance.provenance([])
    assert found["versions"]["stable-baselines3"], "SB3's version is missing"
    assert found["versions"]["rlsd"], "our version is missing"
    commit = found["git_commit"]
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit), f"{commit} is no commit"


def test_no_commit_is_invented_where_rlsd_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site-packages" / "rlsd" / "cli" / "provenance.py"))
    assert provenance.git_commit() is None, "the commit of some project around us was taken"
