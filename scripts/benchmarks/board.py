"""``scripts/benchmark.py board``: what the cards "at a glance", histograms and pictures add to a run in TensorBoard."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    insides: list[float] = []
    on = Side("on", _learning(plan, plan.n_timesteps, insides))
    off = Side("off", _learning(plan, plan.n_timesteps, None))
    with one_thread():
        started = begin("board", argv)
        for kept in (insides, None):
            time_once(Side("warm", _learning(plan, warm_up_steps(plan), kept)), 0)
        pairs = interleave(on, off, options.pairs, lambda pair: say(pair_line(pair)))
    say(f"\n{spread_table('on / off', pairs)}")
    share = statistics.median(inside / pair.over.cpu for inside, pair in zip(insides[1:], pairs, strict=True))
    say(f"Processor time inside what is added: {share:.2%} of the run, median of {options.pairs}")
    finish({**started, **settings(options, plan), **to_dict(on, off, pairs), "share_inside": share}, options.json)
    return 0


def _learning(plan: Plan, steps: int, insides: list[float] | None) -> Callable[[int], Work]:
    """Return what prepares a run.

    :param insides: takes the seconds of processor time that the cards take by themselves; None for a run without them.
    """

    def prepare(number: int) -> Work:
        from rlsd.cli.agents import new_agent
        from rlsd.cli.environments import training_env

        seeded = replace(plan, seed=plan.seed + number)
        env, scratch = training_env(seeded), tempfile.mkdtemp()
        agent = new_agent(seeded, env, Path(scratch))
        timed = None if insides is None else timed_glance(steps)

        def learn() -> int:
            agent.learn(steps, callback=timed)
            wait_for(agent.device)
            agent.logger.close()
            if insides is not None and timed is not None:
                insides.append(timed.seconds)
            return int(agent.num_timesteps)

        def close() -> None:
            env.close()
            shutil.rmtree(scratch)

        return Work(learn, close)

    return prepare


def timed_glance(steps: int) -> Any:
    """Return a :class:`rlsd.cli.glance.Glance` that adds up the processor time that it takes."""
    from rlsd.cli.glance import Glance

    class Timed(Glance):
        seconds = 0.0

        def _on_rollout_start(self) -> None:
            before = time.thread_time()
            super()._on_rollout_start()
            self.seconds += time.thread_time() - before

        def _on_rollout_end(self) -> None:
            before = time.thread_time()
            super()._on_rollout_end()
            self.seconds += time.thread_time() - before

    return Timed(steps)
