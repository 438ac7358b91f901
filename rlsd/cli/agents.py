"""Makes the agent of a run: new, from a trained one, or from a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from rlsd.cli.coldstart import leave_compiler_out
from rlsd.cli.console import warn
from rlsd.cli.environments import load_statistics, training_env
from rlsd.cli.errors import UserError, blame_input, one_line
from rlsd.cli.plan import Plan
from rlsd.cli.probe import like, spaces_of
from rlsd.cli.runfolder import RunFolder
from rlsd.cli.workers import move
from rlsd.plain import read_json

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


def new_agent(plan: Plan, env: VecEnv, tensorboard: Path) -> BaseAlgorithm:
    """Build the agent, or load it from ``--trained-agent``. Without distillation it is plain SB3, bit for bit.

    :raises UserError: when the algorithm refuses the environment or a hyperparameter, or the zip is not its own.
    """
    from rlsd import SelfDistilled
    from rlsd.io import checkpoint

    leave_compiler_out()
    _check_actions(plan, type(env.action_space).__name__)
    algorithm = SelfDistilled(plan.algorithm)
    settings = {
        **plan.hyperparams.agent_kwargs(env.action_space),
        "seed": plan.seed,
        "verbose": plan.options.verbose,
        "tensorboard_log": str(tensorboard),
        "distill": plan.distill,
        **plan.acceleration,
    }
    start = plan.options.trained_agent
    doing = f"--trained-agent {start}" if start else f"cannot build {plan.algorithm.__name__} for {plan.env_id}"
    with blame_input(doing):
        if start is not None:
            checkpoint.read(start, plan.algorithm)  # it says what is damaged, or of another algorithm
            _check_entropy(start, settings.get("ent_coef"))
        if start is None or not plan.options.trust:
            agent: BaseAlgorithm = algorithm(plan.hyperparams.policy, env, device=plan.device, **settings)
            if start is None:
                return agent
            _take_weights(start, agent)
        else:
            settings.pop("policy_kwargs", None)  # the net is in the zip, and cannot be another
            agent = algorithm.load(start, env=env, device=plan.device, **settings)
            _renew_search(agent)
    zip_file = Path(start)
    load_statistics(zip_file.parent / zip_file.stem / "vecnormalize.pkl", env)
    return agent


#: The kind of action that an algorithm is for, where it is for one; and what takes each kind.
_FOR = {**dict.fromkeys(("sac", "td3", "ddpg", "tqc", "crossq"), "Box"), **dict.fromkeys(("dqn", "qrdqn"), "Discrete")}
_TAKES = {"Box": "ppo, a2c, trpo, sac, td3, tqc or crossq", "Discrete": "ppo, a2c, trpo, dqn or qrdqn"}


def _check_actions(plan: Plan, kind: str) -> None:
    """Raise when the algorithm is for another kind of action.

    :param kind: of the environment's action space.
    """
    algo = plan.options.algo
    if _FOR.get(algo, kind) != kind:
        others = _TAKES.get(kind, "ppo, a2c or trpo")
        raise UserError(f"{algo} is for actions of a {_FOR[algo]}, and {plan.env_id} takes {kind}: use --algo {others}")


def _take_weights(start: str, agent: BaseAlgorithm) -> None:
    from rlsd import load_weights

    try:
        load_weights(start, agent)
    except ValueError as error:
        raise UserError(
            f"--trained-agent {one_line(error)}. Spaces and network must be the same: give the policy_kwargs that it "
            "was trained with (-params), or --trust if the file is yours: then all of it is loaded, and code in it run"
        ) from error


def _check_entropy(start: str, wanted: Any) -> None:
    """Raise when one of two entropy coefficients is learned and the other fixed: SB3 cannot load one as the other."""
    with ZipFile(start) as archive:
        learned = "ent_coef_optimizer.pth" in archive.namelist()
    if wanted is not None and learned != str(wanted).startswith("auto"):
        how, instead = ("learned", "auto") if learned else ("not learned", "NUMBER")
        raise UserError(
            f"--trained-agent {start}: its ent_coef was {how}, {wanted} cannot follow: give -params ent_coef:{instead}"
        )


def _renew_search(agent: Any) -> None:
    """Let ARS follow its new hyperparameters: what it derives from them comes out of the zip with the old ones."""
    from stable_baselines3.common.utils import FloatSchedule

    if hasattr(agent, "pop_size"):
        agent.pop_size = 2 * agent.n_delta
        agent.n_top = min(agent.n_top or agent.n_delta, agent.n_delta)
        if hasattr(agent, "delta_std"):
            agent.delta_std_schedule = FloatSchedule(agent.delta_std)


def resumed_agent(plan: Plan, folder: RunFolder, checkpoint: Path) -> BaseAlgorithm:
    """Load the agent from an exact checkpoint, to go on as if it had never stopped.

    :raises UserError: when the checkpoint is damaged, or the environment has other spaces than it was trained in.
    """
    import rlsd

    leave_compiler_out()
    with _offering_an_older_one(folder, checkpoint), blame_input(f"cannot resume from {checkpoint}"):
        env = _fresh_env(plan, folder, checkpoint)
        agent: BaseAlgorithm = rlsd.resume(checkpoint, env=env, device=plan.device, **plan.acceleration)
        move(agent, plan.options)
    if not isinstance(agent, plan.algorithm):
        raise UserError(f"{checkpoint} holds an agent of {type(agent).__name__}, not of {plan.algorithm.__name__}")
    agent.tensorboard_log = str(folder.tensorboard(plan.options.tensorboard_log))
    agent.verbose = plan.options.verbose
    _check_spaces(plan, agent)
    return agent


def _fresh_env(plan: Plan, folder: RunFolder, checkpoint: Path) -> VecEnv | None:
    """Return a new environment when the checkpoint could not hold the old one, else None."""
    reason = read_json((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))["not_exact"]
    if not reason:
        return None
    warn(f"Episodes start afresh, the rest goes on exactly: {reason}.")
    env = training_env(plan)
    load_statistics(folder.statistics, env)
    return env


@contextmanager
def _offering_an_older_one(folder: RunFolder, checkpoint: Path) -> Iterator[None]:
    """Say how to go on from the checkpoint before where one cannot be read."""
    from rlsd.io.folders import whole_before

    try:
        yield
    except UserError as error:
        older = whole_before(checkpoint)
        if older is None:
            raise
        aside = shlex.join(["mv", str(checkpoint), f"{checkpoint}.damaged"])
        go_on = shlex.join(["rlsd", "train", "--resume", str(folder.root)])
        way = f"to go on from step {int(older.name):,}, where all is whole: {aside} && {go_on}"
        raise UserError(f"{error}; {way}") from error


def _check_spaces(plan: Plan, agent: BaseAlgorithm) -> None:
    """Raise when the environment is no longer the one in the checkpoint, which itself would just go on."""
    env = agent.get_env()
    assert env is not None
    now = spaces_of(plan.env_id, plan.env_kwargs, like(plan.options.vec_env, "dummy"))
    before = (env.unwrapped.observation_space, env.unwrapped.action_space)
    for kind, was, is_ in zip(("observation", "action"), before, now, strict=True):
        if was != is_:
            raise UserError(
                f"the {kind} space of {plan.env_id} has changed since the run began: {was} was, {is_} is now"
            )
