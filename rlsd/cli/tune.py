"""``rlsd tune``: a search for better hyperparameters, of the distillation and of the algorithm, by Optuna."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from rlsd.cli.console import say, warn
from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.extras import need
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest, read_flags
from rlsd.cli.interrupt import stop_on_signals
from rlsd.cli.lock import locked
from rlsd.cli.main import EXIT_INTERRUPTED
from rlsd.cli.options import parse as parse_train
from rlsd.cli.tables import check_file, write_json

if TYPE_CHECKING:
    import optuna

    from rlsd.cli.tuning import Search

EXIT_FAILED = 1
#: Seconds between two looks at what has been finished.
_LOOK = 0.5
_STOPPING = "Stopping. The trials at work are cut off; the same command runs them again and goes on."


@dataclass(frozen=True)
class TuneOptions:
    """Search for better hyperparameters: rlsd tune --env CartPole-v1 -n 20000 --n-trials 50 --n-jobs 2

    Trials that are finished stay in the storage: the same command goes on, also after kill -9.
    """

    env: Annotated[MaybeText, tyro.conf.arg(metavar="ID")] = None
    """Gymnasium id of the environment."""
    algo: Annotated[str, tyro.conf.arg(metavar="ALGO")] = "ppo"
    """Algorithm, as in rlsd train."""
    n_timesteps: Annotated[MaybeCount, tyro.conf.arg(aliases=["-n"])] = None
    """Environment steps of a trial. Auto: the tuned number for the environment."""
    optimize: Literal["both", "distill", "algo"] = "both"
    """What to search: the distillation's knobs, the algorithm's hyperparameters, or both together."""
    n_trials: Count = 50
    """Trials of the whole study, those of earlier calls included."""
    n_jobs: Annotated[Count, tyro.conf.arg(aliases=["-j"])] = 1
    """Processes, each on one thread."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How the next values are chosen."""
    pruner: Literal["median", "halving", "none"] = "median"
    """What ends trials that lag behind."""
    n_evaluations: Count = 5
    """Evaluations in a trial; after each the pruner may end it."""
    eval_episodes: Count = 10
    """Episodes per evaluation."""
    storage: Annotated[MaybeText, tyro.conf.arg(metavar="FILE|URL")] = None
    """Where the study is kept: the file of a journal, or sqlite:///FILE. Auto: FOLDER/ALGO/ENV.journal."""
    study_name: Annotated[str, tyro.conf.arg(metavar="NAME")] = "rlsd"
    """Its name there."""
    log_folder: Annotated[str, tyro.conf.arg(aliases=["-f"], metavar="FOLDER")] = "logs/tune"
    """For the study, what its processes say, and best.json."""
    seed: Count = 0
    """Of all trainings, and of the sampler."""
    recipe: MaybeText = None
    """The distillation to start from, as in rlsd train."""
    distill: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[K=V ...]", help_behavior_hint="(default: none)")] = ()
    """Changes to it that all trials share."""
    baseline: bool = False
    """Tune plain SB3."""
    hyperparams: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-params"], metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Changes to the tuned hyperparameters that all trials share."""
    env_kwargs: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Arguments for the environment's constructor."""
    worker: Annotated[MaybeCount, tyro.conf.arg(metavar="NUMBER")] = None
    """Be one of the processes of a study; rlsd tune starts them itself."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv: Sequence[str]) -> int:
    """Search, and return the exit code.

    :raises UserError: when the input is wrong, or Optuna is missing.
    """
    options = read_flags(TuneOptions(), "rlsd tune", argv)
    check_lowest(options, dict.fromkeys(("n_timesteps", "n_trials", "n_jobs", "n_evaluations", "eval_episodes"), 1))
    if not options.env:
        raise UserError("--env is missing: give a Gymnasium id, e.g. --env CartPole-v1")
    if options.baseline and options.optimize == "distill":
        raise UserError("--baseline is training without distillation: --optimize distill has nothing to search")
    need("tune", "rlsd tune")
    task, folder = _task(options), _folder(options)
    if options.worker is not None:
        from rlsd.cli.tuning import work

        work(_study(options, folder, options.worker), task, folder / "study.lock")
        return 0
    _check(options, task, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return _search(options, argv, task, folder)


def _search(options: TuneOptions, argv: Sequence[str], task: Search, folder: Path) -> int:
    from rlsd.cli.sweep import Launcher, last_line
    from rlsd.cli.tuning import finished, take_back

    study = _study(options, folder, 0)
    again, before = take_back(study), len(finished(study))
    say(f"{options.n_trials} trials: {before} finished, {again} cut off and run again, {options.n_jobs} at a time")
    said = {trial.number for trial in finished(study)}
    launcher = Launcher()
    with ThreadPoolExecutor(options.n_jobs) as pool, stop_on_signals(launcher.stop, _STOPPING):
        logs = [folder / f"worker_{number}.log" for number in range(options.n_jobs)]
        words = [("-m", "rlsd", "tune", *argv, "--worker", str(before + number)) for number in range(options.n_jobs)]
        futures = [pool.submit(launcher.run, *work) for work in zip(words, logs, strict=True)]
        waiting = set(futures)
        while waiting:
            waiting = wait(waiting, _LOOK).not_done
            _say_new(study, said, options.n_trials)
    failed = [log for future, log in zip(futures, logs, strict=True) if future.result() not in (0, EXIT_INTERRUPTED)]
    _say_best(study, folder, options, argv)
    if launcher.stopping:
        warn(f"Stopped with {len(finished(study))} of {options.n_trials} trials; the same command goes on.")
        return EXIT_INTERRUPTED
    for log in failed:
        warn(f"a process failed, see {log}: {last_line(log)}")
    return EXIT_FAILED if failed else 0


def _task(options: TuneOptions) -> Search:
    from rlsd.cli.tuning import Search

    steps = () if options.n_timesteps is None else ("-n", str(options.n_timesteps))
    words = (
        *("--env", str(options.env), "--algo", options.algo, "--seed", str(options.seed), "--num-threads", "1", *steps),
        *(("--recipe", options.recipe) if options.recipe else ()),
        *(("--baseline",) if options.baseline else ()),
        *(("--distill", *options.distill) if options.distill else ()),
        *(("--hyperparams", *options.hyperparams) if options.hyperparams else ()),
        *(("--env-kwargs", *options.env_kwargs) if options.env_kwargs else ()),
    )
    optimize = "algo" if options.baseline else options.optimize
    counts = (options.n_trials, options.n_evaluations, options.eval_episodes)
    return Search(words, options.algo, optimize, *counts)


def _check(options: TuneOptions, task: Search, folder: Path) -> None:
    """Raise a :class:`UserError` for what would stop every trial: before the first, not in each."""
    from rlsd.cli.plan import plan_new

    plan_new(parse_train(task.words))
    check_file("--log-folder", str(folder / "best.json"))
    if options.storage is not None and "://" not in options.storage:
        check_file("--storage", options.storage)


def _folder(options: TuneOptions) -> Path:
    from rlsd.cli.runfolder import file_name

    return Path(options.log_folder) / options.algo / file_name(str(options.env))


def _study(options: TuneOptions, folder: Path, number: int) -> optuna.Study:
    from rlsd.cli.tuning import open_study

    storage = options.storage or str(folder / "study.journal")
    with blame_input(f"--storage {storage}"):
        return open_study(storage, options.study_name, options.sampler, options.pruner, options.seed + number)


def _say_new(study: optuna.Study, said: set[int], total: int) -> None:
    """Tell of trials that were finished since the last look."""
    from rlsd.cli.tuning import ERROR, finished

    for trial in finished(study):
        if trial.number in said:
            continue
        said.add(trial.number)
        if ERROR in trial.user_attrs:
            found = f"failed: {trial.user_attrs[ERROR]}"
        else:
            found = "pruned" if trial.value is None or trial.state.name == "PRUNED" else f"return {trial.value:.2f}"
        say(f"  trial {trial.number}: {found}  [{len(said)} of {total}]")


def _say_best(study: optuna.Study, folder: Path, options: TuneOptions, argv: Sequence[str]) -> None:
    from rlsd.cli.tuning import WORDS, finished

    trials = finished(study)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        warn("No trial has come to its end yet.")
        return
    best = max(complete, key=lambda trial: trial.value or 0.0)
    command = shlex.join(["rlsd", "train", *best.user_attrs[WORDS]])
    say(f"Best: trial {best.number}, return {best.value:.2f}, mean over {options.eval_episodes} episodes\n{command}")
    data: dict[str, Any] = {
        "command": shlex.join(["rlsd", "tune", *argv]),
        "settings": asdict(options),
        "best": {"number": best.number, "value": best.value, "params": best.params, "train": command},
        "trials": [
            {"number": trial.number, "state": trial.state.name, "value": trial.value, "params": trial.params}
            for trial in trials
        ],
    }
    write_json(folder / "best.json", data)
    say(f"Study {folder}")
