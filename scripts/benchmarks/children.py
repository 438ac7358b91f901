"""Runs that need a process of their own: a cold start is part of what is measured, or the peer lives elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsd.cli.errors import UserError

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan

_PLAIN = Path(__file__).with_name("plain_child.py")
#: Where the package of the benchmarks lies.
_SCRIPTS = Path(__file__).resolve().parents[1]


class ChildError(RuntimeError):
    """A process did not come to its end; the message is its last line."""


def run_rlsd(task: dict[str, Any]) -> dict[str, Any]:
    """Run :mod:`benchmarks.rlsd_child`, and return what it says."""
    return _run([sys.executable, "-m", "benchmarks.rlsd_child"], task)


def run_plain(task: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """Run the plain child by its path, with nothing of rlsd.

    :param python: the interpreter to run it with.
    """
    return _run([python, str(_PLAIN)], task)


def rlsd_task(plan: Plan, do: str, seed: int, **more: Any) -> dict[str, Any]:
    """Return what the rlsd child is to do."""
    return {"do": do, "options": plan.options.to_dict(), **_common(plan, seed), **more}


def plain_task(plan: Plan, library: str, do: str, seed: int, **more: Any) -> dict[str, Any]:
    """Return what the plain child is to do: the same training, in plain values.

    :param library: the module that the algorithm is taken from.
    :raises UserError: when the plain child cannot do it.
    """
    noise = [key for key in ("noise_type", "noise_std") if plan.hyperparams.values.get(key) not in (None, "none")]
    if noise or "features_extractor_class" in (plan.hyperparams.values.get("policy_kwargs") or {}):
        what = noise[0] if noise else "features_extractor_class"
        raise UserError(f"the hyperparameter {what} cannot be given to a peer in a process of its own: leave it out")
    ours = ("n_envs", "n_timesteps", "normalize", "policy", "noise_type", "noise_std")
    agent = {
        "library": library,
        "algorithm": plan.algorithm.__name__,
        "policy": plan.hyperparams.policy,
        "device": plan.device,
        "kwargs": {key: value for key, value in plan.hyperparams.values.items() if key not in ours},
    }
    return {"do": do, **agent, **_common(plan, seed), **more}


def _common(plan: Plan, seed: int) -> dict[str, Any]:
    return {
        "env_id": plan.env_id,
        "env_kwargs": plan.env_kwargs,
        "n_envs": plan.hyperparams.n_envs,
        "normalize": plan.hyperparams.normalize,
        "n_timesteps": plan.n_timesteps,
        "seed": seed,
    }


def _run(words: list[str], task: dict[str, Any]) -> dict[str, Any]:
    # Both sides with one torch thread: on a small net more only get in each other's way.
    path = os.pathsep.join([str(_SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*words, json.dumps(task)], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=False
        )
    except OSError as error:
        raise ChildError(f"{words[0]} cannot be run: {error.strerror}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ChildError(said[-1])
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
