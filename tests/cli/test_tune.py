"""``rlsd tune``: searches, and loses nothing when it is killed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import rlsd
from rlsd.cli import main as program
from rlsd.cli import search
from rlsd.cli.main import main
from rlsd.cli.options import parse
from rlsd.cli.plan import plan_new

QUICK = ["--env", "CartPole-v1", "-n", "64", "-params", "n_envs:2", "--n-evaluations", "2", "--eval-episodes", "1"]
TASK = ["--n-trials", "3", *QUICK]


def inline(monkeypatch):
    """Let the processes of a study run in this one, one after the other."""
    from rlsd.cli import sweep

    def run(self, words, log):
        assert words[:2] == ("-m", "rlsd"), words
        log.parent.mkdir(parents=True, exist_ok=True)
        return program.main(words[2:])

    monkeypatch.setattr(sweep.Launcher, "run", run)


def study_of(folder):
    from rlsd.cli.tuning import open_study

    return open_study(str(folder / "study.journal"), "rlsd", "tpe", "median", 0)


class Middle:
    """Suggests the middle of every range."""

    def suggest_categorical(self, name, choices):
        return choices[len(choices) // 2]

    def suggest_float(self, name, low, high, log=False):
        return (low * high) ** 0.5 if log else (low + high) / 2


@pytest.mark.parametrize("algo", search.ALGORITHMS)
def test_every_algorithms_space_is_of_hyperparameters_that_it_takes(algo):
    env = "CartPole-v1" if algo in ("dqn", "qrdqn", "ppo_lstm") else "Pendulum-v1"
    values = search.hyperparameters(Middle(), algo, longest=64)
    plan = plan_new(parse(["--env", env, "--algo", algo, "--hyperparams", json.dumps(values)]))
    for name, value in values.items():
        assert plan.hyperparams.values[name] == value, name


@pytest.mark.parametrize("name", [name for name in rlsd.recipes() if name != "kickstart"])
def test_every_recipe_has_knobs_that_it_takes(name):
    changes = search.distillation(Middle(), rlsd.recipe(name).to_dict())
    assert changes, "nothing to search"
    assert rlsd.recipe(name, **changes) != rlsd.recipe(name), "nothing was changed"


def test_a_search_reports_trials_and_the_command_of_the_best(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    inline(monkeypatch)
    assert main(["tune", *TASK, "-f", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("  trial ") == 3 and "[3 of 3]" in said, said
    best = json.loads((tmp_path / "ppo" / "CartPole-v1" / "best.json").read_text())
    assert len(best["trials"]) == 3
    words = shlex.split(best["best"]["train"])
    assert words[:2] == ["rlsd", "train"] and best["best"]["train"] in said
    plan = plan_new(parse(words[2:]))
    assert plan.hyperparams.values["n_envs"] == 2, "what all trials share"
    assert plan.distill.members["guard"].teacher.every == best["best"]["params"]["guard.teacher.every"], (
        "what was searched"
    )


def test_trials_that_were_cut_off_are_run_again_and_finished_ones_are_kept(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    from rlsd.cli import tuning

    inline(monkeypatch)
    learn, trained = tuning._learn, []

    class Killed(BaseException):
        """As if the process had gone: nothing is told to the study."""

    def killed_in_the_second(trial, plan, task):
        trained.append(dict(trial.params))
        if len(trained) == 2:
            raise Killed
        return learn(trial, plan, task)

    monkeypatch.setattr(tuning, "_learn", killed_in_the_second)
    with pytest.raises(Killed):
        main(["tune", *TASK, "-f", str(tmp_path)])
    capsys.readouterr()
    assert main(["tune", *TASK, "-f", str(tmp_path)]) == 0
    assert "3 trials: 1 finished, 1 cut off and run again" in (said := capsys.readouterr().out), said
    assert trained[2] == trained[1], "the trial that was cut off is not run again first"
    study = study_of(tmp_path / "ppo" / "CartPole-v1")
    assert len(tuning.finished(study)) == 3 and len(trained) == 4, "a trial was lost or run twice"
    assert main(["tune", *TASK, "-f", str(tmp_path)]) == 0
    assert len(trained) == 4, "a finished study was gone on with"


def test_values_that_do_not_go_together_end_their_trial_alone(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    inline(monkeypatch)
    monkeypatch.setattr(search, "hyperparameters", lambda *_: {"n_steps": 1, "n_envs": 1})  # PPO needs two
    assert main(["tune", *TASK, "--optimize", "algo", "-f", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out.count("failed: ") == 3 and "No trial has come to its end" in said.err, said


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("", "--env is missing"),
        ("--env CartPol-v1", "CartPole-v1"),
        ("--env CartPole-v1 --n-trials 0", "--n-trials"),
        ("--env CartPole-v1 --sampler cmaes", "--sampler"),
        ("--env CartPole-v1 --baseline --optimize distill", "nothing to search"),
        ("--env CartPole-v1 --recipe snapshat", "snapshot"),
        ("--env CartPole-v1 --storage nowhere://x", "--storage nowhere://x"),
    ],
)
def test_wrong_input_is_one_line(words, hint, tmp_path, refused):
    pytest.importorskip("optuna")
    assert hint in refused("tune", *words.split(), "-f", str(tmp_path))


@pytest.mark.slow
def test_twenty_trials_in_two_processes_killed_and_resumed_lose_none(tmp_path):
    """Kill the whole program with its workers, more than once, and go on."""
    pytest.importorskip("optuna")
    import signal
    import subprocess
    import sys
    import time

    from optuna.trial import TrialState

    from rlsd.cli.tuning import finished

    words = [*QUICK, "--n-trials", "20", "--n-jobs", "2", "-f", str(tmp_path)]
    folder = tmp_path / "ppo" / "CartPole-v1"
    kept: set[int] = set()
    for wanted in (4, 11, 20):
        running = subprocess.Popen([sys.executable, "-m", "rlsd", "tune", *words], stdout=subprocess.DEVNULL)
        while running.poll() is None and (wanted == 20 or len(_done(folder)) < wanted):
            time.sleep(0.2)
        if wanted < 20:
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert kept <= _done(folder), "a finished trial was lost"
        kept = _done(folder)
    study = study_of(folder)
    assert len(finished(study)) == 20, "not as many as asked"
    cut_off = [trial for trial in study.trials if trial.state is TrialState.FAIL and not trial.user_attrs.get("error")]
    done = [trial.params.items() for trial in finished(study)]
    # One that was cut off while its values were being chosen gets the rest of them when it is run again.
    assert cut_off, "the kills hit nothing"
    assert all(any(trial.params.items() <= params for params in done) for trial in cut_off), "one was not run again"


def _done(folder: Path) -> set[int]:
    from rlsd.cli.tuning import finished

    return {trial.number for trial in finished(study_of(folder))} if (folder / "study.journal").exists() else set()
