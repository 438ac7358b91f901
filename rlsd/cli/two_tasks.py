"""An agent learns task A, then B, and is evaluated on both after each: for ``rlsd demo`` and ``scripts/retention.py``.

It is a process of its own, ``python -m rlsd.cli.two_tasks SETTINGS FILE [EVERY]``, and its file is written at its end:
a file that is there is a trial that is finished. With ``EVERY`` it also prints the returns on both tasks every so many
steps, a line of JSON each.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsd.cli.console import say
from rlsd.cli.plan import Plan
from rlsd.cli.probe import load_module
from rlsd.cli.tuned import Hyperparams

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback

#: Makes task A and task B of any environment; see ``rlsd_envs.Flipped``.
FLIP = "rlsd_envs/Flip-v1"
TASKS = ("A", "B")
#: How actions are chosen in an evaluation, and what SB3 calls it.
ACTIONS = {"greedy": True, "sampled": False}

#: Added to the seed for each time the task has changed, so that no environment starts where one before it did.
_PHASE_SEED = 2**20
_EVALUATION_SEED = 2**30
_EVALUATION_ENVS = 10
#: Of the random policy; they are short where it does badly, and cost little where they are not.
_RANDOM_EPISODES = 100


@dataclass(frozen=True)
class Settings:
    """All that decides what a trial comes to, as plain data.

    :param env: Gymnasium id of the environment that both tasks are made from.
    :param env_kwargs: arguments for its constructor.
    :param algo: as in ``--algo``.
    :param seed: of everything random.
    :param steps: environment steps on a task before it changes.
    :param rounds: how often A and then B is trained on.
    :param eval_episodes: of each evaluation.
    :param hyperparams: all of them, with nothing left that follows training's progress.
    :param distill: the five answers; None is plain SB3.
    :param device: a name torch knows.
    """

    env: str
    env_kwargs: dict[str, Any]
    algo: str
    seed: int
    steps: int
    rounds: int
    eval_episodes: int
    hyperparams: dict[str, Any]
    distill: dict[str, Any] | None
    device: str

    @property
    def digest(self) -> str:
        """A short name for exactly these settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]

    def plan(self, task: str = "A", phase: int = 0) -> Plan:
        """Return the settings in the form that environments are made from.

        :param task: one of :data:`TASKS`.
        :param phase: how often the task has changed.
        """
        from rlsd.cli.options import TrainOptions
        from rlsd.several import config_from

        load_module(self.env)
        return Plan(
            options=TrainOptions(algo=self.algo, n_eval_envs=min(_EVALUATION_ENVS, self.eval_episodes)),
            env_id=FLIP,
            env_kwargs=flip_kwargs(self.env, self.env_kwargs, task),
            hyperparams=Hyperparams(self.hyperparams, ""),
            distill=None if self.distill is None else config_from(self.distill),
            seed=self.seed + phase * _PHASE_SEED,
            device=self.device,
        )


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    :param phases: by and by, for each stretch on one task: which one, the steps so far, seconds, and the returns of
        the evaluation episodes after it, by task and by how actions were chosen.
    :param figures: the distillation's latest, by their TensorBoard keys; nothing for plain SB3.
    :param seconds: of training.
    :param code: version and commit it was trained with.
    """

    phases: list[dict[str, Any]]
    figures: dict[str, float | None]
    seconds: float
    code: str

    def mean(self, phase: int, task: str, actions: str) -> float:
        """Return the mean return of an evaluation: after which phase, on which task, by which choice of actions."""
        returns = self.phases[phase]["returns"][task][actions]
        return _mean(returns)


def flip_kwargs(env: str, env_kwargs: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the arguments that make :data:`FLIP` a task of an environment."""
    return {**env_kwargs, "env_id": env, "flipped": task == "B"}


