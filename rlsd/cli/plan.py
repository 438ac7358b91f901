"""From flags to a plan: everything that can be wrong with the input is found here, before anything is written."""

from __future__ import annotations

import importlib
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsd.cli import tuned
from rlsd.cli.checks import check, check_together
from rlsd.cli.errors import UserError, blame_input, choices, one_line
from rlsd.cli.options import TrainOptions
from rlsd.cli.probe import backend_of, check_backend, like, load_module, spaces_of
from rlsd.cli.runfolder import RunFolder, check_writable
from rlsd.cli.tracking import check as check_tracker
from rlsd.cli.tuned import Hyperparams
from rlsd.cli.values import parse_pairs
from rlsd.cli.workers import all_envs, check_workers, workers_of
from rlsd.plain import shown

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from rlsd import DistillConfig
    from rlsd.several import DistillConfigs

_SB3, _CONTRIB = "stable_baselines3", "sb3_contrib"
#: Name on the command line, and where its class is. A new one also needs its table in hyperparams/.
ALGORITHMS = {
    "ppo": (_SB3, "PPO"),
    "a2c": (_SB3, "A2C"),
    "dqn": (_SB3, "DQN"),
    "sac": (_SB3, "SAC"),
    "td3": (_SB3, "TD3"),
    "ddpg": (_SB3, "DDPG"),
    "ppo_lstm": (_CONTRIB, "RecurrentPPO"),
    "ppo_mask": (_CONTRIB, "MaskablePPO"),
    "trpo": (_CONTRIB, "TRPO"),
    "ars": (_CONTRIB, "ARS"),
    "qrdqn": (_CONTRIB, "QRDQN"),
    "tqc": (_CONTRIB, "TQC"),
    "crossq": (_CONTRIB, "CrossQ"),
}

#: Bytes that a copy of the smallest environment takes, vectorised.
_COPY = 1000


