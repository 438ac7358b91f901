"""SB3's own tests: run wrapped, and told from those that fail in plain SB3 too."""

from __future__ import annotations

import pytest
from experiments import sb3_tests

SUITE = """
import pytest
from stable_baselines3 import PPO
from stable_baselines3.ppo import PPO as by_its_package


class TestAgents:
    @pytest.mark.parametrize("algorithm", [PPO])
    def test_learns(self, algorithm):
        agent = algorithm("MlpPolicy", "CartPole-v1", n_steps=64, n_epochs=1, device="cpu").learn(64)
        assert by_its_package is algorithm and agent.distiller.config.teacher.every == 32


def test_passes_in_plain_sb3_only():
    assert not hasattr(PPO, "distiller") and PPO.__mro__[1].__name__ != "PPO"


def test_fails_anywhere():
    assert not PPO
"""


@pytest.mark.slow  # two children that import torch and SB3
def test_what_passes_in_plain_sb3_only_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE)
    (tmp_path / "pyproject.toml").write_text("")
    command = ["sb3_tests.py", str(tmp_path), "--recipes", "snapshot", "--every", "32"]
    monkeypatch.setattr("sys.argv", command)
    assert sb3_tests.main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "snapshot: 1 passed, 0 skipped, 1 failed in plain SB3 too, 1 differ",
        "  tests/test_suite.py::test_passes_in_plain_sb3_only: not known why",
    ]
    monkeypatch.setattr(sb3_tests, "KNOWN", {"plain_sb3_only": "it asks for plain SB3"})
    monkeypatch.setattr("sys.argv", [*command, "--", "-k", "plain_sb3_only"])
    assert sb3_tests.main() == 0
    assert "it asks for plain SB3" in capsys.readouterr().out


def test_what_is_no_checkout_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sb3_tests.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="is no checkout of SB3"):
        sb3_tests.main()
