"""The flags of ``rlsd train``: a dataclass, whose docstrings are the ``--help``. What rl_zoo3 names has its name."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

import tyro

from rlsd.cli.errors import UserError, choices
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest, read_flags
from rlsd.cli.values import as_words, parse_pairs
from rlsd.plain import shown


@dataclass(frozen=True)
class TrainOptions:
    """Train an agent with self-distillation. Only --env is needed: rlsd train --env CartPole-v1"""

    env: Annotated[MaybeText, tyro.conf.arg(metavar="ID")] = None
    """Gymnasium id of the environment."""
    algo: Annotated[str, tyro.conf.arg(metavar="ALGO")] = "ppo"
    """Algorithm: ppo, a2c, dqn, sac, td3, ddpg, or sb3-contrib's ppo_lstm, ppo_mask, trpo, ars, qrdqn, tqc, crossq."""
    n_timesteps: Annotated[MaybeCount, tyro.conf.arg(aliases=["-n"])] = None
    """Environment steps to train for, all copies together. Auto: the tuned number for the environment."""
    seed: Count = 0
    """Seed of everything random; the same seed gives the same run. -1 draws one."""
    n_envs: MaybeCount = None
    """Copies of the environment in parallel. Auto: the tuned number."""
    vec_env: Annotated[str, tyro.conf.arg(metavar="KIND")] = "auto"
    """How the copies run: auto, dummy (in one process), subproc (one process each), gymnasium, envpool or ale."""
    workers: MaybeCount = None
    """Collect the rollouts by so many Ray workers; needs rlsd[ray]."""
    envs_per_worker: MaybeCount = None
    """Copies of the environment at each worker; 1 by default. All of them together are --n-envs."""
    ray: Annotated[MaybeText, tyro.conf.arg(metavar="ADDRESS")] = None
    """Where the workers are: auto for the cluster of this machine, or HOST:PORT. By default Ray is started here."""
    env_kwargs: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Arguments for the environment's constructor: key:value pairs or one JSON object."""
    hyperparams: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-params"], metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Changes to the tuned hyperparameters, e.g. learning_rate:lin_0.001 policy_kwargs:'{net_arch: [64, 64]}'."""

    recipe: MaybeText = None
    """Kind of self-distillation; `rlsd recipes` lists them. Several at once: remember+guard."""
    distill: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[K=V ...]", help_behavior_hint="(default: none)")] = ()
    """Changes to the recipe, e.g. teacher.every=4096 strength.value=0.3; of several guard.strength.value=0.3."""
    config: Annotated[MaybeText, tyro.conf.arg(metavar="FILE")] = None
    """YAML file with a distillation config, such as the distill.yml of another run; instead of --recipe."""
    baseline: bool = False
    """Train plain SB3, with everything else the same."""

    average: bool = False
    """Keep an average of the weights over the latest tenth of the steps; evaluate it beside the agent, and save it."""
    eval_freq: MaybeCount = None
    """Evaluate every so many steps; 0 for never. Auto: a tenth of the run, at most 25000."""
    eval_episodes: Count = 5
    """Episodes per evaluation; the last one takes 20 at least. 0 for no evaluation at all."""
    n_eval_envs: Count = 5
    """Copies of the environment to evaluate in."""
    save_freq: MaybeCount = None
    """Save a checkpoint to resume from every so many steps; 0 for only at the end. Auto: a tenth of the run,
    or more where the checkpoint holds a large replay buffer."""

    log_folder: Annotated[str, tyro.conf.arg(aliases=["-f"], metavar="FOLDER")] = "logs"
    """Runs go to FOLDER/ALGO/ENV_NUMBER/."""
    tensorboard_log: Annotated[MaybeText, tyro.conf.arg(aliases=["-tb"], metavar="FOLDER")] = None
    """Where TensorBoard's files go; where left out, into the run's own folder."""
    track: Annotated[MaybeText, tyro.conf.arg(metavar="TRACKER")] = None
    """Track the run in wandb (Weights & Biases) or mlflow; needs rlsd[track]."""
    track_project: str = "rlsd"
    """Project of the tracker; MLflow calls it an experiment."""
    # Looked up when asked: who captures the output exchanges it.
    progress: Annotated[bool, tyro.conf.arg(aliases=["-P"])] = field(default_factory=lambda: sys.stderr.isatty())
    """Show a progress bar; by default where stderr is a terminal."""
    verbose: Count = 0
    """1 prints SB3's tables."""

    trained_agent: Annotated[MaybeText, tyro.conf.arg(aliases=["-i"], metavar="ZIP")] = None
    """Start from the weights of this saved agent; nothing else in the zip is read."""
    trust: bool = False
    """Unpickle the zips that are named, which runs whatever code they bring: all of --trained-agent, and a teacher."""
    resume: Annotated[MaybeText, tyro.conf.arg(metavar="RUN")] = None
    """Go on with the run in this folder, e.g. logs/ppo/CartPole-v1_1; nothing else is needed."""

    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "auto"
    """cpu, cuda, cuda:1 ... auto takes the CPU for small networks, which are faster there."""
    rollout_device: Annotated[MaybeText, tyro.conf.arg(metavar="DEVICE")] = None
    """Where the agent acts, when not where it trains: cpu with --device cuda."""
    speed: Annotated[str, tyro.conf.arg(metavar="SPEED")] = "exact"
    """exact leaves out what changes no bit; max may round otherwise; none is SB3's own code."""
    num_threads: MaybeCount = None
    """Threads for torch. Auto: 1 for small networks on the CPU, else torch's own choice."""
    debug: bool = False
    """Show the traceback of an error."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain data for ``args.yml``, pairs as mappings."""
        pairs = {key: parse_pairs(_flag(key), getattr(self, key)) for key in _PAIRS}
        return {**dataclasses.asdict(self), **pairs}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainOptions:
        """Read back what :meth:`to_dict` wrote; keys of another version of rlsd are ignored.

        :raises ValueError: when a value is none that it writes.
        """
        kinds = {**get_type_hints(cls), **dict.fromkeys(_PAIRS, dict)}
        known = {key: value for key, value in data.items() if key in kinds}
        for key, value in known.items():
            if not isinstance(value, kinds[key]):
                raise ValueError(f"{key} cannot be {shown(value)}")
        return cls(**known | {key: as_words(known[key]) for key in _PAIRS if key in known})


