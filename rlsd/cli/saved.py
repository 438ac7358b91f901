"""A saved agent to be played, measured or exported: where it is, what belongs to it, and how it acts again.

It is found in the folder of a run, rlsd's or rl_zoo3's, or it is a zip that SB3 wrote. Only its policy is made, and of
the zip only plain data and tensors are read: no code in it runs, unless ``--trust`` is given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlsd.cli.errors import UserError, blame_input
from rlsd.cli.flags import Count, MaybeCount, MaybeText, check_lowest
from rlsd.cli.probe import like
from rlsd.cli.runfolder import RunFolder, file_name, numbers
from rlsd.cli.values import parse_pairs
from rlsd.plain import shown

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv


@dataclass(frozen=True)
class AgentOptions:
    """Which agent a command is about."""

    agent: tyro.conf.Positional[Annotated[MaybeText, tyro.conf.arg(metavar="RUN|ZIP")]] = None
    """Folder of a run, e.g. logs/ppo/CartPole-v1_1, or a zip that SB3 saved. Where left out, the run that --env,
    --algo and --exp-id name."""
    env: Annotated[MaybeText, tyro.conf.arg(metavar="ID")] = None
    """Gymnasium id of the environment. Auto: the run's."""
    algo: Annotated[str, tyro.conf.arg(metavar="ALGO")] = "ppo"
    """Algorithm of the run, where no folder is given."""
    folder: Annotated[str, tyro.conf.arg(aliases=["-f"], metavar="FOLDER")] = "logs"
    """Runs are looked for in FOLDER/ALGO/ENV_NUMBER/."""
    exp_id: Count = 0
    """Number of the run; 0 for the latest."""
    load_best: bool = False
    """Take the agent that did best in an evaluation during training, not the final one."""
    load_checkpoint: Annotated[MaybeCount, tyro.conf.arg(metavar="STEP")] = None
    """Take the checkpoint at this step."""
    load_last_checkpoint: bool = False
    """Take the latest checkpoint."""
    env_kwargs: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="[K:V ...]", help_behavior_hint="(default: none)")
    ] = ()
    """Arguments for the environment's constructor. Auto: the run's."""
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "cpu"
    """Where the agent acts: cpu, cuda ..."""
    trust: bool = False
    """Unpickle the zip, which runs whatever code it brings: for policies of your own."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class SavedAgent:
    """An agent on disk.

    :param file: its zip.
    :param env_id: the environment it was trained in, None where nothing tells.
    :param env_kwargs: arguments for that environment's constructor.
    :param vec_env: what ran the environment.
    :param statistics: the file of its ``VecNormalize``, None where it had none.
    """

    file: Path
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    vec_env: str = "auto"
    statistics: Path | None = None

    def make_env(self, n_envs: int, seed: int, vec_env: str | None = None, **changes: Any) -> VecEnv:
        """Make an environment that shows the agent what it saw in training, with rewards as the environment gives them.

        :param vec_env: what runs it, None for what ran it in training.
        :param changes: further arguments for the environment's constructor.
        """
        from stable_baselines3.common.base_class import BaseAlgorithm
        from stable_baselines3.common.vec_env import VecNormalize

        from rlsd.cli.environments import load_statistics
        from rlsd.cli.probe import load_module, make
        from rlsd.io.statistics_file import read_statistics

        if self.env_id is None:
            raise UserError(f"{self.file} does not say in which environment it was trained: give --env ID")
        load_module(self.env_id)
        env = make(self.env_id, n_envs, vec_env or self.vec_env, seed % 2**31, {**self.env_kwargs, **changes})
        if self.statistics is not None:
            with blame_input(f"cannot read {self.statistics}"):
                found = read_statistics(self.statistics)
            clip = {"clip_obs": found.clip_obs, "norm_obs": found.norm_obs}
            keys = sorted(found.obs_rms) if isinstance(found.obs_rms, dict) else None
            with blame_input(f"{self.statistics} does not fit {self.env_id}"):
                env = VecNormalize(env, training=False, norm_reward=False, norm_obs_keys=keys, **clip)
            load_statistics(self.statistics, env)
        return BaseAlgorithm._wrap_env(env, verbose=0, monitor_wrapper=False)

    def policy(self, env: VecEnv, device: str, trust: bool) -> BasePolicy:
        """Make the policy that acts in ``env``.

        :raises UserError: when the zip is damaged, of another library, or does not fit the environment.
        """
        from rlsd.cli.saved_policy import read_policy
        from rlsd.devices import usable_device

        with blame_input():
            return read_policy(self.file, env, usable_device("--device", device), trust)


def find_agent(options: AgentOptions) -> SavedAgent:
    """Find the agent that a command line means.

    :raises UserError: when there is none.
    """
    check_lowest(options, {"exp_id": 0, "load_checkpoint": 0})
    if options.agent is not None and Path(options.agent).is_file():
        found = _beside(Path(options.agent))
    else:
        found = _in_run(_folder(options), options)
    if options.env is not None:
        kwargs = found.env_kwargs if options.env == found.env_id else {}
        found = replace(found, env_id=options.env, env_kwargs=kwargs)
    if options.env_kwargs:
        found = replace(found, env_kwargs=parse_pairs("--env-kwargs", options.env_kwargs))
    return found


def _folder(options: AgentOptions) -> RunFolder:
    if options.agent is not None:
        return RunFolder.find(options.agent, Path(options.folder), options.algo, options.env)
    if options.env is None:
        raise UserError("which agent? Give the folder of a run or a zip, or --env and --algo")
    parent, name = Path(options.folder) / options.algo, file_name(options.env)
    found = numbers(parent, name)
    if not found:
        raise UserError(f"there is no run of {options.env} in {parent}: rlsd train --env {options.env} makes one")
    number = options.exp_id or max(found)
    if number not in found:
        known = ", ".join(map(str, sorted(found)))
        raise UserError(f"there is no run {number} of {options.env} in {parent}; there are: {known}")
    return RunFolder.find(str(parent / f"{name}_{number}"), Path(options.folder), options.algo, None)


def _in_run(folder: RunFolder, options: AgentOptions) -> SavedAgent:
    """Return the agent of a run that the flags choose."""
    if options.load_checkpoint is not None or options.load_last_checkpoint:
        return _checkpoint(folder, options.load_checkpoint)
    file = folder.best_agent if options.load_best else folder.final_agent
    if file.is_file():
        return _beside(file)
    other = folder.final_agent if options.load_best else folder.best_agent
    ways = ["--load-best" if other == folder.best_agent else "no --load-best"] if other.is_file() else []
    ways += ["--load-last-checkpoint"] if folder.can_be_resumed else []
    hint = f"; it has others: {' or '.join(ways)}" if ways else ": it was stopped before it saved any"
    raise UserError(f"the run {folder.root} has no {file.name}{hint}")


def _checkpoint(folder: RunFolder, step: int | None) -> SavedAgent:
    from rlsd.io.folders import AGENT, STATISTICS, latest_checkpoint

    zoos = _zoo_checkpoint(folder, step)
    if zoos is not None:
        return _beside(zoos)
    if step is None:
        with blame_input():
            place = latest_checkpoint(folder.checkpoints)
    else:
        place = folder.checkpoints / str(step)
    if not (place / AGENT).is_file():
        known = sorted((path.name for path in folder.checkpoints.glob("[0-9]*")), key=int)
        raise UserError(f"the run {folder.root} has no checkpoint at step {step}; there are: {', '.join(known) or '-'}")
    statistics = place / STATISTICS
    found = SavedAgent(place / AGENT, statistics=statistics if statistics.is_file() else None)
    return _as_trained(found, folder)


def _zoo_checkpoint(folder: RunFolder, step: int | None) -> Path | None:
    """Return the checkpoint of a run of rl_zoo3 at a step, or its latest; None where it has none."""
    found = {int(path.stem.split("_")[-2]): path for path in folder.root.glob("rl_model_[0-9]*_steps.zip")}
    return found.get(max(found, default=0) if step is None else step)


def _beside(file: Path) -> SavedAgent:
    """Return a zip with what lies beside it: the settings of its run, and ``VecNormalize`` statistics."""
    folder = next((path.parent for path in file.parent.glob("*/args.yml")), None)
    run = None if folder is None else RunFolder(file.parent, folder.name)
    places = [file.parent / file.stem / "vecnormalize.pkl", file.parent / "vecnormalize.pkl"]
    # As SB3's CheckpointCallback names them: rl_model_1000_steps.zip and rl_model_vecnormalize_1000_steps.pkl.
    at_step = re.sub(r"(_[0-9]+_steps)$", r"_vecnormalize\1", file.stem)
    places.append(file.parent / f"{at_step}.pkl")
    if run is not None:
        places = [run.best_statistics] * (file == run.best_agent) + [run.statistics, *places]
    found = SavedAgent(file, statistics=next((place for place in places if place.is_file()), None))
    return found if run is None else _as_trained(found, run)


def _as_trained(found: SavedAgent, run: RunFolder) -> SavedAgent:
    """Add what a run says of its environment. One of rl_zoo3 says it in a YAML that is not plain: its name serves."""
    try:
        settings = run.read_yaml("args.yml")
        normalized = run.read_yaml("config.yml").get("normalize") if found.statistics is None else None
    except UserError:
        return replace(found, env_id=run.env_name)
    if normalized:
        raise UserError(f"{found.file} saw normalised observations, and the file with the statistics is missing")
    env_id, kwargs, vec_env = (settings.get(key) for key in ("env", "env_kwargs", "vec_env"))
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    # These two show other observations than the environment itself.
    special = like(str(vec_env), "auto")
    if not isinstance(env_id, str):
        raise UserError(f"{run.params / 'args.yml'} is damaged: env cannot be {shown(env_id)}")
    return replace(found, env_id=env_id, env_kwargs=kwargs, vec_env=special)
