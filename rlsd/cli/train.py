"""``rlsd train``, in the order things happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rlsd.cli.console import say
from rlsd.cli.errors import MachineError, UserError, blame_input, one_line, refusal
from rlsd.cli.interrupt import ignore, on_signals
from rlsd.cli.options import TrainOptions, parse
from rlsd.cli.runfolder import RunFolder

if TYPE_CHECKING:
    from rlsd.cli.report import Record
    from rlsd.cli.session import Session

EXIT_INTERRUPTED = 130

#: What a run may change when it is resumed. The rest would make it another run.
CHANGEABLE = {
    *("n_timesteps", "eval_freq", "n_eval_envs", "save_freq", "tensorboard_log", "progress", "verbose"),
    *("workers", "envs_per_worker", "ray", "track", "track_project"),
    *("resume", "device", "rollout_device", "speed", "num_threads", "debug", "log_folder"),
}


def run(argv: Sequence[str]) -> int:
    """Train an agent, or go on with a run, and return the exit code.

    :raises UserError: when the input is wrong; nothing has been written then.
    """
    options = parse(argv)
    return _resume(options, argv) if options.resume else _train(options, argv)


def _train(options: TrainOptions, argv: Sequence[str]) -> int:
    # Not before the flags are read: a misspelt one is told first.
    from rlsd.cli.agents import new_agent
    from rlsd.cli.environments import training_env
    from rlsd.cli.plan import plan_new
    from rlsd.cli.report import Record, say_start
    from rlsd.cli.session import Session

    plan = plan_new(options)
    _set_threads(plan.num_threads)
    env = training_env(plan)
    folder = RunFolder.create(Path(options.log_folder), options.algo, plan.env_id)
    with folder.locked():
        try:
            agent = new_agent(plan, env, folder.tensorboard(options.tensorboard_log))
            folder.make_tensorboard(options.tensorboard_log)
            record = Record.new(folder, plan, argv)
        except BaseException:
            env.close()
            folder.discard()
            raise
        say_start(plan, folder, agent)
        return _run(Session(plan, folder, agent, resumed=False), record)


def _resume(asked: TrainOptions, argv: Sequence[str]) -> int:
    folder = RunFolder.find(str(asked.resume), Path(asked.log_folder), asked.algo, asked.env)
    if folder.is_zoos:
        start = f"--env {folder.env_name} --algo {folder.root.parent.name} -i {folder.final_agent}"
        raise UserError(f"{folder.root} is a run of rl_zoo3, without exact checkpoints: use rlsd train {start}")
    with folder.locked():
        return _go_on(folder, argv)


def _go_on(folder: RunFolder, argv: Sequence[str]) -> int:
    from rlsd import latest_checkpoint
    from rlsd.cli.agents import resumed_agent
    from rlsd.cli.plan import plan_resumed
    from rlsd.cli.report import Record
    from rlsd.cli.session import Session

    options = _merged(folder, argv)
    plan = plan_resumed(options, folder)
    with blame_input():
        checkpoint = latest_checkpoint(folder.checkpoints)
    _set_threads(plan.num_threads)
    agent = resumed_agent(plan, folder, checkpoint)
    done = int(agent.num_timesteps)
    if done >= plan.n_timesteps and folder.read_results().get("timesteps") == done:
        say(f"{folder.root} is finished at step {done:,}. A larger -n would go on.")
        return 0
    # A run's own steps may be passed by: it ends with a whole rollout, and is evaluated only then.
    if done > plan.n_timesteps and plan.n_timesteps != folder.read_yaml("config.yml").get("n_timesteps"):
        raise UserError(f"{folder.root} is at step {done:,}, beyond -n {plan.n_timesteps}: give a larger -n, or none")
    folder.make_tensorboard(options.tensorboard_log)
    record = Record.read(folder, argv)
    folder.write_yaml("args.yml", replace(options, resume=None).to_dict())
    folder.write_yaml("config.yml", dict(plan.hyperparams.values))
    say(f"Going on with {folder.root} at step {done:,} of {plan.n_timesteps:,}")
    return _run(Session(plan, folder, agent, resumed=True), record)


def _run(session: Session, record: Record) -> int:
    from rlsd.cli.report import going_on, kept, say_end, say_stopped, write_results
    from rlsd.cli.session import End
    from rlsd.faults import NotFinite

    score = average = None
    done = False
    try:
        end = session.learn()
        record.end(session, end)
        if end is End.DONE:
            average = session.average_score()
            score = session.score()
            done = True
    except KeyboardInterrupt:
        pass
    except NotFinite as error:
        raise UserError(f"{one_line(error)}. {kept(session)}") from error
    except Exception as error:
        said = refusal(error)
        if said is None:
            raise
        raise MachineError(f"{said}. {going_on(session)}") from error
    finally:
        with on_signals(ignore):
            session.close()
    with on_signals(ignore):
        if not done:
            say_stopped(session)
            return EXIT_INTERRUPTED
        write_results(session, record, score, average)
        say_end(session, record, score, average)
    return 0


def _merged(folder: RunFolder, argv: Sequence[str]) -> TrainOptions:
    """Return the options the run was started with, changed by what the command line says now.

    :raises UserError: when it says something that would make it another run.
    """
    with blame_input(f"{folder.params / 'args.yml'} is damaged"):
        stored = TrainOptions.from_dict(folder.read_yaml("args.yml"))
    stored = replace(stored, progress=TrainOptions().progress, debug=False)
    options = parse(argv, default=stored)
    for field in fields(TrainOptions):
        before, now = getattr(stored, field.name), getattr(options, field.name)
        if before != now and field.name not in CHANGEABLE:
            flag = f"--{field.name.replace('_', '-')}"
            raise UserError(f"{folder.root} was trained with {flag} {before}, not {now}: --resume cannot change it")
    return options


def _set_threads(count: int | None) -> None:
    if count is None:
        return
    import torch

    torch.set_num_threads(count)
