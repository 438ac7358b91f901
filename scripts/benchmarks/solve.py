"""``scripts/benchmark.py solve``: seconds from a cold start to a target, over those of plain SB3."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from benchmarks.children import plain_task, rlsd_task, run_plain, run_rlsd
from benchmarks.learning import backend
from benchmarks.options import BenchmarkOptions, settings
from benchmarks.pairs import Pair, Side, Timing, Work, interleave, pair_line, spread_table, to_dict
from benchmarks.report import begin, finish
from rlsd.cli.console import say
from rlsd.cli.flags import Count, read_flags

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan


@dataclass(frozen=True)
class SolveOptions(BenchmarkOptions):
    """Time two cold processes, from their start to the first evaluation that reaches the target.

    One trains as rlsd train does, one is plain Stable-Baselines3 on environments as it makes them, with the same tuned
    hyperparameters. Imports, evaluations and everything else are in the time of both.
    """

    n_timesteps: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 100_000
    """Environment steps after which a run that has not reached the target is given up."""
    target: float = 475.0
    """Mean return of an evaluation that counts as solved."""
    eval_freq: Count = 2_000
    """Environment steps between evaluations."""
    eval_episodes: Count = 10
    """Episodes of an evaluation, with the most likely actions."""


class Runs:
    """The runs of a benchmark, and what came of each.

    :param plan: what is trained.
    :param task: what is evaluated, and how.
    """

    def __init__(self, plan: Plan, task: dict[str, Any]) -> None:
        self._plan, self._task = plan, task
        self.reports: dict[str, list[dict[str, Any]]] = {"rlsd": [], "sb3": []}

    def sides(self) -> tuple[Side, Side]:
        """Return rlsd's side and the peer's."""
        plan, task = self._plan, self._task
        ours = Side("rlsd", self._prepare("rlsd", lambda seed: run_rlsd(rlsd_task(plan, "solve", seed, **task))))
        library = plan.algorithm.__module__.partition(".")[0]
        theirs = self._prepare("sb3", lambda seed: run_plain(plain_task(plan, library, "solve", seed, **task)))
        return ours, Side("sb3", theirs)

    def solved(self, pair: Pair) -> bool:
        """Whether both sides of a pair reached the target."""
        return all(reports[pair.number]["reached"] for reports in self.reports.values())

    def announce(self, pair: Pair) -> None:
        """Print a line about a pair, and which side did not reach the target."""
        reports = {name: reports[pair.number] for name, reports in self.reports.items()}
        steps = ", ".join(f"{name} {report['steps']:,} steps" for name, report in reports.items())
        given_up = " and ".join(name for name, report in reports.items() if not report["reached"])
        say(f"{pair_line(pair)}; {steps}{f'; target NOT REACHED by {given_up}' if given_up else ''}")

    def _prepare(self, name: str, run: Callable[[int], dict[str, Any]]) -> Callable[[int], Work]:
        def prepare(number: int) -> Work:
            def solve() -> Timing:
                began = time.monotonic()  # the same clock in every process
                report = run(self._plan.seed + number)
                self.reports[name].append(report)
                return Timing(report["ended"] - began, report["cpu"], report["steps"])

            return Work(solve, lambda: None)

        return prepare


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the JSON that was asked for.

    :raises UserError: when the input is wrong; nothing has been timed then.
    """
    options = read_flags(SolveOptions(), "python scripts/benchmark.py solve", argv)
    options.check({"eval_freq": 1, "eval_episodes": 1})
    plan = options.plan()
    task = {"target": options.target, "eval_freq": options.eval_freq, "eval_episodes": options.eval_episodes}
    plain_task(plan, "", "solve", plan.seed)  # says whether plain SB3 can be asked for the same
    say(
        f"rlsd / sb3, seconds from a cold start to {options.target:g} on {plan.env_id}: {plan.algorithm.__name__}, "
        f"{options.pairs} pairs, {options.eval_episodes} episodes every {options.eval_freq:,} steps, at most "
        f"{plan.n_timesteps:,}; hyperparameters {plan.hyperparams.source}"
    )
    runs_in = backend(plan)
    say(f"rlsd: {runs_in}")
    runs = Runs(plan, task)
    ours, theirs = runs.sides()
    started = begin("solve", argv)
    pairs = interleave(ours, theirs, options.pairs, runs.announce)
    _say_spread(pairs, runs)
    figures = {**started, **settings(options, plan), "backend": runs_in, **_figures(ours, theirs, pairs, runs)}
    finish(figures, options.json)
    return 0


def _say_spread(pairs: list[Pair], runs: Runs) -> None:
    solved = [pair for pair in pairs if runs.solved(pair)]
    reached = {name: sum(report["reached"] for report in reports) for name, reports in runs.reports.items()}
    counts = ", ".join(f"{name} {count} of {len(pairs)}" for name, count in reached.items())
    say(f"\nReached the target: {counts}")
    if solved:
        say(f"\n{spread_table('rlsd / sb3', solved)}")
    if len(solved) < len(pairs):
        say(f"The ratios are of the {len(solved)} pairs in which both did.")


def _figures(ours: Side, theirs: Side, pairs: list[Pair], runs: Runs) -> dict[str, Any]:
    """Return all pairs as plain data; the spread is of those in which both sides reached the target."""
    solved = [pair for pair in pairs if runs.solved(pair)]
    figures = to_dict(ours, theirs, pairs)
    figures |= {"wall_ratio": None, "cpu_ratio": None}
    if solved:
        figures |= {key: to_dict(ours, theirs, solved)[key] for key in ("wall_ratio", "cpu_ratio")}
    for number, entry in enumerate(figures["pairs"]):
        for name, reports in runs.reports.items():
            entry[name] |= {key: reports[number][key] for key in ("reached", "evaluations")}
        if not runs.solved(pairs[number]):
            entry |= {"wall_ratio": None, "cpu_ratio": None}
    return {"pairs_solved": len(solved), **figures}
