"""``rlsd compare``: the same training with and without, on many seeds, in the order things happen."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlsd.cli.console import say, warn
from rlsd.cli.errors import UserError
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest, read_flags
from rlsd.cli.main import EXIT_INTERRUPTED
from rlsd.cli.options import parse as parse_train
from rlsd.cli.tables import check_file, write_json
from rlsd.cli.values import parse_pairs
from rlsd.cli.variants import Variant, parse_seeds, parse_variants

if TYPE_CHECKING:
    from rlsd.cli.trials import Result, Trial

EXIT_FAILED = 1


@dataclass(frozen=True)
class CompareOptions:
    """Train variants on the same seeds and compare them: rlsd compare --env CartPole-v1 --variants baseline,default

    A training that is finished is not run again, and one that was stopped goes on: give the same command once more.
    """

    env: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID")]] = ()
    """Gymnasium id of an environment; --env A --env B takes both."""
    variants: Annotated[tuple[str, ...], tyro.conf.arg(metavar="V,V")] = ("baseline", "default")
    """What to compare: baseline (plain SB3), default, a recipe's name, or name:key=value;key=value.
    Keys: those of rlsd train --distill, recipe, speed, and hyperparams.NAME; the word baseline for plain SB3 with
    changes."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "100-109"
    """Seeds: 100-109 or 0,3,7-9."""
    algo: Annotated[str, tyro.conf.arg(metavar="ALGO")] = "ppo"
    """Algorithm, as in rlsd train."""
    n_timesteps: Annotated[MaybeCount, tyro.conf.arg(aliases=["-n"])] = None
    """Environment steps of a training. Auto: the tuned number for the environment."""
    eval_episodes: Count = 100
    """Episodes of the evaluation at the end, 20 at least; there is none during training."""
    hyperparams: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-params"], metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Changes to the tuned hyperparameters, for all variants."""
    env_kwargs: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Arguments for the environments' constructor."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """As in rlsd train."""
    trust: bool = False
    """As in rlsd train: unpickle the teachers that variants name, which runs whatever code they bring."""
    jobs: Annotated[MaybeCount, tyro.conf.arg(aliases=["-j"])] = None
    """Trainings at a time, each on one thread: 1 by default, with --ray the CPUs of the cluster. Above the number of
    cores the seconds mean little."""
    ray: Annotated[MaybeText, tyro.conf.arg(metavar="ADDRESS")] = None
    """Train on a Ray cluster, auto or HOST:PORT, whose machines share FOLDER; needs rlsd[ray]."""
    log_folder: Annotated[str, tyro.conf.arg(aliases=["-f"], metavar="FOLDER")] = "logs/compare"
    """Trainings go to FOLDER/VARIANT/seed_SEED/ALGO/ENV_NUMBER/."""
    results: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """JSON with all figures. Auto: FOLDER/compare.json."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Train what is missing, compare, and return the exit code: 1 when a training failed.

    :raises UserError: when the input is wrong; nothing has been trained then.
    """
    options = read_flags(CompareOptions(), "rlsd compare", argv)
    trials = plan_trials(options)
    target = Path(options.results) if options.results else Path(options.log_folder) / "compare.json"
    check_file("--results", str(target))
    from rlsd.cli.sweep import run_sweep

    launcher, jobs = None, options.jobs or 1
    if options.ray is not None:
        from rlsd.cli.ray_launcher import RayLauncher

        launcher = RayLauncher(options.ray)
        jobs = options.jobs or launcher.cpus
    found, interrupted = run_sweep(trials, jobs, "trainings", _told, launcher=launcher)
    results = [result for result in found if result is not None]
    if results:
        _report(options, argv, trials, results, target)
    if interrupted:
        warn(f"Stopped with {len(results)} of {len(trials)} trainings finished; the same command goes on.")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if len(results) < len(trials) else 0


def plan_trials(options: CompareOptions) -> list[Trial]:
    """Return all trainings of a comparison, in the order they are run: seed by seed, so that all variants grow alike.

    :raises UserError: for the first thing that is wrong with any of them.
    """
    check_lowest(options, {"n_timesteps": 1, "eval_episodes": 1, "jobs": 1})
    if not options.env:
        raise UserError("--env is missing: give a Gymnasium id, e.g. --env CartPole-v1")
    seeds = parse_seeds(options.seeds)
    # Not before the flags are read: a misspelt one is told first.
    from rlsd import recipes
    from rlsd.cli.plan import plan_new
    from rlsd.cli.trials import Trial

    variants = parse_variants(options.variants, recipes())
    envs = list(dict.fromkeys(options.env))
    plans = {
        (env, variant.name): plan_new(parse_train(_words(options, env, variant, seeds[0])))
        for env in envs
        for variant in variants
    }
    return [
        Trial(
            variant=variant.name,
            seed=seed,
            words=_words(options, env, variant, seed),
            plan=plans[env, variant.name],
            folder=_folder(options, variant, seed),
        )
        for seed in seeds
        for env in envs
        for variant in variants
    ]


def _words(options: CompareOptions, env: str, variant: Variant, seed: int) -> tuple[str, ...]:
    """Return the command line of one training, after ``rlsd train``."""
    shared = parse_pairs("--hyperparams", options.hyperparams)
    steps = () if options.n_timesteps is None else ("-n", str(options.n_timesteps))
    kwargs = ("--env-kwargs", *options.env_kwargs) if options.env_kwargs else ()
    return (
        *("--env", env, "--algo", options.algo, "--seed", str(seed), *steps, *kwargs),
        # An evaluation during training would take longer than the training, with so many episodes.
        *("--eval-episodes", str(options.eval_episodes), "--eval-freq", "0"),
        *(["--trust"] if options.trust else []),
        *("--device", options.device, "--num-threads", "1", "-f", str(_folder(options, variant, seed))),
        *variant.flags(shared),
    )


def _folder(options: CompareOptions, variant: Variant, seed: int) -> Path:
    return Path(options.log_folder) / variant.name / f"seed_{seed}"


def _told(result: Result) -> str:
    training = "" if result.training is None else f", training {result.training:.1f}"
    return f"final {result.final:.1f}{training}, {result.seconds:.1f} s"


def _report(
    options: CompareOptions, argv: Sequence[str], trials: Sequence[Trial], results: list[Result], target: Path
) -> None:
    from rlsd.cli.machine import describe, machine
    from rlsd.cli.provenance import provenance
    from rlsd.cli.summary import improvement_over_all, show, summarise

    here = machine()
    data = {
        **provenance([]),
        "command": shlex.join(["rlsd", "compare", *argv]),
        "machine": here,
        "settings": asdict(options),
        "variants": _settled(trials),
        "summary": summarise(results),
        "improvement_over_all": improvement_over_all(results),
        "results": [result.to_dict() for result in results],
    }
    write_json(target, data)
    say(f"\n{show(results)}\n\nMachine   {describe(here)}\nResults   {target}")
    codes = sorted({result.code for result in results})
    if len(codes) > 1:
        warn(f"These trainings ran with different code: {', '.join(codes)}.")
    if len(results) < len(trials):
        warn(f"{len(trials) - len(results)} of {len(trials)} trainings are missing above.")


def _settled(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return by environment and variant what the words amount to: the hyperparameters and the distillation."""
    from rlsd.cli.trials import plain

    settled: dict[str, Any] = {}
    for trial in trials:
        plan = trial.plan
        settled.setdefault(plan.env_id, {})[trial.variant] = {
            "hyperparams": plain(plan.hyperparams.values),
            "source": plan.hyperparams.source,
            "distill": None if plan.distill is None else plain(plan.distill.to_dict()),
        }
    return settled