SPEEDS = ("exact", "max", "none")
_PAIRS = ("env_kwargs", "hyperparams", "distill")


def parse(argv: Sequence[str], default: TrainOptions | None = None) -> TrainOptions:
    """Read the command line.

    :param argv: the words after ``rlsd train``.
    :param default: options for what ``argv`` does not mention; those of the run when one is resumed.
    :raises UserError: with tyro's message on one line.
    """
    if sum(word.partition("=")[0] == "--env" for word in argv) > 1:
        raise UserError("--env is there twice: rlsd train takes one environment, rlsd compare several")
    options = read_flags(default or TrainOptions(), "rlsd train", argv)
    _check_ranges(options)
    _check_speed(options)
    if default is None:
        _check_contradictions(options)
    return options


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_ranges(options: TrainOptions) -> None:
    lowest = dict.fromkeys(("workers", "envs_per_worker", "n_timesteps", "n_envs", "n_eval_envs", "num_threads"), 1)
    check_lowest(
        options, lowest | dict.fromkeys(("eval_episodes", "eval_freq", "save_freq", "verbose"), 0) | {"seed": -1}
    )
    # Torch takes any number, and the process dies where the system has not so many threads.
    cores = os.cpu_count()
    if options.num_threads is not None and cores is not None and options.num_threads > cores:
        raise UserError(f"--num-threads must be {cores} or less, the cores of this machine, got {options.num_threads}")


def _check_speed(options: TrainOptions) -> None:
    if options.speed not in SPEEDS:
        raise UserError(f"unknown --speed {options.speed!r}; {choices(options.speed, SPEEDS)}")


def _check_contradictions(options: TrainOptions) -> None:
    if options.baseline and (options.recipe or options.distill or options.config):
        raise UserError("--baseline is training without distillation: leave out --recipe, --distill and --config")
    if options.recipe and options.config:
        raise UserError(f"--recipe {options.recipe} and --config {options.config} exclude each other: give one")
    if options.resume and options.trained_agent:
        raise UserError("--resume and --trained-agent exclude each other: give one")
    if not options.env and not options.resume:
        raise UserError("--env is missing: give a Gymnasium id, e.g. --env CartPole-v1")
