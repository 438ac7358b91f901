"""``scripts/benchmark.py overhead``: what distillation costs: all of ``learn()`` with it, over ``learn()`` without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.learning import backend, learning, warm_up_steps
from benchmarks.options import BenchmarkOptions, settings
from benchmarks.pairs import Side, interleave, pair_line, spread_table, time_once, to_dict
from benchmarks.report import begin, finish, one_thread
from rlsd.cli.console import say
from rlsd.cli.flags import read_flags

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan


@dataclass(frozen=True)
class OverheadOptions(BenchmarkOptions):
    """Time training with distillation and without, on the same agent and settings, in interleaved pairs.

    Environment and agent are made anew for every run and not timed; all of learn() is.
    """


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the JSON that was asked for.

    :raises UserError: when the input is wrong; nothing has been timed then.
    """
    options = read_flags(OverheadOptions(), "python scripts/benchmark.py overhead", argv)
    options.check()
    plan = options.plan()
    say(
        f"Distillation on / off: {plan.algorithm.__name__} on {plan.env_id}, {plan.n_timesteps:,} steps a run, "
        f"{options.pairs} pairs, one thread, {plan.device}; hyperparameters {plan.hyperparams.source}"
    )
    runs_in = backend(plan)
    say(f"Environment: {runs_in}")
    on, off = _sides(plan, plan.n_timesteps)
    with one_thread():
        started = begin("overhead", argv)
        for side in _sides(plan, warm_up_steps(plan)):
            time_once(side, 0)
        pairs = interleave(on, off, options.pairs, lambda pair: say(pair_line(pair)))
    say(f"\n{spread_table('on / off', pairs)}")
    finish({**started, **settings(options, plan), "backend": runs_in, **to_dict(on, off, pairs)}, options.json)
    return 0


def _sides(plan: Plan, steps: int) -> tuple[Side, Side]:
    return Side("on", learning(plan, steps)), Side("off", learning(replace(plan, distill=None), steps))
