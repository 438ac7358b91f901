"""``scripts/benchmark.py solve``: two cold processes race to a target."""

import json
import subprocess
import sys

import pytest
from benchmarks import children, plain_child, rlsd_child, solve
from benchmarks.main import main
from benchmarks.solve import SolveOptions

TINY = ("n_envs=2", "n_steps=16", "batch_size=32", "n_epochs=1", "learning_rate=lin_0.001")


def task_of(run, target, n_timesteps=96, eval_episodes=3, **flags):
    plan = SolveOptions(n_timesteps=n_timesteps, hyperparams=TINY, **flags).plan()
    evaluated = {"target": target, "eval_freq": 32, "eval_episodes": eval_episodes}
    if run is rlsd_child.solve:
        return children.rlsd_task(plan, "solve", 0, **evaluated)
    return children.plain_task(plan, "stable_baselines3", "solve", 0, **evaluated)


@pytest.mark.parametrize("run", [plain_child.solve, rlsd_child.solve], ids=["plain", "rlsd"])
def test_a_run_stops_at_the_first_evaluation_that_reaches_the_target(run):
    report = run(task_of(run, 1.0))
    assert report["reached"] and report["steps"] == 32 and len(report["evaluations"]) == 1, "the first evaluation"
    assert report["evaluations"][0][1] >= 1.0 and report["cpu"] > 0, "what it reached"


@pytest.mark.parametrize("run", [plain_child.solve, rlsd_child.solve], ids=["plain", "rlsd"])
def test_a_run_that_does_not_reach_it_goes_on_to_the_end_and_says_so(run):
    report = run(task_of(run, 1e9))
    assert not report["reached"] and report["steps"] == 96, "the end"
    assert [step for step, _ in report["evaluations"]] == [32, 64, 96], "evaluations"


def test_both_sides_evaluate_in_the_same_episodes():
    short = {"env": "Acrobot-v1", "n_timesteps": 64, "eval_episodes": 1}
    plain = plain_child.solve(task_of(plain_child.solve, 1e9, **short))
    ours = rlsd_child.solve(task_of(rlsd_child.solve, 1e9, **short))
    assert [step for step, _ in plain["evaluations"]] == [step for step, _ in ours["evaluations"]], "steps"
    again = plain_child.solve(task_of(plain_child.solve, 1e9, **short))
    assert plain["evaluations"] == again["evaluations"], "a seed gives the same run"


def test_the_plain_child_gets_by_without_rlsd():
    plan = SolveOptions(hyperparams=TINY).plan()
    task = json.dumps(children.plain_task(plan, "stable_baselines3", "check", 0))
    guard = f"import sys, runpy; sys.modules['rlsd'] = None; sys.argv = ['', {task!r}]; "
    code = f"{guard}runpy.run_path({str(children._PLAIN)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["versions"]["stable-baselines3"], "versions"


def test_a_child_that_fails_says_why():
    plan = SolveOptions(hyperparams=TINY).plan()
    with pytest.raises(children.ChildError, match="no_such_library"):
        children.run_plain(children.plain_task(plan, "no_such_library", "check", 0))


def test_the_ratio_is_of_the_pairs_that_reached_the_target(monkeypatch, tmp_path, capsys):
    clock = iter([float(i * 100) for i in range(1000)])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("gc.collect", lambda: 0)
    seeds = []

    def child(seconds, fails):
        def run(task):
            seeds.append(task["seed"])
            reached = task["seed"] not in fails
            last = 100.0 * (len(seeds) - 1)  # the clock when this run began
            return {"reached": reached, "steps": 64, "evaluations": [], "ended": last + seconds, "cpu": seconds}

        return run

    monkeypatch.setattr(solve, "run_rlsd", child(10.0, fails={3}))
    monkeypatch.setattr(solve, "run_plain", child(20.0, fails=()))
    file = tmp_path / "solve.json"
    assert main(f"solve --pairs 5 --seed 1 --json {file}".split()) == 0, "exit code"
    out, data = capsys.readouterr().out, json.loads(file.read_text())
    assert "rlsd 4 of 5, sb3 5 of 5" in out and "NOT REACHED by rlsd" in out, "a run that failed is reported"
    assert seeds[::2] == seeds[1::2] == [1, 2, 3, 4, 5], "both sides of a pair have its seed"
    assert data["pairs_solved"] == 4 and data["wall_ratio"]["maximum"] == 0.5, "ratio"
    assert data["pairs"][2]["wall_ratio"] is None and not data["pairs"][2]["rlsd"]["reached"], "the pair that failed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pairs 4", "--pairs must be 5 or more, got 4"),
        ("--eval-freq 0", "--eval-freq must be 1 or more"),
        ("--target high", "--target"),
        ("--env CartPol-v1", "CartPole-v1"),
        ("--env MountainCarContinuous-v0 --algo td3 -params noise_type=normal", "noise_type"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys):
    assert main(["solve", *words.split()]) == 2, "exit code"
    said = capsys.readouterr()
    assert message in said.err, "message"
    assert said.err.count("\n") == 1, "more than one line"
    assert not said.out, "something was begun"


@pytest.mark.slow
def test_cold_processes_race(tmp_path):
    file = tmp_path / "solve.json"
    words = f"solve --pairs 5 -n 64 --eval-freq 32 --target 1 --hyperparams {' '.join(TINY)} --json {file}"
    assert main(words.split()) == 0, "exit code"
    data = json.loads(file.read_text())
    assert data["pairs_solved"] == 5, "solved"
    for pair in data["pairs"]:
        assert pair["rlsd"]["wall"] > pair["rlsd"]["cpu"] * 0.5 > 0, "the start of the process is in the time"
