"""``rlsd doctor``: what a question about rlsd has to say first: versions, devices, threads, extras, and speed."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlsd.cli.console import say
from rlsd.cli.extras import EXTRAS, missing
from rlsd.cli.flags import read_flags
from rlsd.cli.provenance import git_commit, package_version
from rlsd.version import __version__

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

_PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "tensorboard")
#: What other backends than Gymnasium's own need, and the extra that brings it.
_BACKENDS = {"envpool": "envpool", "ale": "ale_py"}
_STEPS, _ENVS = 4096, 8


@dataclass(frozen=True)
class DoctorOptions:
    """Tell what is installed here and how fast this machine trains. Add it to a report of a fault."""

    speed: bool = True
    """Train two small agents for some seconds, with rlsd and with plain SB3."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Tell, and return the exit code."""
    options = read_flags(DoctorOptions(), "rlsd doctor", argv)
    commit = git_commit()
    say(f"rlsd      {__version__}{f' ({commit})' if commit else ''}, Python {platform.python_version()}")
    versions = [f"{name} {package_version(name) or '(missing)'}" for name in _PACKAGES]
    say(f"packages  {', '.join(versions)}")
    _say_machine()
    _say_extras()
    if options.speed:
        _say_speed()
    return 0


def _say_machine() -> None:
    import torch

    from rlsd.cli.machine import describe, machine

    say(f"machine   {describe(machine())}")
    cards = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    say(f"devices   {', '.join(['cpu', *cards])}")
    limits = [f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
    say(f"threads   {torch.get_num_threads()} of torch{', '.join(['', *limits])}; one for small networks")


def _say_extras() -> None:
    from rlsd_envs import BACKENDS

    absent = {name for name in BACKENDS if name in _BACKENDS and _BACKENDS[name] in missing("fast")}
    say(f"backends  {', '.join(f'{name} (missing)' if name in absent else name for name in BACKENDS)}")
    for extra in EXTRAS:
        lacking = missing(extra)
        state = f"{', '.join(lacking)} missing: pip install 'rlsd[{extra}]'" if lacking else "installed"
        say(f"extra     {extra:<8} {state}")


def _say_speed() -> None:
    import torch
    from stable_baselines3 import PPO

    from rlsd import SelfDistilled
    from rlsd.cli.coldstart import leave_compiler_out

    leave_compiler_out()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, plain = (_steps_per_second(algorithm) for algorithm in (SelfDistilled(PPO), PPO))
    torch.set_num_threads(threads)
    ratio = f"{ours / plain:.1f} times plain SB3's {plain:,.0f}"
    say(f"speed     PPO on CartPole-v1, {_ENVS} envs, one thread, {_STEPS:,} steps: {ours:,.0f} steps/s, {ratio}")


def _steps_per_second(algorithm: type[BaseAlgorithm]) -> float:
    from rlsd_envs import make_vec_env

    env = make_vec_env("CartPole-v1", n_envs=_ENVS, seed=0)
    settings: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "device": "cpu", "seed": 0}
    agent = algorithm("MlpPolicy", env, **settings)
    agent.learn(_ENVS * 128)  # what is made once
    started = time.perf_counter()
    agent.learn(_STEPS, reset_num_timesteps=False)
    seconds = time.perf_counter() - started
    env.close()
    return _STEPS / max(seconds, 1e-9)
