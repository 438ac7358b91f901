"""``scripts/benchmark.py throughput``: environment steps per second of rlsd with distillation, over those of a peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from benchmarks.learning import backend, warm_up_steps
from benchmarks.options import BenchmarkOptions, settings
from benchmarks.pairs import RATE, Pair, interleave, pair_line, spread_table, time_once, to_dict
from benchmarks.report import begin, finish, one_thread
from rlsd.cli.console import say
from rlsd.cli.errors import UserError, choices
from rlsd.cli.flags import MaybeText, read_flags

if TYPE_CHECKING:
    from benchmarks.peers import Peer
    from rlsd.cli.plan import Plan

PEERS = ("sb3", "sbx", "single-file")
PEER_ENVS = ("sb3", "same")


@dataclass(frozen=True)
class ThroughputOptions(BenchmarkOptions):
    """Time rlsd with distillation against a peer on the same task and hyperparameters, in interleaved pairs.

    The ratios are of environment steps per second: above 1, rlsd is the faster one, its distillation included.
    """

    peer: Annotated[str, tyro.conf.arg(metavar="PEER")] = "sb3"
    """sb3: plain Stable-Baselines3; sbx: sbx-rl, compilation included; single-file: PPO in one file of plain torch."""
    peer_env: Annotated[str, tyro.conf.arg(metavar="KIND")] = "sb3"
    """What the peer sb3 runs its environments in: sb3, as its own make_vec_env makes them, or same, as rlsd's."""
    peer_python: Annotated[MaybeText, tyro.conf.arg(metavar="PATH")] = None
    """Python interpreter that has the peer sbx. None: this one."""


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the JSON that was asked for.

    :raises UserError: when the input is wrong; nothing has been timed then.
    """
    options = read_flags(ThroughputOptions(), "python scripts/benchmark.py throughput", argv)
    options.check()
    _check_peer(options)
    plan = options.plan()
    peer = _peer(options, plan)
    say(
        f"rlsd / {options.peer}, environment steps per second: {plan.algorithm.__name__} on {plan.env_id}, "
        f"{plan.n_timesteps:,} steps a run, {options.pairs} pairs, one thread, {plan.device}; "
        f"hyperparameters {plan.hyperparams.source}"
    )
    runs_in = backend(plan)
    say(f"rlsd: {runs_in}\nPeer: {peer.describe()}")
    ours, theirs = peer.rlsd(plan.n_timesteps), peer.side(plan.n_timesteps)
    with one_thread():
        started = begin("throughput", argv)
        if not peer.fresh:
            for side in (peer.rlsd(warm_up_steps(plan)), peer.side(warm_up_steps(plan))):
                time_once(side, 0)
        pairs = interleave(ours, theirs, options.pairs, lambda pair: say(pair_line(pair)), RATE)
    say(f"\n{spread_table(f'rlsd / {options.peer}', pairs)}")
    rates = _rates(pairs)
    say(f"\nSteps per second, median: rlsd {rates['rlsd']:,.0f}, {options.peer} {rates['peer']:,.0f}")
    measured = {
        "backend": runs_in,
        "peer": peer.describe(),
        "peer_versions": peer.versions(),
        "steps_per_second": rates,
    }
    finish({**started, **settings(options, plan), **measured, **to_dict(ours, theirs, pairs)}, options.json)
    return 0


def _check_peer(options: ThroughputOptions) -> None:
    for flag, value, known in (("--peer", options.peer, PEERS), ("--peer-env", options.peer_env, PEER_ENVS)):
        if value not in known:
            raise UserError(f"unknown {flag} {value!r}; {choices(value, known)}")
    if options.peer != "sb3" and options.peer_env != "sb3":
        raise UserError(f"--peer-env {options.peer_env} is of the peer sb3: {options.peer} makes its own")
    if options.peer != "sbx" and options.peer_python is not None:
        raise UserError(f"--peer-python is for the peer sbx: {options.peer} runs in this Python")


def _peer(options: ThroughputOptions, plan: Plan) -> Peer:
    from benchmarks.peers import PlainSB3, Sbx, SingleFile

    if options.peer == "sbx":
        return Sbx(plan, options.peer_python)
    return SingleFile(plan) if options.peer == "single-file" else PlainSB3(plan, options.peer_env == "same")


def _rates(pairs: list[Pair]) -> dict[str, float]:
    """Return the middle of both sides' steps per second."""
    return {
        "rlsd": statistics.median(pair.wall[0] for pair in pairs),
        "peer": statistics.median(pair.wall[1] for pair in pairs),
    }
