"""The flags that all benchmarks of training share, and the plan they amount to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from benchmarks.pairs import FEWEST_PAIRS
from rlsd.cli.errors import UserError, choices
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest
from rlsd.cli.options import SPEEDS, TrainOptions
from rlsd.cli.tables import check_file

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is trained, with what, and how often it is timed."""

    env: Annotated[str, tyro.conf.arg(metavar="ID")] = "CartPole-v1"
    """Gymnasium id of the environment; its tuned hyperparameters are taken."""
    algo: Annotated[str, tyro.conf.arg(metavar="ALGO")] = "ppo"
    """Algorithm, as in rlsd train."""
    n_timesteps: Annotated[Count, tyro.conf.arg(aliases=["-n"])] = 20_000
    """Environment steps of a run. Raising it steadies the ratios."""
    pairs: Count = 7
    """Pairs of runs, 5 at least."""
    recipe: MaybeText = None
    """Kind of self-distillation. None: the default."""
    distill: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[K=V ...]", help_behavior_hint="(default: none)")] = ()
    """Changes to it, as in rlsd train."""
    hyperparams: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-params"], metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Changes to the tuned hyperparameters, for both sides."""
    n_envs: MaybeCount = None
    """Copies of the environment. Auto: the tuned number."""
    vec_env: Annotated[str, tyro.conf.arg(metavar="KIND")] = "auto"
    """How the copies of the environment run, as in rlsd train."""
    speed: Annotated[str, tyro.conf.arg(metavar="SPEED")] = "exact"
    """How rlsd computes, as in rlsd train: exact, max or none."""
    seed: Count = 0
    """Both runs of a pair have the same seed: this one plus the pair's number."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """As in rlsd train."""
    rollout_device: Annotated[MaybeText, tyro.conf.arg(metavar="DEVICE")] = None
    """As in rlsd train."""
    json: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """Write all figures to this file."""
    debug: bool = False
    """Show the traceback of an error."""

    def check(self, lowest: Mapping[str, int] | None = None) -> None:
        """Raise a :class:`UserError` when a number is too low, a word unknown, or the file cannot be written.

        :param lowest: for the numbers that one benchmark alone has.
        """
        check_lowest(self, {"n_timesteps": 1, "n_envs": 1, "pairs": FEWEST_PAIRS, "seed": 0, **(lowest or {})})
        if self.speed not in SPEEDS:
            raise UserError(f"unknown --speed {self.speed!r}; {choices(self.speed, SPEEDS)}")
        check_file("--json", self.json)

    def train_options(self) -> TrainOptions:
        """Return the options of ``rlsd train`` that mean the same."""
        shared = {field.name for field in fields(TrainOptions)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in shared}
        return TrainOptions(**given)

    def plan(self) -> Plan:
        """Settle what is trained.

        :raises UserError: for the first thing that is wrong, in one line.
        """
        # Not before the flags are read: a misspelt one is told first.
        from rlsd.cli.plan import plan_new

        return plan_new(self.train_options())


def settings(options: BenchmarkOptions, plan: Plan) -> dict[str, Any]:
    """Return what was timed, as plain data."""
    return {
        "settings": asdict(options),
        "hyperparams": dict(plan.hyperparams.values),
        "distill": None if plan.distill is None else plan.distill.to_dict(),
    }
