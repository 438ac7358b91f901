"""What a run leaves to read: the record of its sessions, its results, and the lines at the end on the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsd import latest_checkpoint
from rlsd.cli.console import say, warn
from rlsd.cli.errors import UserError
from rlsd.cli.evaluation import Score
from rlsd.cli.plan import Plan
from rlsd.cli.provenance import command, provenance
from rlsd.cli.runfolder import RunFolder
from rlsd.cli.session import End, Session
from rlsd.gates import ReturnComparison
from rlsd.plain import shown
from rlsd.presets import DEFAULT

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

    from rlsd.distiller import Distiller
    from rlsd.distillers import Distillers


@dataclass
class Record:
    """``ENV/run.yml``: what the run is, and when, by what command and with which versions each session trained."""

    folder: RunFolder
    data: dict[str, Any]

    @classmethod
    def new(cls, folder: RunFolder, plan: Plan, argv: Sequence[str]) -> Record:
        """Write down all that a new run was started with."""
        folder.write_yaml("args.yml", plan.options.to_dict())
        folder.write_yaml("config.yml", dict(plan.hyperparams.values))
        folder.write_text("command.txt", command(argv) + "\n")
        if plan.distill is not None:
            folder.write_yaml("distill.yml", plan.distill.to_dict())
        about = {
            "algo": plan.options.algo,
            "env": plan.env_id,
            "seed": plan.seed,
            "device": plan.device,
            "baseline": plan.distill is None,
            "hyperparams": plan.hyperparams.source,
            "sessions": [],
        }
        return cls(folder, about)._begin(argv)

    @classmethod
    def read(cls, folder: RunFolder, argv: Sequence[str]) -> Record:
        """Take up the record of a run that is resumed.

        :raises UserError: when it is damaged.
        """
        data = folder.read_yaml("run.yml")
        sessions = data.setdefault("sessions", [])
        if not (isinstance(sessions, list) and all(isinstance(session, dict) for session in sessions)):
            raise UserError(f"{folder.params / 'run.yml'} is damaged: sessions should be a list, got {shown(sessions)}")
        return cls(folder, data)._begin(argv)

    def _begin(self, argv: Sequence[str]) -> Record:
        self.data["sessions"].append(provenance(argv))
        self.folder.write_yaml("run.yml", self.data)
        return self

    def end(self, session: Session, end: End) -> None:
        """Write down how the session ended."""
        self.data["sessions"][-1] |= {
            "ended": end.value,
            "first_step": session.first_step,
            "last_step": int(session.agent.num_timesteps),
            "seconds": round(session.seconds, 3),
        }
        self.folder.write_yaml("run.yml", self.data)

    @property
    def seconds(self) -> float:
        """Seconds of training in all sessions that came to an end."""
        return float(sum(session["seconds"] for session in self._ended))

    @property
    def speed(self) -> float:
        """Environment steps per second in these sessions."""
        steps = sum(session["last_step"] - session["first_step"] for session in self._ended)
        return float(steps / max(self.seconds, 1e-9))

    @property
    def whole(self) -> bool:
        """Whether every session came to an end: one that was killed has left no seconds."""
        return len(self._ended) == len(self.data["sessions"])

    @property
    def _ended(self) -> list[dict[str, Any]]:
        return [session for session in self.data["sessions"] if "seconds" in session]


def write_results(session: Session, record: Record, score: Score | None, average: Score | None) -> None:
    """Write ``results.json``.

    :param score: of the final agent, where it was evaluated.
    :param average: of the average of the weights, where one was kept.
    """
    session.folder.write_results(
        {
            "algo": session.plan.options.algo,
            "env": session.plan.env_id,
            "seed": session.plan.seed,
            "baseline": session.plan.distill is None,
            "mean_reward": None if score is None else score.mean,
            "std_reward": None if score is None else score.std,
            "n_eval_episodes": 0 if score is None else score.episodes,
            "best_mean_reward": session.best,
            "average": None if average is None else {"mean_reward": average.mean, "std_reward": average.std},
            "timesteps": int(session.agent.num_timesteps),
            "wall_clock_seconds": round(record.seconds, 3),
            "steps_per_second": round(record.speed, 1),
            "distillation": _distillation(session),
        }
    )


def say_start(plan: Plan, folder: RunFolder, agent: BaseAlgorithm) -> None:
    """Tell what begins."""
    kind = "plain SB3" if plan.distill is None else f"self-distillation ({plan.recipe})"
    say(
        f"{plan.algorithm.__name__} on {plan.env_id}, {kind}: {plan.n_timesteps:,} steps, seed {plan.seed}, "
        f"{plan.hyperparams.n_envs} envs, {plan.device}; hyperparameters {plan.hyperparams.source}"
    )
    if plan.options.vec_env == "ale":
        say("Atari as by SB3's make_atari_env with VecFrameStack(4): --vec-env ale")
    extractor = (plan.hyperparams.values.get("policy_kwargs") or {}).get("features_extractor_class")
    if extractor is not None:
        say(f"The policy sees through {extractor}")
    rollout = agent.n_envs * int(getattr(agent, "n_steps", 1)) if hasattr(agent, "rollout_buffer") else 1
    whole = -(-plan.n_timesteps // rollout) * rollout
    if whole != plan.n_timesteps:
        say(f"It trains whole rollouts, of {rollout:,} steps here: {whole:,} steps in all")
    say(f"Watch it: {_tensorboard(folder, plan)}")


def say_end(session: Session, record: Record, score: Score | None, average: Score | None) -> None:
    """Tell what came of it, and where it lies."""
    folder, plan = session.folder, session.plan
    best = "" if session.best is None else f"; best evaluation during training {session.best:.2f}"
    counted = "all sessions" if record.whole else "the sessions that were not killed"
    total = f" ({record.seconds:,.1f} s in {counted})" if session.resumed else ""
    if score is None:
        say(f"Return        not evaluated (--eval-episodes 0){best}")
    else:
        say(f"Return        {score}, deterministic, of the final agent{best}")
    if average is not None:
        say(f"              {average}, deterministic, of the average of its weights")
    say(f"Wall-clock    {session.seconds:,.1f} s{total}, {record.speed:,.0f} steps/s")
    distiller = getattr(session.agent, "distiller", None)
    if distiller is not None:
        told = _told(distiller)
        say(f"Distillation  {told[0] if len(told) > 1 else f'{plan.recipe}: {told[0]}'}")
        for line in told[1:]:
            say(f"              {line}")
        if plan.recipe == DEFAULT and not distiller.activity.pulled:
            say("              Idle, it trained as plain SB3 would. What it is for: rlsd demo")
    say(f"Run           {folder.root}")
    say(f"Final agent   {folder.final_agent}")
    judged = session.best is not None or folder.evaluations.is_file()
    evaluated = "" if judged else ": the final one, as there was no evaluation during training"
    say(f"Best agent    {folder.best_agent}{evaluated}")
    if average is not None:
        say(f"Average       {folder.average_agent}")
    say(f"TensorBoard   {_tensorboard(folder, plan)}")
    members = [] if distiller is None else [*distiller.members.values()]
    if members and not any(member.teacher.ready or member.teacher.episodic for member in members):
        warn(f"Nothing was distilled: {_why_no_teacher(session.agent, members[0])}")


def _distillation(session: Session) -> dict[str, Any] | None:
    """Return what distillation did, as plain data; None for plain SB3."""
    distiller = getattr(session.agent, "distiller", None)
    if distiller is None:
        return None
    return {
        "recipe": session.plan.recipe,
        **distiller.activity.state(),
        "changes": [asdict(event) for member in distiller.members.values() for event in member.teacher.changes],
        "said": "; ".join(_told(distiller)),
    }


def _told(distiller: Distiller | Distillers) -> list[str]:
    """Return what distillation did; of several, a line for each."""
    members = distiller.members
    return [f"{name}: {_in_words(one)}" if len(members) > 1 else _in_words(one) for name, one in members.items()]


def _in_words(distiller: Distiller) -> str:
    """Return what distillation did, and why where it did nothing."""
    if not distiller.config.timing.deposits:  # type: ignore[attr-defined]
        done = {"phase": "phases", "reborn": "rebirths", "keep": "keeper_fits"}.get(distiller.config.timing.name, "")
        count = int((distiller.auxiliary.metrics() if distiller.auxiliary else {}).get(done, 0))
        return f"{count:,} {done.removeprefix('keeper_')} beside {distiller.activity.updates:,} updates"
    if distiller.activity.pulled:
        return str(distiller.activity)
    if not distiller.teacher.ready:
        waits = "episodes began as they always did" if distiller.teacher.episodic else "no teacher was taken"
        return f"{distiller.activity}: {waits}"
    gates = [gate.name for gate in distiller.config.strength.gates]  # type: ignore[attr-defined]
    reasons = {"return": "the return never fell behind the teacher's", "behind": "the policy never fell behind"}
    reason = next((reasons[name] for name in gates if name in reasons), "")
    if any(isinstance(gate, ReturnComparison) and gate.highest is None for gate in distiller.coefficient.gates):
        reason = "too few episodes ended to compare returns"
    if not reason and distiller.teacher.inactive:
        reason = "nothing that it knew was left" if distiller.teacher.per_state else "the teacher held nothing"
    return f"{distiller.activity}{': ' if reason else ''}{reason}"


def _why_no_teacher(agent: Any, distiller: Distiller) -> str:
    """Return why no teacher was taken, and what to do about it."""
    steps, starts = int(agent.num_timesteps), getattr(agent, "learning_starts", 0)
    if starts >= steps:
        return (
            f"the agent learns only after {starts:,} steps. Train for longer, or let it begin earlier: "
            f"-params learning_starts:{steps // 10}"
        )
    every = getattr(distiller.config.teacher, "every", 0)
    earlier = min(every // 10, steps // 2)
    gated = bool(distiller.config.strength.gates)  # type: ignore[attr-defined]  # a gate may stay shut for longer
    wanted = every > steps and not gated
    hint = f", or take the teacher earlier: --distill teacher.every={max(earlier, 1)}" if wanted else ""
    return f"no teacher was taken in so few steps. Train for longer{hint}"


def _tensorboard(folder: RunFolder, plan: Plan) -> str:
    """Return the command that shows a run, as it can be typed here."""
    return f"{_found('tensorboard') or 'tensorboard'} --logdir {folder.tensorboard(plan.options.tensorboard_log)}"


def _found(program: str) -> str | None:
    """Return what starts a program here, None where nothing does: make's environment is not on the path."""
    if shutil.which(program) is not None:
        return program
    beside = Path(sys.executable).with_name(program)
    return os.path.relpath(beside) if beside.exists() else None


def say_stopped(session: Session) -> None:
    """Tell how far the run came, and how to go on."""
    warn(f"Training {session.end.value}: step {session.agent.num_timesteps:,} of {session.plan.n_timesteps:,}.")
    warn(going_on(session))


def going_on(session: Session) -> str:
    """Return the command by which the run goes on."""
    if session.end is not End.SAVED and not session.folder.can_be_resumed:
        return "There is no checkpoint yet to go on from."
    found = _found("rlsd")
    program = [sys.executable, "-m", "rlsd"] if found is None else [found]
    return f"Go on with: {command(['--resume', str(session.folder.root)], program)}"


def kept(session: Session) -> str:
    """Tell which files of a run that came to nothing are as they were."""
    folder = session.folder
    whole = [str(zipped) for zipped in (folder.best_agent, folder.final_agent) if zipped.exists()]
    if folder.can_be_resumed:
        whole.append(str(latest_checkpoint(folder.checkpoints)))
    return f"Kept as they were: {', '.join(whole)}" if whole else "Nothing had been saved before"
