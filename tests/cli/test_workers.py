"""``rlsd train --workers``: the rollouts come from workers, and the rest of the run is as ever."""

from __future__ import annotations

import sys

import pytest
import torch
from stable_baselines3 import PPO

import rlsd
from rlsd.cli import plan, workers
from rlsd.cli.main import main

pytestmark = pytest.mark.usefixtures("short_end")


@pytest.fixture
def in_this_process(monkeypatch):
    """Workers in this process, where the flags mean Ray's: those are tested beside them."""

    def local(options):
        return None if options.workers is None else rlsd.LocalWorkers(options.workers, options.envs_per_worker or 1)

    for module in (workers, plan):
        monkeypatch.setattr(module, "workers_of", local)


def train(folder, *words):
    words = (
        "--eval-freq",
        "0",
        "--n-eval-envs",
        "2",
        "--no-progress",
        "-params",
        "normalize:true",
        "n_steps:32",
        "batch_size:64",
        "learning_rate:0.001",
        "clip_range:0.2",
        *words,
    )
    threads = torch.get_num_threads()
    try:
        return main(["train", *words, "-f", str(folder)])
    finally:
        torch.set_num_threads(threads)


def test_a_run_by_workers_is_the_same_for_every_split_and_goes_on_with_another(tmp_path, in_this_process):
    ended = []
    for split, steps in (((2, 2), 512), ((4, 1), 256)):
        folder = tmp_path / str(split[0])
        new = ("--workers", str(split[0]), "--envs-per-worker", str(split[1]), "--vec-env", "dummy")
        assert train(folder, "--env", "CartPole-v1", "-n", str(steps), *new) == 0
        run = folder / "ppo" / "CartPole-v1_1"
        if steps < 512:
            assert main(["train", "--resume", str(run), "-n", "512", "--workers", "1", "--envs-per-worker", "4"]) == 0
        ended.append(rlsd.SelfDistilled(PPO).load(run / "CartPole-v1.zip"))
    one, other = (list(agent.policy.parameters()) for agent in ended)
    assert ended[0].num_timesteps == 512
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


REFUSED = {
    "--ray auto says nothing without --workers": ("--ray", "auto"),
    "--envs-per-worker 4 says nothing without --workers": ("--envs-per-worker", "4"),
    "--n-envs 3 is not what 2 workers of 4 have": ("--workers", "2", "--envs-per-worker", "4", "--n-envs", "3"),
    "--workers must be 1 or more": ("--workers", "0"),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_flags_that_contradict_each_other_are_refused(message, refused):
    assert message in refused("train", "--env", "CartPole-v1", *REFUSED[message])


def test_ray_that_is_missing_is_told_with_its_extra(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refused("train", "--env", "CartPole-v1", "--workers", "2")
    assert "pip install 'rlsd[ray]'" in said
