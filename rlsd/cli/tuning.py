"""One process of ``rlsd tune``: takes trials out of the study's storage, trains them, and puts back their returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from stable_baselines3.common.callbacks import BaseCallback

from rlsd.cli import search
from rlsd.cli.agents import new_agent
from rlsd.cli.environments import EVALUATION_SEED, evaluation_env, training_env
from rlsd.cli.errors import UserError, one_line
from rlsd.cli.evaluation import play
from rlsd.cli.options import parse as parse_train
from rlsd.cli.plan import Plan, plan_new
from rlsd.cli.values import as_words

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

#: On a trial that ended by an error of its own: what it was. One without was cut off, and is run again.
ERROR = "error"
#: On a trial: the words after ``rlsd train`` that train the same.
WORDS = "words"
_PRUNERS: dict[str, Callable[[], Any]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0),
    "halving": optuna.pruners.SuccessiveHalvingPruner,
    "none": optuna.pruners.NopPruner,
}
_SAMPLERS: dict[str, Callable[[int], Any]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=False),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


@dataclass(frozen=True)
class Search:
    """What is searched, as one process needs it.

    :param words: the words after ``rlsd train`` that all trials share.
    :param algo: the algorithm.
    :param optimize: ``distill``, ``algo`` or ``both``.
    :param n_trials: of the whole study.
    :param n_evaluations: per trial; after each the pruner may end it.
    :param eval_episodes: per evaluation.
    """

    words: tuple[str, ...]
    algo: str
    optimize: str
    n_trials: int
    n_evaluations: int
    eval_episodes: int


def open_study(storage: str, name: str, sampler: str, pruner: str, seed: int) -> optuna.Study:
    """Open a study, or make it.

    :param storage: a database's address, such as ``sqlite:///study.db``, or the file of a journal.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if "://" in storage:
        kept: Any = storage
    else:
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        kept = optuna.storages.JournalStorage(JournalFileBackend(storage))
    return optuna.create_study(
        storage=kept,
        study_name=name,
        sampler=_SAMPLERS[sampler](seed),
        pruner=_PRUNERS[pruner](),
        direction="maximize",
        load_if_exists=True,
    )


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that came to an end of their own: a return, a pruner's verdict, or an error."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in trial.user_attrs
    ]


def take_back(study: optuna.Study) -> int:
    """Have trials that were cut off run again with their parameters; return how many. No process may be at work."""
    waiting = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(states=(TrialState.WAITING,))]
    cut_off = study.get_trials(states=(TrialState.RUNNING,))
    for trial in cut_off:
        if trial.params not in waiting:
            study.enqueue_trial(trial.params)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(cut_off)


def work(study: optuna.Study, task: Search, lock: Path) -> None:
    """Train trials until the study has as many as it should."""
    # SB3's advice for people who chose the values.
    warnings.filterwarnings("ignore", "You have specified a mini-batch size")
    while True:
        with filelock.FileLock(lock):  # two processes would both take the last one
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if len(finished(study)) + len(running) >= task.n_trials:
                return
            trial = study.ask()
        _train(study, trial, task)


def _train(study: optuna.Study, trial: optuna.Trial, task: Search) -> None:
    try:
        plan = _plan(trial, task)
        value, pruned = _learn(trial, plan, task)
    except (UserError, ValueError, RuntimeError) as error:  # of values that do not go together
        trial.set_user_attr(ERROR, one_line(error))
        study.tell(trial, state=TrialState.FAIL)
        return
    study.tell(trial, None if pruned else value, TrialState.PRUNED if pruned else None)


def _plan(trial: optuna.Trial, task: Search) -> Plan:
    shared = plan_new(parse_train(task.words))
    words = list(task.words)
    if task.optimize != "distill":
        longest = shared.n_timesteps // task.n_evaluations // shared.hyperparams.n_envs
        found = search.hyperparameters(trial, task.algo, longest)
        words += _flag("--hyperparams", {**_given(task.words, "hyperparams"), **found})
    if task.optimize != "algo" and shared.distill is not None:
        changes = search.distillation(trial, shared.distill.to_dict())
        words += _flag("--distill", {**_given(task.words, "distill"), **changes})
    trial.set_user_attr(WORDS, words)
    return plan_new(parse_train(words))


def _given(words: Sequence[str], name: str) -> dict[str, Any]:
    """Return what the shared words set: a flag that is given again replaces what it was given before."""
    return dict(parse_train(words).to_dict()[name])


def _flag(flag: str, pairs: Mapping[str, Any]) -> list[str]:
    return [flag, *as_words(dict(pairs))] if pairs else []


def _learn(trial: optuna.Trial, plan: Plan, task: Search) -> tuple[float, bool]:
    """Train a trial's agent; return its last evaluation, and whether the pruner ended it."""
    import torch

    torch.set_num_threads(plan.num_threads or torch.get_num_threads())
    env = training_env(plan)
    judged = None
    try:
        agent = new_agent(plan, env, Path("unused"))
        agent.tensorboard_log = None
        judged = evaluation_env(plan, plan.seed + EVALUATION_SEED, env)
        report = _Report(trial, judged, plan, task)
        agent.learn(plan.n_timesteps, callback=report)
        if not report.pruned and report.last_step < agent.num_timesteps:
            report.judge()
        return report.mean, report.pruned
    finally:
        for each in (env, judged):
            if each is not None:
                each.close()


class _Report(BaseCallback):
    """Evaluates now and then, and ends a trial that the pruner gives up."""

    def __init__(self, trial: optuna.Trial, env: VecEnv, plan: Plan, task: Search) -> None:
        super().__init__()
        self._trial, self._env, self._task, self._seed = trial, env, task, plan.seed
        self._every = max(plan.n_timesteps // task.n_evaluations, 1)
        self.mean, self.pruned, self.last_step = float("-inf"), False, 0

    def _on_step(self) -> bool:
        if self.num_timesteps - self.last_step < self._every:
            return True
        self.judge()
        self.pruned = self._trial.should_prune()
        return not self.pruned

    def judge(self) -> None:
        """Evaluate, and tell the study."""
        self.last_step = self.model.num_timesteps
        self._env.seed(self._seed + EVALUATION_SEED)
        returns, _ = play(self.model.policy, self._env, self._task.eval_episodes)
        self.mean = float(np.mean(returns))
        self._trial.report(self.mean, self.last_step)
