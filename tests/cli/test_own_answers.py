"""Answers that are defined in the module that ``--env`` names."""

import sys

import gymnasium as gym
import pytest
import torch
import yaml

from rlsd.cli.main import main
from rlsd.cli.runfolder import file_name
from rlsd.cli.two_tasks import Settings
from rlsd.config import _REGISTRY

MODULE = """
from dataclasses import dataclass

import gymnasium as gym

from rlsd.config import number
from rlsd.strength import Strength

gym.register("Wavy-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)


@dataclass(frozen=True)
class Wave(Strength, name="wave"):
    height: float = number(1.0)

    def at(self, remaining):
        return self.height
"""
QUICK = ["--no-progress", "--eval-freq", "0", "-params", "n_envs:2", "n_steps:32", "batch_size:32"]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def forget(tmp_path, monkeypatch):
    """Make the module, and return what has to be called for it to be as in a process that has just begun."""
    (tmp_path / "wavy_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def forget():
        sys.modules.pop("wavy_module", None)
        gym.registry.pop("Wavy-v0", None)
        _REGISTRY["strength"].pop("wave", None)

    yield forget
    forget()


@pytest.mark.parametrize("env", ["wavy_module:Wavy-v0", "wavy_module:CartPole-v1"])
def test_a_run_takes_them_and_goes_on_with_them(forget, tmp_path, env):
    train = ["train", *QUICK, "-f", str(tmp_path / "logs"), "--recipe", "guard"]
    assert main([*train, "--env", env, "-n", "64", "--distill", "strength={type: wave, height: 0.5}"]) == 0, "new"
    run = tmp_path / "logs" / "ppo" / f"{file_name(env)}_1"
    written = yaml.safe_load((run / file_name(env) / "distill.yml").read_text())
    assert (written["strength"]["type"], written["strength"]["height"]) == ("wave", 0.5)
    forget()
    assert main(["train", "--resume", str(run), "-n", "128"]) == 0, "resumed"


def test_what_is_wrong_in_them_is_one_line(forget, tmp_path, capsys):
    words = ["--env", "wavy_module:Wavy-v0", "--distill", "strength={type: wave, height: -1}"]
    assert main(["train", *words, "-f", str(tmp_path / "logs")]) == 2
    assert capsys.readouterr().err == "error: strength.height must be a number >= 0, got -1\n"


def test_a_trial_of_retention_takes_them(forget):
    settings = Settings("wavy_module:Wavy-v0", {}, "ppo", 0, 64, 1, 1, {}, {"strength": "wave"}, "cpu")
    assert settings.plan().distill.strength.name == "wave"
