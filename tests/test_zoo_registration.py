"""rl_zoo3 and rlsd take what the other made. RLSD_ZOO_PYTHON names the Python of an environment that has rl_zoo3."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from stable_baselines3 import PPO, SAC

import rlsd
from rlsd.cli.main import main
from rlsd.io import checkpoint

ROOT = Path(__file__).parent.parent


def test_the_table_of_rl_zoo3_gets_the_wrapped_algorithms(monkeypatch):
    table = {"ppo": PPO, "sac": SAC}
    monkeypatch.setitem(sys.modules, "rl_zoo3", types.ModuleType("rl_zoo3"))
    utils = types.ModuleType("rl_zoo3.utils")
    utils.ALGOS = table
    monkeypatch.setitem(sys.modules, "rl_zoo3.utils", utils)
    for _ in range(2):  # a second time changes nothing
        assert rlsd.register_in_zoo() == ("ppo", "sac")
        assert table == {"ppo": rlsd.SelfDistilled(PPO), "sac": rlsd.SelfDistilled(SAC)}


def zoo_run(folder):
    """A run as rl_zoo3 leaves it."""
    root = folder / "ppo" / "CartPole-v1_1"
    (root / "CartPole-v1").mkdir(parents=True)
    (root / "CartPole-v1" / "args.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - algo\n    - ppo\n"
    )
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0)
    for name in ("CartPole-v1.zip", "rl_model_90_steps.zip", "rl_model_600_steps.zip"):
        agent.save(root / name)
    return root


def test_a_run_of_rl_zoo3_cannot_be_resumed_and_the_line_that_goes_on_works(tmp_path, capsys):
    root = zoo_run(tmp_path)
    assert main(["train", "--resume", str(root)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is a run of rl_zoo3, without exact checkpoints: use rlsd train --env" in said
    words = said.split("use rlsd ")[1].split()
    small = ["-n", "64", "--no-progress", "--eval-episodes", "0", "-params", "n_steps:32", "n_envs:1", "batch_size:32"]
    assert main([*words, *small, "-f", str(tmp_path / "logs")]) == 0


def test_checkpoints_of_rl_zoo3_are_found(tmp_path, capsys):
    root = zoo_run(tmp_path)
    for words, name in ((["--load-last-checkpoint"], "600"), (["--load-checkpoint", "90"], "90")):
        assert main(["enjoy", str(root), *words, "--no-render", "-n", "20"]) == 0
        assert f"rl_model_{name}_steps.zip" in capsys.readouterr().out
    assert main(["enjoy", str(root), "--load-checkpoint", "91", "--no-render"]) == 2


def zoo_python():
    named = os.environ.get("RLSD_ZOO_PYTHON")
    if named is None and importlib.util.find_spec("rl_zoo3") is None:
        pytest.skip("rl_zoo3 is not installed: RLSD_ZOO_PYTHON names a Python that has it")
    return named or sys.executable


@pytest.mark.slow  # four processes that import torch and SB3
def test_each_takes_what_the_other_made(tmp_path, capsys):
    python, path = zoo_python(), os.pathsep.join(map(str, (ROOT, ROOT / "envs")))

    def zoo(command, *words):
        run = [python, "-m", f"rl_zoo3.{command}", "--algo", "ppo", "--env", "CartPole-v1", "-f", "logs", *words]
        done = subprocess.run(run, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ["-n", "128", "-params", "n_steps:32", "n_envs:2", "batch_size:32"]
    logs = tmp_path / "logs"
    assert main(["train", "--env", "CartPole-v1", *small, "-f", str(logs), "--no-progress", "--eval-freq", "64"]) == 0
    for best in ([], ["--load-best"]):
        assert "Mean reward" in zoo("enjoy", "--no-render", "-n", "600", *best)
    zoo("train", "--gym-packages", "rlsd.zoo", "--eval-freq", "-1", "--save-freq", "64", *small, "distill:'snapshot'")
    second = logs / "ppo" / "CartPole-v1_2"
    saved = checkpoint.read(second / "CartPole-v1.zip", PPO)  # unpickles nothing: that would ask for rl_zoo3
    assert saved is not None and saved.config() == rlsd.recipe("snapshot"), "rl_zoo3 did not distil"
    assert main(["evaluate", str(second), "--eval-episodes", "2", "--load-last-checkpoint"]) == 0
    start = ["-i", str(second / "CartPole-v1.zip")]
    assert main(["train", "--env", "CartPole-v1", *start, *small, "-f", str(logs), "--no-progress"]) == 0
