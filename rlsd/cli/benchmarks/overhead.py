"""``rlsd benchmark overhead``: what distillation costs: all of ``learn()`` with it, over ``learn()`` without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlsd.cli.benchmarks.pairs import FEWEST_PAIRS, Side, Work, interleave, pair_line, spread_table, time_once, to_dict
from rlsd.cli.benchmarks.report import begin, finish, one_thread, wait_for
from rlsd.cli.console import say
from rlsd.cli.flags import Count, MaybeText, check_lowest, read_flags
from rlsd.cli.options import TrainOptions
from rlsd.cli.tables import check_file

if TYPE_CHECKING:
    from rlsd.cli.plan import Plan

#: Before the first pair each side runs this part of a measured run, so that imports, caches and allocator are warm.
WARM_UP = 10


@dataclass(frozen=True)
class OverheadOptions:
    """Time training with distillation and without, on the same agent and settings, in interleaved pairs.

    Environment and agent are made anew for every run and not timed; all of learn() is.
    """

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
    distill: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[K=V ...]")] = ()
    """Changes to it, as in rlsd train."""
    hyperparams: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-params"], metavar="[K:V ...]")] = ()
    """Changes to the tuned hyperparameters, for both sides."""
    vec_env: Annotated[str, tyro.conf.arg(metavar="KIND")] = "auto"
    """How the copies of the environment run, as in rlsd train."""
    seed: Count = 0
    """Both runs of a pair have the same seed: this one plus the pair's number."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """As in rlsd train."""
    json: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """Write all figures to this file."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Measure, print, and write the JSON that was asked for.

    :raises UserError: when the input is wrong; nothing has been timed then.
    """
    options = read_flags(OverheadOptions(), "rlsd benchmark overhead", argv)
    check_lowest(options, {"n_timesteps": 1, "pairs": FEWEST_PAIRS, "seed": 0})
    check_file("--json", options.json)
    plan = _plan(options)
    say(
        f"Distillation on / off: {plan.algorithm.__name__} on {plan.env_id}, {plan.n_timesteps:,} steps a run, "
        f"{options.pairs} pairs, one thread, {plan.device}; hyperparameters {plan.hyperparams.source}"
    )
    backend = _backend(plan)
    say(f"Environment: {backend}")
    on, off = _sides(plan, plan.n_timesteps)
    with one_thread():
        started = begin("overhead", argv)
        for side in _sides(plan, max(plan.n_timesteps // WARM_UP, 1)):
            time_once(side, 0)
        pairs = interleave(on, off, options.pairs, lambda pair: say(pair_line(pair)))
    say(f"\n{spread_table('on / off', pairs)}")
    finish({**started, **_settings(options, plan), "backend": backend, **to_dict(on, off, pairs)}, options.json)
    return 0


def _plan(options: OverheadOptions) -> Plan:
    # Imported late: torch takes seconds, and a misspelt flag should not.
    from rlsd.cli.plan import plan_new

    flags = ("env", "algo", "n_timesteps", "seed", "recipe", "distill", "hyperparams", "vec_env", "device")
    return plan_new(TrainOptions(**{name: getattr(options, name) for name in flags}))


def _backend(plan: Plan) -> str:
    """Return what runs the environments, and why: a faster one makes the same cost a larger part of the whole."""
    from rlsd.cli.environments import training_env

    env = training_env(plan)
    try:
        described: str = env.unwrapped.describe_backend()  # type: ignore[attr-defined]  # ours, under SB3's type
        return described
    finally:
        env.close()


def _sides(plan: Plan, steps: int) -> tuple[Side, Side]:
    return Side("on", _learning(plan, steps)), Side("off", _learning(replace(plan, distill=None), steps))


def _settings(options: OverheadOptions, plan: Plan) -> dict[str, Any]:
    return {
        "settings": asdict(options),
        "hyperparams": dict(plan.hyperparams.values),
        "distill": None if plan.distill is None else plan.distill.to_dict(),
    }


def _learning(plan: Plan, steps: int) -> Callable[[int], Work]:
    """Return what prepares a run of ``learn(steps)``: by the pair's number, a fresh environment and agent."""

    def prepare(number: int) -> Work:
        from rlsd.cli.agents import new_agent
        from rlsd.cli.environments import training_env

        seeded = replace(plan, seed=plan.seed + number)
        env = training_env(seeded)
        agent = new_agent(seeded, env, Path())
        agent.tensorboard_log = None  # the disk is not what is measured

        def learn() -> int:
            agent.learn(steps)
            wait_for(agent.device)
            return int(agent.num_timesteps)

        return Work(learn, env.close)

    return prepare
