"""``scripts/retention.py``: how much of task A an agent keeps while it learns task B, on many seeds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from rlsd.cli.console import say, warn
from rlsd.cli.errors import UserError
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest, read_flags
from rlsd.cli.main import EXIT_INTERRUPTED, Command
from rlsd.cli.main import main as run_command
from rlsd.cli.sweep import Launcher, run_sweep
from rlsd.cli.tables import check_file, write_json
from rlsd.cli.values import parse_pairs
from rlsd.cli.variants import parse_seeds, parse_variants

if TYPE_CHECKING:
    from experiments.retention_summary import Scale
    from rlsd.cli.two_tasks import Outcome, Settings

EXIT_FAILED = 1
_NAME = "retention"
#: What each trial runs, in a process of its own.
_TRIAL = ("-m", "rlsd.cli.two_tasks")
_STOPPING = "Stopping; trials that are not finished are run again from their start. Once more stops at once."


@dataclass(frozen=True)
class RetentionOptions:
    """Measure what an agent keeps of a task while it learns another.

    python scripts/retention.py --env CartPole-v1 --variants V,V

    Task A is the environment, task B the same with every action inverted; a last number in the observation says which.
    The task changes while the agent learns, and it is not told. A finished trial is not run again.
    """

    env: Annotated[MaybeText, tyro.conf.arg(metavar="ID")] = None
    """Gymnasium id: vectors as observations, discrete actions or bounded continuous ones."""
    algo: Annotated[str, tyro.conf.arg(metavar="ALGO")] = "ppo"
    """Algorithm, as in rlsd train."""
    variants: Annotated[tuple[str, ...], tyro.conf.arg(metavar="V,V")] = ("baseline", "default")
    """What to compare, as in rlsd compare: baseline (plain SB3), default, a recipe, or name:key=value;key=value."""
    seeds: Annotated[str, tyro.conf.arg(metavar="SEEDS")] = "100-109"
    """Seeds: 100-109 or 0,3,7-9."""
    n_timesteps: Annotated[MaybeCount, tyro.conf.arg(aliases=["-n"])] = None
    """Environment steps on each task. Auto: the tuned number for the environment."""
    rounds: Count = 1
    """How often A and then B is trained on; what was kept is measured over the last."""
    eval_episodes: Count = 20
    """Episodes of each evaluation: greedy and sampled, on A and on B, after every change."""
    hyperparams: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-params"], metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Changes to the hyperparameters, for all variants."""
    env_kwargs: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Arguments for the environment's constructor."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """As in rlsd train."""
    jobs: Annotated[Count, tyro.conf.arg(aliases=["-j"])] = 1
    """Trials at a time, each a process on one thread."""
    log_folder: Annotated[str, tyro.conf.arg(aliases=["-f"], metavar="FOLDER")] = "logs/retention"
    """Trials go to FOLDER/VARIANT/seed_SEED/."""
    results: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """JSON with all figures. Auto: FOLDER/retention.json."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Trial:
    """One variant with one seed."""

    variant: str
    settings: Settings
    folder: Path

    @property
    def label(self) -> str:
        """A name for people."""
        return f"{self.variant} seed {self.settings.seed}"

    @property
    def file(self) -> Path:
        """What it came to. Other settings have another name, so that they lie side by side."""
        return self.folder / f"{self.settings.digest}.json"

    @property
    def log(self) -> Path:
        """What its process said."""
        return self.file.with_suffix(".log")

    def result(self) -> Outcome | None:
        """Return what it came to, None while it is not finished."""
        from rlsd.cli.two_tasks import read

        return read(self.file, self.settings)

    def run(self, launcher: Launcher) -> Outcome | None:
        """Run it in a process of its own. Returns None when it failed or was stopped."""
        words = (*_TRIAL, json.dumps(asdict(self.settings)), str(self.file))
        if launcher.run(words, self.log) == 0:
            return self.result()
        return None


def main(argv: Sequence[str]) -> int:
    """Run the experiment and return its exit code, see :func:`rlsd.cli.main.main`."""
    return run_command([_NAME, *argv], {_NAME: Command(__name__, "")})


def run(argv: Sequence[str]) -> int:
    """Run what is missing, report, and return the exit code: 1 when a trial failed.

    :raises UserError: when the input is wrong; nothing has been trained or written then.
    """
    options = read_flags(RetentionOptions(), "python scripts/retention.py", argv)
    trials = plan_trials(options)
    target = Path(options.results) if options.results else Path(options.log_folder) / "retention.json"
    check_file("--results", str(target))
    scale = _scale(trials[0].settings)
    _say_settings(trials)
    outcomes, interrupted = run_sweep(trials, options.jobs, "trials", partial(_told, scale=scale), _STOPPING)
    finished = sum(outcome is not None for outcome in outcomes)
    if finished:
        _report(options, argv, trials, outcomes, scale, target)
    if interrupted:
        warn(f"Stopped with {finished} of {len(trials)} trials finished; the same command goes on.")
        return EXIT_INTERRUPTED
    return EXIT_FAILED if finished < len(trials) else 0


def plan_trials(options: RetentionOptions) -> list[Trial]:
    """Return all trials, in the order they are run: seed by seed, so that all variants grow alike.

    :raises UserError: for the first thing that is wrong with any of them.
    """
    check_lowest(options, {"n_timesteps": 1, "rounds": 1, "eval_episodes": 1, "jobs": 1})
    if not options.env:
        raise UserError("--env is missing: give a Gymnasium id, e.g. --env CartPole-v1")
    seeds = parse_seeds(options.seeds)
    changes = parse_pairs("--hyperparams", options.hyperparams)
    # Not before the flags are read: a misspelt one is told first.
    from experiments.retention_settings import settle, words_of
    from rlsd import recipes

    kwargs = parse_pairs("--env-kwargs", options.env_kwargs)
    words = words_of(options.env, options.algo, options.n_timesteps, kwargs, options.device, options.log_folder)
    shared = {"seed": seeds[0], "rounds": options.rounds, "eval_episodes": options.eval_episodes}
    settled = {
        variant.name: settle(variant, words, changes, **shared)
        for variant in parse_variants(options.variants, recipes())
    }
    folder = Path(options.log_folder)
    return [
        Trial(name, replace(settings, seed=seed), folder / name / f"seed_{seed}")
        for seed in seeds
        for name, settings in settled.items()
    ]


def _scale(settings: Settings) -> Scale:
    from experiments.retention_summary import Scale
    from rlsd.cli.two_tasks import random_return

    return Scale.of(settings.env, random_return(settings.env, settings.env_kwargs))


def _say_settings(trials: Sequence[Trial]) -> None:
    from experiments.retention_settings import describe, rehearses

    alike: dict[str, list[str]] = {}
    for variant, settings in {trial.variant: trial.settings for trial in trials}.items():
        said = f"{settings.algo} on {settings.env}, {settings.steps:,} steps a task; {describe(settings)}"
        alike.setdefault(said, []).append(variant)
        if rehearses(settings):
            warn(
                f"{variant}: a replay buffer of {settings.hyperparams['buffer_size']:,} still holds task A at the end "
                f"of B, which plain SB3 rehearses too: give -params buffer_size:{max(settings.steps // 2, 1)}"
            )
    for said, variants in alike.items():
        say(f"{', '.join(variants)}: {said}")


def _told(outcome: Outcome, scale: Scale) -> str:
    from experiments.retention_summary import measure

    found = measure(outcome, scale, "greedy")
    kept = "" if found["kept"] is None else f", kept {found['kept']:.0%}"
    a = f"A {found['a_after_a']:.1f}, after B {found['a_after_b']:.1f}"
    return f"{a}{kept}; B {found['b_after_b']:.1f}; {outcome.seconds:.1f} s"


def _report(
    options: RetentionOptions,
    argv: Sequence[str],
    trials: Sequence[Trial],
    outcomes: Sequence[Outcome | None],
    scale: Scale,
    target: Path,
) -> None:
    from experiments.retention_summary import show, summarise
    from rlsd.cli.machine import describe, machine
    from rlsd.cli.provenance import provenance

    here, finished = machine(), _by_variant(trials, outcomes)
    summary = summarise(finished, scale)
    data = {
        **provenance([]),
        "command": shlex.join(["python", "scripts/retention.py", *argv]),
        "machine": here,
        "settings": asdict(options),
        "variants": _settled(trials),
        "scale": asdict(scale),
        "summary": summary,
        "results": [
            {"variant": trial.variant, "seed": trial.settings.seed, **asdict(outcome)}
            for trial, outcome in zip(trials, outcomes, strict=True)
            if outcome is not None
        ],
    }
    write_json(target, data)
    text = show(summary, scale, options.eval_episodes)
    say(f"\n{text}\n\nMachine   {describe(here)}\nResults   {target}")
    codes = sorted({outcome.code for outcome in outcomes if outcome is not None})
    if len(codes) > 1:
        warn(f"These trials ran with different code: {', '.join(codes)}.")
    if missing := sum(outcome is None for outcome in outcomes):
        warn(f"{missing} of {len(trials)} trials are missing above.")


def _by_variant(trials: Sequence[Trial], outcomes: Sequence[Outcome | None]) -> dict[str, list[Outcome]]:
    """Return what is finished, by variant in the order they were named."""
    found: dict[str, list[Outcome]] = {}
    for trial, outcome in zip(trials, outcomes, strict=True):
        if outcome is not None:
            found.setdefault(trial.variant, []).append(outcome)
    return found


def _settled(trials: Sequence[Trial]) -> Mapping[str, object]:
    """Return by variant what decides its trials, the seed apart."""
    return {
        trial.variant: {key: value for key, value in asdict(trial.settings).items() if key != "seed"}
        for trial in trials
    }
