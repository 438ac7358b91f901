"""rlsd against plain SB3 on a GPU, within eight minutes: ``python scripts/benchmarks/gpu.py --json FILE``.

The tests marked ``gpu`` first; then trainings in interleaved pairs: PPO with convolutions, SAC, and SAC whose rollouts
are acted on the CPU. CUDA graphs are left out: nothing here has been tested with them. ``--device cpu --quick`` runs
all but the tests without a GPU, to see that it runs. The time left is looked at before every pair.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.envs import FakeImageEnv

import rlsd
from benchmarks.pairs import RATE, Pair, Side, Work, pair_line, spread, time_once, time_pair, to_dict
from benchmarks.report import wait_for
from rlsd.cli.machine import machine
from rlsd.cli.provenance import provenance
from rlsd.cli.tables import write_json

#: Seconds after which no pair is begun.
BUDGET = 7 * 60


class Case(NamedTuple):
    """One training of ``steps`` environment steps, as plain SB3 and as rlsd do it; ``quick`` are few."""

    name: str
    algorithm: Any
    speed: str
    rollout_device: str | None
    steps: int
    quick: int


CASES = (
    Case("ppo-cnn", PPO, "exact", None, 4096, 32),
    Case("sac", SAC, "exact", None, 1500, 24),
    Case("sac-rollouts-on-cpu", SAC, "exact", "cpu", 1500, 24),
    Case("sac-max", SAC, "max", None, 1500, 24),
)


def build(case: Case, device: str, seed: int) -> Any:
    """Make a plain agent."""
    if case.algorithm is SAC:
        return SAC("MlpPolicy", "Pendulum-v1", learning_starts=20, seed=seed, device=device)
    env = FakeImageEnv(screen_height=84, screen_width=84, n_channels=4, discrete=True, channel_first=True)
    assert isinstance(env.observation_space, spaces.Box) and env.observation_space.dtype == np.uint8
    return PPO("CnnPolicy", env, n_steps=min(case.steps, 512), batch_size=32, seed=seed, device=device)


def side(case: Case, device: str, ours: bool) -> Side:
    """Return one way to do it."""

    def prepare(number: int) -> Work:
        agent = build(case, device, number)
        if ours:
            agent = rlsd.accelerate(agent, case.speed, rollout_device=case.rollout_device)

        def run() -> int:
            agent.learn(case.steps)
            wait_for(agent.device)
            return int(agent.num_timesteps)

        return Work(run, agent.get_env().close)

    return Side("rlsd" if ours else "sb3", prepare)


def measure(case: Case, device: str, pairs: int, until: float) -> dict[str, Any]:
    """Time a case in interleaved pairs, as many as there is time for, after a warm-up of both sides."""
    over, under = side(case, device, True), side(case, device, False)
    brief = case._replace(steps=case.quick)
    for ours in (True, False):
        time_once(side(brief, device, ours), 0)
    done: list[Pair] = []
    while len(done) < pairs and time.monotonic() < until:
        first, second = ((way.name, partial(time_once, way, len(done))) for way in (over, under))
        done.append(time_pair(len(done), first, second, RATE))
        print(pair_line(done[-1]), flush=True)
    if not done:
        return {"skipped": "no time left"}
    print(f"{case.name}: wall-clock {spread([pair.wall_ratio for pair in done]).median:.2f}", flush=True)
    return to_dict(over, under, done)


def tests() -> str:
    """Run the tests that need a GPU, and return pytest's last line."""
    words = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "tests"]
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=150, check=False)
    except subprocess.TimeoutExpired:
        return "not done after 150 seconds"
    return (done.stdout.strip().splitlines() or ["nothing said"])[-1]


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the JSON that was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a pair of a few steps each, without the tests")
    parser.add_argument("--json")
    options = parser.parse_args(argv)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: no such device here; --device cpu --quick runs without")
    until = time.monotonic() + BUDGET
    report: dict[str, Any] = {"benchmark": "gpu", **provenance([]), "machine": machine(), "settings": vars(options)}
    report["tests"] = "left out" if options.quick else tests()
    for case in CASES:
        chosen = case._replace(steps=case.quick) if options.quick else case
        report[case.name] = measure(chosen, options.device, 1 if options.quick else options.pairs, until)
    if options.json is not None:
        write_json(Path(options.json), report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
