"""Is an average of the weights the better agent to act with? Runs of ``rlsd train --average`` judge both alike.

python scripts/experiments/averages.py --env CartPole-v1 --results docs/results/averages-cartpole.json

Of each seed: the mean and the worst evaluation over the second half of training, and the final return. What the file
has already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rlsd import __version__
from rlsd.cli.main import main as rlsd


def trial(env: str, algo: str, steps: int, seed: int) -> dict[str, Any]:
    """Train plain SB3 with an average, and return what both earned."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["train", "--env", env, "--algo", algo, "-n", str(steps), "--seed", str(seed), "-f", folder]
        words = ["--baseline", "--average", "--no-progress", "--eval-freq", str(steps // 20), "--num-threads", "1"]
        if rlsd([*run, *words]) != 0:
            raise SystemExit(f"the training with seed {seed} failed")
        (root,) = Path(folder, algo).iterdir()
        final = json.loads((root / "results.json").read_text())
        with np.load(root / "evaluations.npz") as found:
            half = len(found["timesteps"]) // 2
            both = {"live": found["results"][half:].mean(1), "average": found["average_results"][half:].mean(1)}
    returns = {"live": final["mean_reward"], "average": final["average"]["mean_reward"]}
    return {
        name: {"mean": float(seen.mean()), "worst": float(seen.min()), "final": returns[name]}
        for name, seen in both.items()
    }


def main() -> None:
    """Run the trials that are missing, and print the means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", required=True)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    data = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    names = [f"{asked.algo} {asked.env} {asked.steps} seed {seed}" for seed in asked.seeds]
    for seed, name in zip(asked.seeds, names, strict=True):
        if name not in data:
            data[name] = trial(asked.env, asked.algo, asked.steps, seed) | {"version": __version__}
            lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
            asked.results.write_text("{\n" + lines + "\n}\n")
    for who in ("live", "average"):
        means = {key: np.mean([data[name][who][key] for name in names]) for key in ("mean", "worst", "final")}
        print(f"{who:<8}" + "".join(f"  {key} {value:.1f}" for key, value in means.items()), flush=True)


if __name__ == "__main__":
    main()
