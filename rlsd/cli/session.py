"""From the first step of a session to its last: learning, watched by callbacks, and what is left on disk after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback

import rlsd
from rlsd import faults
from rlsd.cli import board, saving
from rlsd.cli.console import say, warn
from rlsd.cli.environments import EVALUATION_SEED, FINAL_EVALUATION_SEED, evaluation_env
from rlsd.cli.episodes import EpisodeLog
from rlsd.cli.evaluation import FINAL_EPISODES, Evaluation, Score, evaluate, save_statistics
from rlsd.cli.glance import Glance
from rlsd.cli.interrupt import stop_on_signals
from rlsd.cli.plan import Plan
from rlsd.cli.runfolder import RunFolder
from rlsd.cli.scalars import ForgetLostSteps, new_logger
from rlsd.cli.tracking import Tracker
from rlsd.io.resume import notes_of

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


class End(Enum):
    """How a session ended."""

    DONE = "done"
    SAVED = "stopped at a whole rollout, and saved"
    CUT = "stopped at once; what was learned since the last checkpoint is lost"
    UNEVALUATED = "done, but stopped before the final agent was evaluated"


class _Changes(rlsd.DistillCallback):
    """Says when the task changed."""

    def __init__(self, progress: bool) -> None:
        super().__init__()
        self._progress = progress

    def on_change(self, agent: BaseAlgorithm, event: rlsd.ChangeEvent) -> None:
        if not self._progress:  # a line would tear the progress bar apart
            say(f"  step {event.step:>9,}  {event}")


@dataclass
class Session:
    """One stretch of training, from start or resume to the end or a stop.

    :param plan: what to do.
    :param folder: where to write.
    :param agent: new, or as the checkpoint held it.
    :param resumed: whether the run went on before this session.
    :ivar end: how it would have ended if a signal ended it now.
    """

    plan: Plan
    folder: RunFolder
    agent: BaseAlgorithm
    resumed: bool
    seconds: float = 0.0
    best: float | None = None
    end: End = End.CUT
    _open: list[Any] = field(default_factory=list)
    _started: float = 0.0
    _evaluation: Evaluation | None = None
    _glance: Glance | None = None

    def __post_init__(self) -> None:
        self.first_step = self.agent.num_timesteps if self.resumed else 0
        options = self.plan.options
        self._tracker = None if options.track is None else Tracker(options.track, options.track_project)
        self._average = rlsd.average(self.agent) if self.plan.options.average else None

    @property
    def env(self) -> VecEnv:
        """The environment the agent trains in."""
        env = self.agent.get_env()
        assert env is not None
        return env

    def learn(self) -> End:
        """Train to the planned number of steps, or until a signal says stop. Saves the agent in either case."""
        every, keep = saving.save_every(self.plan, self.agent), saving.keep(self.agent)
        checkpoints = rlsd.Checkpoints(self.folder.checkpoints, every=every, keep=keep, notes=self._notes)
        with suppress(KeyboardInterrupt), stop_on_signals(checkpoints.request_stop) as asked:
            try:
                self._train(checkpoints)
            except rlsd.Stopped:
                self.end = End.SAVED
                self._save()
            else:
                self._save()
                self._save_end()
                self.end = End.UNEVALUATED
                if not asked():
                    return End.DONE
        return self.end

    def score(self) -> Score | None:
        """Evaluate the agent as it is at the end, in episodes that no other evaluation saw; None for 0 episodes."""
        if not self.plan.options.eval_episodes:
            return None
        score = self._score_of(self.agent)
        board.finish(self.agent.logger, {board.FINAL: score.mean}, int(self.agent.num_timesteps))
        return score

    def average_score(self) -> Score | None:
        """Evaluate the average of its weights in the same episodes; None where none is kept."""
        if self._average is None or not self.plan.options.eval_episodes:
            return None
        return self._score_of(self._average.agent())

    def _score_of(self, agent: BaseAlgorithm) -> Score:
        plan = self.plan
        env = self._evaluation_env(plan.seed + FINAL_EVALUATION_SEED)
        try:
            return evaluate(agent, env, max(plan.options.eval_episodes, FINAL_EPISODES))
        finally:
            env.close()

    def close(self) -> None:
        """Close the environment and the log."""
        self.env.close()
        with suppress(
            OSError, AttributeError
        ):  # what cannot be written any more has been told; there may be no log yet
            self.agent.logger.close()
        if self._tracker is not None:
            self._tracker.finish(self.end in (End.DONE, End.UNEVALUATED))

    def _train(self, checkpoints: rlsd.Checkpoints) -> None:
        """Train, to the end or until ``checkpoints`` raises :class:`rlsd.Stopped`."""
        callbacks = [checkpoints, *self._watchers()]
        saving.say_size(self.plan, self.agent, self.folder.root)
        anew = not self.resumed
        name = board.run_name(self.plan, self.agent.tensorboard_log, anew)
        if self._tracker is not None:
            self._tracker.start(board.hyperparameters(self.plan), self.folder, name, anew)
        self.agent.set_logger(new_logger(self.agent, name, anew))
        if self._tracker is not None:
            self._tracker.attach(self.agent.logger)
        if anew:
            board.furnish(self.agent.logger, self.plan)
        self._started = time.perf_counter()
        try:
            self.agent.learn(
                self.plan.n_timesteps - self.first_step,
                callback=callbacks,
                tb_log_name=name,
                reset_num_timesteps=anew,
            )
        finally:
            self.seconds = time.perf_counter() - self._started
            self._close(callbacks)

    def _watchers(self) -> list[BaseCallback]:
        plan = self.plan
        watchers: list[BaseCallback] = [EpisodeLog(self.folder.monitor, plan.env_id), _Changes(plan.options.progress)]
        watchers.append(board.Marks())
        self._glance = Glance(plan.n_timesteps, self._noted())
        watchers.append(self._glance)
        if self.resumed:
            watchers.append(ForgetLostSteps())
        if plan.eval_freq:
            seed = plan.seed + EVALUATION_SEED
            env = self._evaluation_env(seed)
            self._open.append(env)
            episodes = plan.options.eval_episodes
            then = rlsd.OfferEvaluation() if plan.judges else None
            self._evaluation = Evaluation(env, self.folder, plan.eval_freq, episodes, seed, self._announce, then)
            watchers.append(self._evaluation)
        if plan.options.progress:
            watchers.append(ProgressBarCallback())
        return watchers

    def _evaluation_env(self, seed: int) -> VecEnv:
        return evaluation_env(self.plan, seed, self.env)

    def _announce(self, step: int, mean: float) -> None:
        # A line would tear the progress bar apart.
        if not self.plan.options.progress:
            average = None if self._evaluation is None else self._evaluation.average
            beside = "" if average is None else f", average {average:.2f}"
            say(f"  step {step:>9,}  evaluation {mean:.2f}{beside}  {self._pace(step)}")

    def _pace(self, step: int) -> str:
        """Return how fast it trains, evaluations included, and how long it will take at that."""
        speed = (step - self.first_step) / max(time.perf_counter() - self._started, 1e-9)
        left = timedelta(seconds=round(max(self.plan.n_timesteps - step, 0) / max(speed, 1e-9)))
        return f"({speed:,.0f} steps/s, {left} left)"

    def _close(self, callbacks: list[BaseCallback]) -> None:
        """Close what SB3 leaves open when training ends by an exception, and what we opened."""
        closers: list[Callable[[], Any]] = [thing.close for thing in self._open]
        for callback in callbacks:
            if isinstance(callback, EpisodeLog):
                closers.append(callback.close)
            elif isinstance(callback, ProgressBarCallback) and getattr(callback, "pbar", None) is not None:
                closers.append(callback.pbar.close)
            elif isinstance(callback, Evaluation) and callback.evaluations_results:
                self.best = float(callback.best_mean_reward)
        for close in closers:
            with suppress(OSError):  # what cannot be written any more has been told
                close()

    def _notes(self) -> dict[str, Any]:
        notes = {} if self._glance is None else {"glance": self._glance.notes()}
        return notes if self._evaluation is None else notes | {"evaluations": self._evaluation.notes()}

    def _noted(self) -> dict[str, Any]:
        """Return what the checkpoint that this session began with says of the teachers."""
        place = self.folder.checkpoints / str(self.first_step)
        return dict(notes_of(place).get("glance", {})) if self.resumed and place.is_dir() else {}

    def _save(self) -> None:
        broken = faults.in_best(self.agent)
        if self._average is not None and (self._average.ready or broken is None):
            self._average.save(self.folder.average_agent)  # finite, whatever the agent is
        if broken is not None:
            raise faults.NotFinite(faults.report(broken, self.agent))
        self.agent.save(self.folder.final_agent)
        if self.agent.get_vec_normalize_env() is not None:
            save_statistics(self.env, self.folder.statistics)

    def _save_end(self) -> None:
        self._save_last_checkpoint()
        if not self.folder.best_agent.exists():  # no evaluation took place: there is no better one
            self.agent.save(self.folder.best_agent)

    def _save_last_checkpoint(self) -> None:
        """Save where a larger ``-n`` goes on from: the last rollout ends past the last checkpoint."""
        last = self.folder.checkpoints / str(self.agent.num_timesteps)
        # A run that is resumed for its evaluation alone is there already.
        if not (self.resumed and self.first_step == self.agent.num_timesteps and last.exists()):
            broken = faults.in_checkpoint(self.agent)
            if broken is not None:
                kept = f"the checkpoints in {self.folder.checkpoints} stay as they were"
                warn(f"{faults.report(broken, self.agent)}; {kept}")
                return
            rlsd.save_checkpoint(self.agent, last, self._notes())
        saving.prune(self.folder.checkpoints, last, self.agent)
