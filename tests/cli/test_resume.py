"""A run that was stopped goes on as if it never had been."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlsd.cli.main import main
from rlsd.cli.runfolder import RunFolder
from rlsd.cli.session import Session
from rlsd.io import folders
from rlsd.speed import MAX, NOTHING

pytestmark = pytest.mark.usefixtures("short_end")

# Constant, since a schedule knows how long the run is to be.
CONSTANT = ["-params", "learning_rate:0.001", "clip_range:0.2", "n_steps:32", "batch_size:64", "n_epochs:4"]
QUICK = ["--no-progress", "--eval-episodes", "2", "--n-eval-envs", "2", "--eval-freq", "256"]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def train(*words):
    return main(["train", *QUICK, *words])


def weights(run):
    return list(PPO.load(run / "CartPole-v1.zip", device="cpu").policy.parameters())


def lengths(run):
    return [int(row["l"]) for row in csv.DictReader((run / "0.monitor.csv").read_text().splitlines()[1:])]


def evaluations(run):
    with np.load(run / "evaluations.npz") as found:
        return {key: found[key].tolist() for key in found.files}


@pytest.mark.parametrize(
    "extra", [[], ["--baseline"], ["normalize:true", "--average"]], ids=["distilled", "baseline", "normalised"]
)
def test_a_run_in_two_parts_is_the_run_in_one(tmp_path, capsys, extra):
    params = [*CONSTANT, *(word for word in extra if ":" in word)]
    flags = [word for word in extra if word.startswith("--")]
    assert train("--env", "CartPole-v1", "-n", "1024", "-f", str(tmp_path), *flags, *params) == 0, "in one"
    assert train("--env", "CartPole-v1", "-n", "512", "-f", str(tmp_path), *flags, *params) == 0, "first part"
    one, two = tmp_path / "ppo" / "CartPole-v1_1", tmp_path / "ppo" / "CartPole-v1_2"
    assert train("--resume", str(two), "-n", "1024") == 0, "second part"
    assert all(map(torch.equal, weights(one), weights(two))), "the agents differ"
    assert lengths(one) == lengths(two), "the training episodes differ"
    assert evaluations(one) == evaluations(two), "the evaluations differ"
    scores = [json.loads((run / "results.json").read_text()) for run in (one, two)]
    for key in ("mean_reward", "std_reward", "best_mean_reward", "timesteps", "average"):
        assert scores[0][key] == scores[1][key], f"{key} differs"
    assert len(yaml.safe_load((two / "CartPole-v1" / "run.yml").read_text())["sessions"]) == 2, "sessions"
    kind = "plain" if "--baseline" in flags else "remember+guard"
    shown = [path.name for path in (two / "tensorboard").iterdir()]
    assert shown == [f"PPO-{kind}-seed0_1"], "TensorBoard shows two runs"
    assert train("--resume", str(two)) == 0, "a finished run is no error"
    assert "is finished at step 1,024. A larger -n" in capsys.readouterr().out, "a finished run says so"


def test_a_run_is_resumed_by_one_process_at_a_time(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    code = "from pathlib import Path; import time; from rlsd.cli.runfolder import RunFolder\n"
    code += f"with RunFolder(Path({str(run)!r}), 'CartPole-v1').locked(): print(flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    try:
        assert other.stdout.readline() == b"\n", "it does not hold the run"
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert train("--resume", str(run), "-n", "768") == 2, "two at a time"
        said = rf"error: process {other.pid} on \S+, since [-0-9]+ [:0-9]+, trains in {run}: wait for its end, .*\n"
        err = capsys.readouterr().err
        assert re.fullmatch(said, err), err
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "something was written"
    finally:
        other.kill()
        other.communicate()
    assert train("--resume", str(run), "-n", "768") == 0, "the lock outlived its process"


def test_tensorboard_forgets_what_a_killed_run_logged_after_its_checkpoint(tmp_path):
    words = ["--env", "CartPole-v1", "-n", "1024", "-f", str(tmp_path), "--save-freq", "256", *CONSTANT]
    assert train(*words) == 0, "first part"
    run = tmp_path / "ppo" / "CartPole-v1_1"
    (run / "results.json").unlink()
    for name in ("768", "1024"):  # as if it had been killed before these were saved
        shutil.rmtree(run / "checkpoints" / name)
    (events,) = (run / "tensorboard" / "PPO-remember+guard-seed0_1").iterdir()
    events.rename(events.with_name("events.out.tfevents.0"))  # read first, though the next begins in the same second
    assert train("--resume", str(run)) == 0, "second part"
    curves = EventAccumulator(str(run / "tensorboard" / "PPO-remember+guard-seed0_1"), {"scalars": 0}).Reload()
    # The figures of the last update before the checkpoint are logged after it: they are in the checkpoint.
    for tag, steps in (("eval/mean_reward", [256, 512, 768, 1024]), ("distill/guard/coef", [512, 768, 1024])):
        assert [event.step for event in curves.Scalars(tag)] == steps, f"steps of {tag}"


def test_a_resumed_run_stays_the_run_it_was(whole, capsys):
    run = whole
    for words in (["--seed", "3"], ["--env", "Acrobot-v1"], ["-params", "gamma:0.5"], ["--recipe", "snapshot"]):
        assert train("--resume", str(run), *words) == 2, f"{words} were taken"
        assert "--resume cannot change it" in capsys.readouterr().err, "the message does not say why"


def test_a_run_cannot_be_resumed_to_a_tensorboard_folder_that_is_a_file(whole, tmp_path, capsys):
    run, file = whole, tmp_path / "file"
    file.touch()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train("--resume", str(run), "-n", "768", "-tb", str(file)) == 2, "exit code"
    assert f"TensorBoard's folder '{file}'" in capsys.readouterr().err, "it is not named"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "something was written"


def test_training_goes_on_without_a_logger_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "events")

    monkeypatch.setattr("stable_baselines3.common.utils.configure_logger", fail)
    words = ["--env", "CartPole-v1", "-n", "256", "-f", str(tmp_path), "--verbose", "1", *CONSTANT]
    assert train(*words) == 0, "exit code"
    said = capsys.readouterr().err
    assert said.count("TensorBoard's files can no longer be written") == 1, said
    assert "No space left on device: events" in said, said


def test_a_run_cannot_be_resumed_to_a_step_that_it_is_past(tmp_path, capsys):
    assert train("--env", "CartPole-v1", "-n", "300", "-f", str(tmp_path), *CONSTANT) == 0, "first part"
    run = tmp_path / "ppo" / "CartPole-v1_1"
    done = json.loads((run / "results.json").read_text())["timesteps"]
    assert done > 300, "it ends with a whole rollout"
    assert train("--resume", str(run), "-n", "200") == 0, "it is finished, and no error"
    (run / "results.json").unlink()  # as if it had been stopped before its evaluation
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train("--resume", str(run), "-n", "200") == 2, "exit code"
    assert capsys.readouterr().err == f"error: {run} is at step {done}, beyond -n 200: give a larger -n, or none\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "something was written"
    assert train("--resume", str(run)) == 0, "its own number of steps"
    assert (run / "results.json").exists(), "not evaluated"


def test_a_resumed_run_keeps_its_speed_and_can_be_given_another(tmp_path, monkeypatch):
    learned = []
    own = Session.learn
    monkeypatch.setattr(Session, "learn", lambda self: learned.append(self.agent.accelerator) or own(self))
    given = ["--speed", "max", "--rollout-device", "cpu", *CONSTANT]
    assert train("--env", "CartPole-v1", "-n", "256", "-f", str(tmp_path), *given) == 0, "first part"
    run = tmp_path / "ppo" / "CartPole-v1_1"
    assert train("--resume", str(run), "-n", "512") == 0, "second part"
    assert train("--resume", str(run), "-n", "768", "--speed", "none") == 0, "third part"
    assert [(a.speed, a.rollout_device) for a in learned] == [
        (MAX, torch.device("cpu")),
        (MAX, torch.device("cpu")),
        (NOTHING, torch.device("cpu")),
    ], "the speeds of the three parts"


def test_a_run_begun_from_a_trained_agent_can_be_resumed(whole, tmp_path):
    words = ["--env", "CartPole-v1", "-n", "256", "-f", str(tmp_path), "-i", str(whole / "CartPole-v1.zip")]
    assert train(*words, *CONSTANT) == 0, "first part"
    assert train("--resume", str(tmp_path / "ppo" / "CartPole-v1_1"), "-n", "512") == 0, "second part"


def test_a_run_without_a_checkpoint_or_with_a_damaged_one_says_so(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "256")
    (checkpoint,) = (run / "checkpoints").iterdir()
    agent = checkpoint / "agent.zip"
    agent.write_bytes(agent.read_bytes()[:1000])
    capsys.readouterr()
    assert train("--resume", str(run), "-n", "768") == 2, "damaged"
    err = capsys.readouterr().err
    assert "agent.zip" in err, f"the file is not named: {err}"
    assert err.count("\n") == 1, f"more than one line: {err}"
    (run / "checkpoints").rename(run / "gone")
    assert train("--resume", str(run), "-n", "768") == 2, "none"
    assert "no checkpoint" in capsys.readouterr().err, "message"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    logs = tmp_path_factory.mktemp("whole")
    assert train("--env", "CartPole-v1", "-n", "512", "-f", str(logs), "--save-freq", "256", *CONSTANT) == 0
    return logs / "ppo" / "CartPole-v1_1"


DAMAGED = {
    "seed": ("run.yml", "seed: x", "'x'"),
    "sessions": ("run.yml", "sessions: 3", "sessions should be a list, got 3"),
    "env": ("args.yml", "env: 5", "env cannot be 5"),
    "hyperparams": ("args.yml", "{env: CartPole-v1, hyperparams: 3}", "hyperparams cannot be 3"),
    "config": ("config.yml", "gamma: 0.9", "it has no policy"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_of_a_run_is_named_in_one_line(whole, tmp_path, capsys, case):
    name, text, said = DAMAGED[case]
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    file = run / "CartPole-v1" / name
    file.write_text(text)
    assert train("--resume", str(run), "-n", "1024") == 2, "exit code"
    err = capsys.readouterr().err
    assert err.startswith(f"error: {file} is damaged: "), err
    assert said in err, err
    assert err.count("\n") == 1, f"more than one line: {err}"


def test_an_older_checkpoint_is_named_where_the_latest_is_damaged(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "checkpoints" / "512" / "agent.zip").write_bytes(b"cut short")
    assert train("--resume", str(run), "-n", "1024") == 2, "exit code"
    err = capsys.readouterr().err
    last = run / "checkpoints" / "512"
    assert f"{last / 'agent.zip'} is damaged: it does not match its checksum" in err, err
    assert err.count("\n") == 1, f"more than one line: {err}"
    way, command = err.strip().rpartition(": ")[::2]
    assert way.endswith("to go on from step 256, where all is whole"), err
    move, go_on = command.split(" && ")
    assert subprocess.run(move, shell=True, check=False).returncode == 0, move
    assert main([*go_on.split()[1:], *QUICK, "-n", "512"]) == 0, "it did not go on"
    assert evaluations(run) == evaluations(whole), "the evaluations differ"


def test_a_checkpoint_that_the_run_was_killed_in_replacing_is_found_and_said_to_be_there(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "256")
    (run / "checkpoints" / ".512-abc").mkdir()
    (run / "checkpoints" / "512").rename(run / "checkpoints" / ".512-abc" / "old")
    assert RunFolder(run, "CartPole-v1").can_be_resumed, "compare would start it over"
    assert train("--resume", str(run), "-n", "768") == 0, "it did not go on"
    assert "at step 512 of 768" in capsys.readouterr().out, "it went on from somewhere else"


def test_a_run_resumed_for_its_evaluation_alone_saves_no_checkpoint_again(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "results.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}
    assert train("--resume", str(run)) == 0, "exit code"
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")} == before, "written again"


def test_what_killed_runs_left_half_written_is_cleared_away(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    left = [run / ".CartPole-v1.zip.0123abcd.part", run / "CartPole-v1" / ".run.yml.0123abcd.part"]
    for path in left:
        path.write_bytes(b"half")
    assert train("--resume", str(run), "-n", "768") == 0, "exit code"
    assert not any(path.exists() for path in left), "left-overs"


@pytest.mark.parametrize("harm", ["lost", "cut", "another run's"])
def test_no_harm_to_the_evaluations_lets_a_worse_agent_be_the_best(whole, tmp_path, harm):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    file, best = run / "evaluations.npz", (run / "best_model.zip").read_bytes()
    notes = run / "checkpoints" / "512" / "checkpoint.json"
    noted = json.loads(notes.read_text())
    noted["notes"]["evaluations"]["results"][0] = [499.0, 499.0]  # as if the agent had done better before
    notes.write_text(json.dumps(noted))
    folders.seal(notes.parent)
    if harm == "lost":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        np.savez(file, timesteps=[256], results=[[1.0, 1.0]], ep_lengths=[[1, 1]])
    assert train("--resume", str(run), "-n", "768") == 0, "exit code"
    assert (run / "best_model.zip").read_bytes() == best, "a worse agent replaced it"
    assert evaluations(run)["timesteps"] == [256, 512, 768], "evaluations are lost"
    assert json.loads((run / "results.json").read_text())["best_mean_reward"] == 499.0, "the best is forgotten"


def test_a_run_resumed_for_its_evaluation_alone_keeps_its_speed(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "results.json").unlink()
    assert train("--resume", str(run)) == 0, "exit code"
    assert json.loads((run / "results.json").read_text())["steps_per_second"] > 0, "its speed is lost"
    out = capsys.readouterr().out
    assert "s in all sessions), " in out, out
    assert ", 0 steps/s" not in out, out


def test_the_seconds_of_a_killed_session_are_said_to_be_missing(whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    file = run / "CartPole-v1" / "run.yml"
    record = yaml.safe_load(file.read_text())
    for key in ("ended", "first_step", "last_step", "seconds"):
        del record["sessions"][0][key]
    file.write_text(yaml.safe_dump(record))
    assert train("--resume", str(run), "-n", "768") == 0, "exit code"
    assert "s in the sessions that were not killed)" in capsys.readouterr().out


class Changing(CartPoleEnv):
    """CartPole that may observe one number more."""

    more = 0

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4 + self.more,), np.float32)

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return np.append(observation, np.zeros(self.more, np.float32)), info

    def step(self, action):
        observation, *rest = super().step(action)
        return np.append(observation, np.zeros(self.more, np.float32)), *rest


def test_an_environment_whose_spaces_changed_is_refused_and_no_file_lost(tmp_path, capsys, monkeypatch):
    spec = gym.envs.registration.EnvSpec("Changing-v0", entry_point=Changing, max_episode_steps=100)
    monkeypatch.setitem(gym.registry, "Changing-v0", spec)
    assert train("--env", "Changing-v0", "-n", "256", "-f", str(tmp_path), *CONSTANT) == 0, "first part"
    run = tmp_path / "ppo" / "Changing-v0_1"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(Changing, "more", 1)
    capsys.readouterr()
    assert train("--resume", str(run), "-n", "512") == 2, "exit code"
    err = capsys.readouterr().err
    assert "observation space of Changing-v0 has changed" in err, err
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}, "a file changed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_and_the_run_can_go_on(tmp_path, number):
    words = [*QUICK, "--env", "CartPole-v1", "-n", "1000000", "-f", str(tmp_path), *CONSTANT]
    code = "import sys; from rlsd.cli.main import main; sys.exit(main())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    for line in process.stdout:
        if "evaluation" in line:  # training has begun
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, f"exit code {process.returncode}: {out}{err}"
    assert "Traceback" not in err, err
    found = re.search(r"Go on with: .*\btrain --resume (\S+)", err)
    assert found, f"how to go on is not said: {err}"
    run = Path(found[1])
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert int(checkpoint.name) % 256 == 0, "it stopped within a rollout"
    more = int(checkpoint.name) + 256
    assert train("--resume", str(run), "-n", str(more)) == 0, "it could not go on"
    assert json.loads((run / "results.json").read_text())["timesteps"] == more, "it went on from somewhere else"


@pytest.mark.parametrize("where", ["_save", "_save_end", "score"])
def test_ctrl_c_while_the_end_is_saved_or_evaluated_says_how_to_go_on(tmp_path, capsys, monkeypatch, where):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, where, stop)
    assert train("--env", "CartPole-v1", "-n", "512", "-f", str(tmp_path), "--save-freq", "256", *CONSTANT) == 130
    run = tmp_path / "ppo" / "CartPole-v1_1"
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"train --resume {run}"), "how to go on is not said"
    monkeypatch.undo()
    assert train("--resume", str(run)) == 0, "it could not go on"
    assert json.loads((run / "results.json").read_text())["timesteps"] == 512, "it did not come to its end"


@pytest.mark.parametrize("where", ["_save", "_save_end"])
def test_a_signal_while_the_end_is_saved_is_not_forgotten(tmp_path, capsys, monkeypatch, where):
    own = getattr(Session, where)

    def save(session):
        os.kill(os.getpid(), signal.SIGTERM)
        own(session)

    monkeypatch.setattr(Session, where, save)
    assert train("--env", "CartPole-v1", "-n", "256", "-f", str(tmp_path), *CONSTANT) == 130, "exit code"
    said = capsys.readouterr().err
    assert "done, but stopped before the final agent was evaluated: step 256 of 256" in said, said
    run = tmp_path / "ppo" / "CartPole-v1_1"
    assert (run / "checkpoints" / "256").is_dir(), "it was not saved"
    assert not (run / "results.json").exists(), "it was evaluated all the same"