def read(file: Path, settings: Settings) -> Outcome | None:
    """Return what a finished trial wrote, None where there is none with these settings."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["settings"] != asdict(settings):
            return None
        return Outcome(**found["outcome"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def new_agent(plan: Plan) -> BaseAlgorithm:
    """Make the agent, in an environment of its own."""
    from rlsd import SelfDistilled
    from rlsd.cli.environments import training_env

    env = training_env(plan)
    kwargs = plan.hyperparams.agent_kwargs(env.action_space)
    try:
        agent: BaseAlgorithm = SelfDistilled(plan.algorithm)(
            plan.hyperparams.policy, env, seed=plan.seed, device=plan.device, distill=plan.distill, **kwargs
        )
    except BaseException:
        env.close()
        raise
    return agent


@dataclass(frozen=True)
class Point:
    """The mean greedy returns on both tasks at a moment of training.

    :param steps: environment steps so far.
    """

    steps: int
    a: float
    b: float


def train(settings: Settings, every: int = 0, tell: Callable[[Point], None] | None = None) -> Outcome:
    """Run the trial.

    :param every: environment steps from one look at the agent to the next; 0 for none.
    :param tell: is handed what each look finds.
    """
    from rlsd.cli.provenance import git_commit
    from rlsd.version import __version__

    agent = new_agent(settings.plan())
    looks = None if tell is None else _looks(settings, every, tell)
    phases: list[dict[str, Any]] = []
    for phase in range(2 * settings.rounds):
        task = TASKS[phase % 2]
        if phase:
            _change_task(agent, settings.plan(task, phase))
        started = time.perf_counter()
        # Only the first call is told that it begins anything: the agent is in the middle of its life at the others.
        agent.learn(settings.steps, callback=looks, reset_num_timesteps=phase == 0)
        seconds = time.perf_counter() - started
        returns = {on: _returns(agent, settings, on) for on in TASKS}
        steps = int(agent.num_timesteps)
        phases.append({"task": task, "steps": steps, "seconds": round(seconds, 3), "returns": returns})
    env = agent.get_env()
    assert env is not None
    env.close()
    code = f"{__version__} {git_commit() or ''}".strip()
    return Outcome(phases, _figures(agent), round(sum(found["seconds"] for found in phases), 3), code)


def random_return(env: str, env_kwargs: Mapping[str, Any]) -> float:
    """Return the mean return of actions drawn uniformly, which is the same for both tasks: an inverse is as likely."""
    import numpy as np

    from rlsd.cli.probe import make

    venv = make(FLIP, 1, "dummy", _EVALUATION_SEED, flip_kwargs(env, env_kwargs, "A"))
    try:
        venv.action_space.seed(_EVALUATION_SEED)
        venv.reset()
        returns: list[float] = []
        while len(returns) < _RANDOM_EPISODES:
            _, _, ended, infos = venv.step(np.array([venv.action_space.sample()]))
            returns += [float(infos[0]["episode"]["r"])] if ended[0] else []
    finally:
        venv.close()
    return _mean(returns)


def _looks(settings: Settings, every: int, tell: Callable[[Point], None]) -> BaseCallback:
    """Return a callback that evaluates the agent on both tasks now and then, at a rollout's start."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Looks(BaseCallback):
        due = 0

        def _on_rollout_start(self) -> None:
            if self.num_timesteps >= self.due:
                self.due = self.num_timesteps + every
                found = [_mean(_returns(self.model, settings, task, ("greedy",))["greedy"]) for task in TASKS]
                tell(Point(self.num_timesteps, *found))

        def _on_step(self) -> bool:
            return True

    return Looks()


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


def _change_task(agent: Any, plan: Plan) -> None:
    """Put the agent into an environment of the other task, and tell it nothing."""
    from stable_baselines3.common.utils import FloatSchedule
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from rlsd.cli.environments import copy_statistics, training_env

    before, env = agent.get_env(), training_env(plan)
    source, target = unwrap_vec_normalize(before), unwrap_vec_normalize(env)
    if source is not None and target is not None:
        copy_statistics(source, target)
    agent.set_env(env)
    before.close()
    if hasattr(agent, "exploration_schedule"):
        # It falls over the first call's steps, and SB3 would have it rise again for the steps of the next.
        agent.exploration_schedule = FloatSchedule(agent.exploration_final_eps)


def _returns(
    agent: Any, settings: Settings, task: str, chosen: Sequence[str] = tuple(ACTIONS)
) -> dict[str, list[float]]:
    """Return the returns of evaluation episodes on a task, by how actions are chosen. The agent is as it was before."""
    from stable_baselines3.common.evaluation import evaluate_policy

    from rlsd.cli.environments import evaluation_env

    found = {}
    for actions in chosen:
        deterministic = ACTIONS[actions]
        seed = (settings.seed + _EVALUATION_SEED) % 2**31
        env = evaluation_env(settings.plan(task), seed, agent.get_env())
        try:
            with _own_generators(agent, seed):
                returns, _ = evaluate_policy(
                    agent, env, settings.eval_episodes, deterministic=deterministic, return_episode_rewards=True
                )
        finally:
            env.close()
        assert isinstance(returns, list)
        found[actions] = [float(value) for value in returns]
    return found


@contextmanager
def _own_generators(agent: Any, seed: int) -> Iterator[None]:
    """Let what is drawn inside come from ``seed``, so that training goes on as if there had been no evaluation."""
    from rlsd.rng import private_numbers

    space, agent.action_space = agent.action_space, copy.deepcopy(agent.action_space)
    agent.action_space.seed(seed)
    try:
        with private_numbers(seed):
            yield
    finally:
        agent.action_space = space


def _figures(agent: Any) -> dict[str, float | None]:
    distiller = agent.distiller
    if distiller is None:
        return {}
    found = distiller.logged or distiller.line()
    # JSON knows no NaN.
    return {key: value if math.isfinite(value) else None for key, value in found.items() if "/" in key}


def _print(point: Point) -> None:
    say(json.dumps(asdict(point)))


def main(argv: Sequence[str]) -> int:
    """Run the trial whose settings and file are named, and return the exit code."""
    import torch

    from rlsd.cli.tables import write_json

    settings = Settings(**json.loads(argv[0]))
    torch.set_num_threads(1)
    every = int(argv[2]) if len(argv) > 2 else 0
    outcome = train(settings, every, _print if every else None)
    write_json(Path(argv[1]), {"settings": asdict(settings), "outcome": asdict(outcome)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