@dataclass(frozen=True)
class Plan:
    """What a run does, with every value settled.

    :param options: the flags.
    :param env_id: Gymnasium id.
    :param env_kwargs: arguments for the environment's constructor.
    :param hyperparams: of the algorithm and the run.
    :param distill: the five answers, or those of several distillations; None trains plain SB3.
    :param seed: of everything random.
    :param device: a name torch knows.
    :param rollout_device: another one, where the agent acts; None for where it trains.
    """

    options: TrainOptions
    env_id: str
    env_kwargs: dict[str, Any]
    hyperparams: Hyperparams
    distill: DistillConfig | DistillConfigs | None
    seed: int
    device: str
    rollout_device: str | None = None

    @property
    def algorithm(self) -> type[BaseAlgorithm]:
        """The SB3 class that is trained."""
        return algorithm_class(self.options.algo)

    @property
    def recipe(self) -> str:
        """What distils: the name of the recipe or of the file."""
        from rlsd.presets import default

        given = self.options.recipe or self.options.config
        return "plain SB3" if self.distill is None else given or default(self.algorithm)

    @property
    def n_timesteps(self) -> int:
        """Environment steps the run ends after."""
        return self.hyperparams.n_timesteps

    @property
    def acceleration(self) -> dict[str, Any]:
        """What the agent is to be told of its speed."""
        speed = None if self.options.speed == "none" else self.options.speed
        return {"speed": speed, "rollout_device": self.rollout_device}

    @property
    def eval_freq(self) -> int:
        """Steps between evaluations, 0 for none."""
        if not self.options.eval_episodes:
            return 0
        wanted = self.options.eval_freq
        return max(min(self.n_timesteps // 10, 25_000), 1) if wanted is None else wanted

    @property
    def judges(self) -> bool:
        """Whether the evaluations decide the teacher."""
        from rlsd import Best
        from rlsd.several import each

        teachers = [config.teacher for config in each(self.distill)]
        return any(isinstance(teacher, Best) and teacher.by == "evaluation" for teacher in teachers)

    @property
    def num_threads(self) -> int | None:
        """Threads for torch, None for its own choice."""
        if self.options.num_threads is not None:
            return self.options.num_threads
        # A small net is faster on one thread: the work is too little to be worth the meeting.
        return 1 if self.device == "cpu" and self.hyperparams.small else None


def algorithm_class(algo: str) -> type[BaseAlgorithm]:
    """Return the class that ``--algo`` names.

    :raises UserError: when there is none, or the library it is in is not installed.
    """
    if algo not in ALGORITHMS:
        raise UserError(f"unknown --algo {shown(algo)}; {choices(algo, ALGORITHMS)}")
    library, name = ALGORITHMS[algo]
    try:
        algorithm: type[BaseAlgorithm] = getattr(importlib.import_module(library), name)
    except ImportError as error:
        if library != _CONTRIB:
            raise
        raise UserError(f"--algo {algo} needs sb3-contrib: pip install 'rlsd[contrib]' ({one_line(error)})") from error
    return algorithm


def plan_new(options: TrainOptions) -> Plan:
    """Settle what a new run does.

    :raises UserError: for the first thing that is wrong, in one line.
    """
    algorithm = algorithm_class(options.algo)
    check_tracker(options.track)
    check_backend(options.vec_env)
    check_workers(options)
    workers_of(options)
    env_id = options.env or ""
    env_kwargs = parse_pairs("--env-kwargs", options.env_kwargs)
    changes = check(_run_changes(options), algorithm)
    load_module(env_id)
    distill = _distillation(options, algorithm)
    if options.trained_agent and not Path(options.trained_agent).is_file():
        raise UserError(f"--trained-agent {options.trained_agent}: there is no such file")
    check_writable(Path(options.log_folder))
    options = replace(options, vec_env=backend_of(env_id, options.vec_env))
    observation_space, _ = spaces_of(env_id, env_kwargs, like(options.vec_env, "dummy"))
    found = tuned.look_up(options.algo, env_id, observation_space, changes)
    hyperparams = replace(found, values=check(found.values, algorithm))
    check_together(hyperparams.values)
    _check_memory(hyperparams.n_envs)
    seed = secrets.randbelow(2**31) if options.seed == -1 else options.seed
    devices = _devices(options, hyperparams)
    return _with_judge(Plan(options, env_id, env_kwargs, hyperparams, distill, seed, *devices))


def plan_resumed(options: TrainOptions, folder: RunFolder) -> Plan:
    """Settle what a resumed run does: what it did, for as many steps as ``options`` say now."""
    from rlsd.several import config_from

    algorithm = algorithm_class(options.algo)
    check_tracker(options.track)
    env_id = options.env or ""
    env_kwargs = parse_pairs("--env-kwargs", options.env_kwargs)
    stored = check(folder.read_yaml("config.yml"), algorithm)
    missing = [name for name in ("policy", "n_envs", "n_timesteps") if name not in stored]
    if missing:
        raise UserError(f"{folder.params / 'config.yml'} is damaged: it has no {missing[0]}")
    if options.n_timesteps is not None:
        stored["n_timesteps"] = options.n_timesteps
    hyperparams = Hyperparams(stored, "as the run began")
    load_module(env_id)
    distill = None
    if not options.baseline:
        with blame_input(f"cannot read {folder.params / 'distill.yml'}"):
            distill = config_from(folder.read_yaml("distill.yml"))
    with blame_input(f"{folder.params / 'run.yml'} is damaged"):
        seed = int(folder.read_yaml("run.yml").get("seed", options.seed))
    devices = _devices(options, hyperparams)
    return _with_judge(Plan(options, env_id, env_kwargs, hyperparams, distill, seed, *devices))


def _check_memory(n_envs: int) -> None:
    """Raise when so many environments could not be made: the system would end the process without a word."""
    import torch

    from rlsd.memory import budget, readable

    with blame_input():
        allowed = budget(torch.device("cpu"))
    if allowed is not None and n_envs * _COPY > allowed:
        raise UserError(
            f"n_envs {n_envs} take {readable(n_envs * _COPY)} at least, more than the {readable(allowed)} that "
            "they may have here: give fewer"
        )


def _with_judge(plan: Plan) -> Plan:
    """Return the plan, after a look whether the evaluations that it lets decide take place."""
    if plan.judges and not plan.eval_freq:
        raise UserError(
            "teacher.by 'evaluation' needs evaluations during training, and there are none (--eval-freq 0): "
            "use 'training', or rlsd train with --eval-freq above 0"
        )
    return plan


def _run_changes(options: TrainOptions) -> dict[str, Any]:
    """Return the hyperparameters that the command line sets, by ``--hyperparams`` or by a flag of their own."""
    flags = {"n_envs": all_envs(options), "n_timesteps": options.n_timesteps}
    return {
        **parse_pairs("--hyperparams", options.hyperparams),
        **{key: value for key, value in flags.items() if value is not None},
    }


def _distillation(options: TrainOptions, algorithm: type[BaseAlgorithm]) -> DistillConfig | DistillConfigs | None:
    from rlsd.config import yaml_data
    from rlsd.presets import resolve

    if options.baseline:
        return None
    changes = parse_pairs("--distill", options.distill)
    config: DistillConfig | DistillConfigs | None
    if options.config:
        with blame_input(f"--config {options.config}"):
            config = resolve(yaml_data(Path(options.config).read_text(encoding="utf-8")) or {}, algorithm)
        with blame_input("--distill"):
            assert config is not None
            config = config.changed(changes)
    else:
        with blame_input():
            config = resolve(options.recipe or True, algorithm, changes)
    _check_trust(config, options)
    return config


def _check_trust(config: DistillConfig | DistillConfigs | None, options: TrainOptions) -> None:
    """Raise where an agent that is named as teacher may not be unpickled."""
    from rlsd import Frozen, Several
    from rlsd.several import each

    teachers = [one.teacher for one in each(config)]
    while several := next((one for one in teachers if isinstance(one, Several)), None):
        teachers.remove(several)
        teachers += several.teachers
    for one in teachers:
        if isinstance(one, Frozen) and one.path and not options.trust:
            raise UserError(
                f"the teacher {shown(one.path)} would be unpickled, which runs whatever code is in it: "
                "give --trust if you trust the file"
            )


def _devices(options: TrainOptions, hyperparams: Hyperparams) -> tuple[str, str | None]:
    """Return the torch devices that ``--device`` and ``--rollout-device`` mean.

    :raises UserError: when torch does not know one, or this machine does not have it.
    """
    import torch

    name = options.device
    if name == "auto":
        name = "cuda" if not hyperparams.small and torch.cuda.is_available() else "cpu"
    device = _device("--device", name)
    return device, None if options.rollout_device is None else _device("--rollout-device", options.rollout_device)


def _device(flag: str, name: str) -> str:
    from rlsd.devices import usable_device

    with blame_input():
        return str(usable_device(flag, name))
