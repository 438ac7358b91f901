"""Whole trainings, by the command that people type: every recipe learns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import rlsd
from rlsd.cli.main import main

pytestmark = pytest.mark.slow

_QUIET = ("--no-progress", "--eval-freq", "0", "--save-freq", "0", "--eval-episodes", "20")
NOT_OFF_POLICY = ("phasic",)
Words = Callable[[str, str], list[str]]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(folder: Path, algo: str, env: str, steps: int, seed: int, *words: str) -> Path:
    """Train, and return the run's folder."""
    flags = ("--algo", algo, "--env", env, "-n", str(steps), "--seed", str(seed), "-f", str(folder))
    assert main(["train", *flags, *_QUIET, *words]) == 0
    return max((folder / algo).glob(f"{env}_*"), key=lambda run: int(run.name.rpartition("_")[2]))


def earned(run: Path) -> float:
    """The final greedy agent's mean return."""
    return float(json.loads((run / "results.json").read_text(encoding="utf-8"))["mean_reward"])


#: Plain agents that half know the task teach where a recipe needs a teacher.
TAUGHT_BY = {"ppo": ("CartPole-v1", 30_000), "sac": ("Pendulum-v1", 4000), "dqn": ("CartPole-v1", 50_000)}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    """Return a function from a recipe and an algorithm to the flags that ask for it."""

    @cache
    def teacher(algo: str) -> Path:
        env, steps = TAUGHT_BY[algo]
        return trained(tmp_path_factory.mktemp(algo), algo, env, steps, 100, "--baseline") / f"{env}.zip"

    def found(recipe: str, algo: str) -> list[str]:
        needed = ["--trust", "--distill", f"teacher.path={teacher(algo)}"] if recipe == "kickstart" else []
        return ["--recipe", recipe, *needed]

    return found


@pytest.mark.parametrize("recipe", rlsd.recipes())
def test_ppo_learns_cartpole_with_most_seeds(recipe: str, tmp_path: Path, words: Words) -> None:
    returns = [
        earned(trained(tmp_path, "ppo", "CartPole-v1", 50_000, seed, *words(recipe, "ppo"))) for seed in (0, 1, 2)
    ]
    assert sum(value >= 400 for value in returns) >= 2, returns


@pytest.mark.parametrize("recipe", [name for name in rlsd.recipes() if name not in NOT_OFF_POLICY])
def test_sac_learns_pendulum(recipe: str, tmp_path: Path, words: Words) -> None:
    """A random policy earns about -1200."""
    assert earned(trained(tmp_path, "sac", "Pendulum-v1", 6000, 0, *words(recipe, "sac"))) > -600


@pytest.mark.parametrize("recipe", [name for name in rlsd.recipes() if name not in NOT_OFF_POLICY])
def test_dqn_learns_cartpole(recipe: str, tmp_path: Path, words: Words) -> None:
    """A random policy earns about 20. The best of training counts: at any one step a DQN is good or bad by chance."""
    run = trained(tmp_path, "dqn", "CartPole-v1", 50_000, 0, *words(recipe, "dqn"))
    with (run / "0.monitor.csv").open(encoding="utf-8") as file:
        returns = [float(row["r"]) for row in csv.DictReader(line for line in file if not line.startswith("#"))]
    assert max(np.convolve(returns, np.full(100, 0.01), "valid")) > 100
