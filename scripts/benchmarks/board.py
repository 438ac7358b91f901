"""``scripts/benchmark.py board``: what the cards "at a glance", histograms and pictures add to a run in TensorBoard."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.learning import warm_up_steps
from benchmarks.options import BenchmarkOptions, settings
from benchmarks.pairs import Side, Work, interleave, pair_line, spread_table, time_once, to_dict
from benchmarks.report import begin, finish, one_thread, wait_for
from rlsd.cli.console import say
from rlsd.cli.flags import read_flags

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan


@dataclass(frozen=True)
class BoardOptions(BenchmarkOptions):
    """Time training that writes TensorBoard's files, with what rlsd train adds and without, in interleaved pairs."""


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the JSON that was asked for.

    :raises UserError: when the input is wrong; nothing has been timed then.
    """
    options = read_flags(BoardOptions(), "python scripts/benchmark.py board", argv)
    options.check()
    plan = options.plan()
    say(
        f"TensorBoard with cards, histograms and pictures / without: {plan.algorithm.__name__} on {plan.env_id}, "
        f"{plan.n_timesteps:,} steps a run, {options.pairs} pairs, one thread"
    )
    on, off = (Side(name, _learning(plan, plan.n_timesteps, name == "on")) for name in ("on", "off"))
    with one_thread():
        started = begin("board", argv)
        for shown in (True, False):
            time_once(Side("warm", _learning(plan, warm_up_steps(plan), shown)), 0)
        pairs = interleave(on, off, options.pairs, lambda pair: say(pair_line(pair)))
    say(f"\n{spread_table('on / off', pairs)}")
    finish({**started, **settings(options, plan), **to_dict(on, off, pairs)}, options.json)
    return 0


def _learning(plan: Plan, steps: int, shown: bool) -> Callable[[int], Work]:
    def prepare(number: int) -> Work:
        from rlsd.cli.agents import new_agent
        from rlsd.cli.environments import training_env
        from rlsd.cli.glance import Glance

        seeded = replace(plan, seed=plan.seed + number)
        env, scratch = training_env(seeded), tempfile.mkdtemp()
        agent = new_agent(seeded, env, Path(scratch))

        def learn() -> int:
            agent.learn(steps, callback=[Glance(steps)] if shown else [])
            wait_for(agent.device)
            agent.logger.close()
            return int(agent.num_timesteps)

        def close() -> None:
            env.close()
            shutil.rmtree(scratch)

        return Work(learn, close)

    return prepare
