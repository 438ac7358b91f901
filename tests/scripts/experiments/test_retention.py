"""``scripts/retention.py``: what an agent goes through, what is measured, and what is found again."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments import retention
from experiments.retention import RetentionOptions, main, plan_trials
from experiments.retention_settings import rehearses, settle, words_of
from experiments.retention_summary import Scale, measure, show, summarise

import rlsd
from rlsd.cli import two_tasks
from rlsd.cli.flags import read_flags
from rlsd.cli.two_tasks import Outcome, Settings
from rlsd.cli.variants import parse_variants

ROOT = Path(__file__).parents[3]
TINY = "--hyperparams n_envs=2 n_steps=32 batch_size=32 n_epochs=1"
CARTPOLE = f"--env CartPole-v1 -n 128 --eval-episodes 2 {TINY}"


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plans(words, tmp_path):
    return plan_trials(
        read_flags(RetentionOptions(), "python scripts/retention.py", [*words.split(), "-f", str(tmp_path / "logs")])
    )


def settings(words, tmp_path):
    """The settings of the first trial."""
    return plans(words, tmp_path)[0].settings


def outcome(a_after_a, a_after_b, b_after_b, **figures):
    """An outcome with these mean greedy returns; the sampled ones are 0."""

    def returns(a, b):
        return {"A": {"greedy": [a - 1, a + 1], "sampled": [0.0]}, "B": {"greedy": [b], "sampled": [0.0]}}

    phases = [
        {"task": "A", "steps": 8, "seconds": 1.0, "returns": returns(a_after_a, 5.0)},
        {"task": "B", "steps": 16, "seconds": 1.0, "returns": returns(a_after_b, b_after_b)},
    ]
    return Outcome(phases, figures, 2.0, "0.1.0")


class Trials:
    """Stands in for the processes: writes what they write, without training."""

    def __init__(self, monkeypatch, exit_codes=()):
        self.ran = []
        self.exit_codes = list(exit_codes)
        monkeypatch.setattr("rlsd.cli.sweep.Launcher.run", lambda launcher, *words: self.run(*words))

    def run(self, words, log):
        assert words[:2] == ("-m", "rlsd.cli.two_tasks"), "what is run"
        found, file = json.loads(words[2]), Path(words[3])
        self.ran.append(found)
        if self.exit_codes and (code := self.exit_codes.pop(0)):
            return code
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"settings": found, "outcome": asdict(outcome(500.0, 490.0, 480.0))}))
        return 0


def test_the_agent_meets_a_then_b_and_is_not_told(tmp_path, monkeypatch):
    wanted = settings(f"{CARTPOLE} --variants baseline --seeds 3 --rounds 2", tmp_path)
    agent, met = two_tasks.new_agent(wanted.plan()), []

    def learn(steps, callback, reset_num_timesteps):
        observations = agent.get_env().reset()
        met.append((observations[0, -1], reset_num_timesteps, observations[0, 0]))
        agent.num_timesteps += steps

    monkeypatch.setattr(agent, "learn", learn)
    monkeypatch.setattr(two_tasks, "new_agent", lambda plan: agent)
    found = two_tasks.train(wanted)
    assert [bit for bit, _, _ in met] == [0.0, 1.0, 0.0, 1.0], "tasks"
    assert [new for _, new, _ in met] == [True, False, False, False], "what begins anew"
    assert len({start for _, _, start in met}) == 4, "episodes of an earlier environment come again"
    assert [(phase["task"], phase["steps"]) for phase in found.phases] == [
        *(("A", 128), ("B", 256)),
        *(("A", 384), ("B", 512)),
    ], "phases"


def test_evaluations_leave_training_as_it_would_be_without(tmp_path, monkeypatch):
    wanted = settings(f"{CARTPOLE} --variants snapshot:teacher.every=64 --seeds 3", tmp_path)
    agents = [two_tasks.new_agent(wanted.plan()) for _ in range(2)]
    for agent, evaluations in zip(agents, ([2, 3], [4, 1]), strict=True):
        agent.set_random_seed(3)
        agent.learn(64)
        for episodes in evaluations:
            two_tasks._returns(agent, replace(wanted, eval_episodes=episodes), "B")
        agent.learn(64, reset_num_timesteps=False)
    pairs = zip(*(agent.policy.parameters() for agent in agents), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs), "the evaluation changed what was learned"


def test_a_q_learner_does_not_begin_to_explore_again(tmp_path):
    words = "--env CartPole-v1 --algo dqn -n 100 --variants baseline --seeds 0 --eval-episodes 1"
    wanted = settings(f"{words} --hyperparams exploration_fraction=0.9 gradient_steps=1", tmp_path)
    agent = two_tasks.new_agent(wanted.plan())
    agent.learn(100)
    two_tasks._change_task(agent, wanted.plan("B", 1))
    agent.learn(10, reset_num_timesteps=False)
    assert agent.exploration_rate == agent.exploration_final_eps, "exploration began anew"


def test_statistics_of_normalised_observations_go_on(tmp_path):
    words = "--env CartPole-v1 -n 64 --variants baseline --seeds 0 --eval-episodes 1 --hyperparams normalize=true"
    wanted = settings(f"{words} n_envs=2 n_steps=32 batch_size=32", tmp_path)
    agent = two_tasks.new_agent(wanted.plan())
    agent.learn(64)
    before = agent.get_vec_normalize_env().obs_rms.mean.copy()
    two_tasks._change_task(agent, wanted.plan("B", 1))
    assert np.array_equal(agent.get_vec_normalize_env().obs_rms.mean, before), "they began anew"


def test_the_settings_are_tuned_ones_that_follow_no_progress(tmp_path):
    found = settings("--env CartPole-v1 --variants baseline --seeds 0", tmp_path)
    ours = {"n_epochs": 10, "learning_rate": 0.001, "clip_range": 0.2, "n_envs": 8, "n_steps": 32, "batch_size": 256}
    assert ours.items() <= found.hyperparams.items(), "PPO on CartPole"
    assert settings(f"{CARTPOLE} --variants x:baseline;hyperparams.gamma=0.5", tmp_path).hyperparams["gamma"] == 0.5


def test_a_tuned_schedule_is_held_where_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.retention_settings.CHANGES", {})
    found = settings("--env CartPole-v1 --variants baseline --seeds 0", tmp_path).hyperparams
    assert (found["learning_rate"], found["clip_range"], found["n_epochs"]) == (0.001, 0.2, 20), "not held"


@pytest.mark.parametrize(("words", "size"), [("-n 3000", 1500), ("-n 3000 --hyperparams buffer_size=4000", 4000)])
def test_the_replay_buffer_forgets_a_unless_asked_otherwise(words, size, tmp_path):
    found = settings(f"--env CartPole-v1 --algo dqn --variants baseline --seeds 0 {words}", tmp_path)
    assert found.hyperparams["buffer_size"] == size, "buffer"
    assert rehearses(found) == (size > 3000), "warning"


def test_all_variants_have_the_same_settings_and_seeds(tmp_path):
    trials = plans(f"{CARTPOLE} --variants baseline,snapshot --seeds 3-4", tmp_path)
    assert [(trial.variant, trial.settings.seed) for trial in trials] == [
        *(("baseline", 3), ("snapshot", 3)),
        *(("baseline", 4), ("snapshot", 4)),
    ], "trials"
    assert trials[0].settings.distill is None, "the baseline distils"
    assert trials[1].settings.distill["teacher"]["type"] == "snapshot", "the other does not"
    assert replace(trials[1].settings, distill=None) == trials[0].settings, "something else differs"


def test_figures_by_hand():
    scale = Scale(random=20.0, origin=0.0, level=475.0)
    found = measure(outcome(500.0, 460.0, 480.0), scale, "greedy")
    expected = {"a_after_a": 500.0, "a_after_b": 460.0, "b_after_b": 480.0, "kept": 0.92}
    assert found == {**expected, "a_solved": True, "b_solved": True, "both": True, "all": True}, "figures"
    unlearned = measure(outcome(400.0, 500.0, 480.0), scale, "greedy")
    assert unlearned["both"] and not unlearned["all"], "there was little to keep"
    assert not measure(outcome(500.0, 440.0, 480.0), scale, "greedy")["both"], "12 % were lost"
    assert not measure(outcome(500.0, 500.0, 470.0), scale, "greedy")["both"], "B is not solved"
    assert measure(outcome(500.0, 460.0, 480.0), scale, "sampled")["kept"] is None, "there was nothing to lose"


def test_where_returns_are_negative_the_random_policy_is_the_origin():
    scale = Scale(random=-1200.0, origin=-1200.0, level=None)
    assert any("90% of A after A" in line for line in scale.explain())
    found = measure(outcome(-200.0, -250.0, -290.0), scale, "greedy")
    assert found["kept"] == pytest.approx(0.95), "kept"
    assert found["b_solved"] and found["both"], "B has 91 % of what A had"
    assert not measure(outcome(-200.0, -200.0, -320.0), scale, "greedy")["b_solved"], "B has 88 %"
    assert measure(outcome(-1300.0, -200.0, -200.0), scale, "greedy")["kept"] is None, "A was never learned"


def test_the_scale_is_the_environments_own():
    assert Scale.of("CartPole-v1", 22.0) == Scale(22.0, 0.0, 475.0), "CartPole"
    assert Scale.of("Pendulum-v1", -1200.0) == Scale(-1200.0, -1200.0, None), "Pendulum"


def test_the_random_policys_return_is_found():
    found = two_tasks.random_return("CartPole-v1", {})
    assert 18.0 < found < 27.0, "CartPole's is about 22"
    assert two_tasks.random_return("CartPole-v1", {}) == found, "another one the second time"


def test_the_table_shows_each_variant_twice_and_the_figures_there_are():
    scale = Scale(22.0, 0.0, 475.0)
    outcomes = {
        "baseline": [outcome(500.0, 50.0, 500.0), outcome(500.0, 100.0, 400.0)],
        "x": [outcome(500.0, 500.0, 500.0, **{"distill/kl": 0.5, "distill/frozen_share": None})],
    }
    summary = summarise(outcomes, scale)
    assert summary["baseline"]["greedy"]["kept"] == {"mean": pytest.approx(0.15), "worst": pytest.approx(0.1)}, "kept"
    assert summary["baseline"]["greedy"]["b_solved"] == 1 and summary["x"]["greedy"]["both"] == 1, "counts"
    text = show(summary, scale, 2)
    rows = [line.split() for line in text.splitlines()]
    expected = "greedy baseline 2 500.0 75.0 50.0 450.0 400.0 15% 10% 2/2 1/2 0/2 0/2"
    assert expected.split() in rows, text
    assert re.search(r"^x +0\.5000 +- +2\.0$", text, re.MULTILINE), "distillation's figures"
    assert "at least 475" in text and "random policy's return is 22.0" in text, "what it means"


def test_retention_trains_reports_and_does_nothing_the_second_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = f"{CARTPOLE} --variants baseline,snapshot:teacher.every=64;timing.stride=1 --seeds 0"
    # A process of its own is what rlsd compare's trainings are, too.
    monkeypatch.setattr("rlsd.cli.sweep.Launcher.run", lambda launcher, words, log: two_tasks.main(words[2:]))
    assert main([*words.split(), "--results", "out/all.json"]) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert "2 trials: 0 finished, 2 to run" in out, "start"
    assert "n_epochs 1" in out, "hyperparameters"
    data = json.loads(Path("out/all.json").read_text())
    assert shlex.split(data["command"]) == [
        "python",
        "scripts/retention.py",
        *words.split(),
        "--results",
        "out/all.json",
    ], "command"
    assert [(run["variant"], run["seed"]) for run in data["results"]] == [("baseline", 0), ("snapshot", 0)], "results"
    for run in data["results"]:
        assert [(phase["task"], phase["steps"]) for phase in run["phases"]] == [("A", 128), ("B", 256)], "phases"
        assert len(run["phases"][1]["returns"]["A"]["sampled"]) == 2, "raw returns"
    assert data["variants"]["baseline"]["distill"] is None, "what the baseline is"
    assert "distill/kl" in data["summary"]["snapshot"]["figures"], "distillation's figures"
    assert {"versions", "machine", "settings", "scale"} <= set(data), "what else is written"
    ran = Trials(monkeypatch).ran
    assert main(words.split()) == 0, "second time"
    assert not ran, "trained again"
    assert json.loads(Path("logs/retention/retention.json").read_text())["results"] == data["results"], "other figures"


@pytest.mark.parametrize(
    "change",
    [
        *("-n 129", "--eval-episodes 3", "--rounds 2", "--algo a2c --hyperparams n_envs=2 n_steps=32"),
        *("--variants x:timing.stride=2", "--hyperparams n_steps=16 batch_size=16"),
    ],
)
def test_a_trial_with_other_settings_is_another(tmp_path, monkeypatch, change):
    trials = Trials(monkeypatch)
    base = f"{CARTPOLE} --variants x:timing.stride=3 --seeds 5"
    (first,), (other,) = plans(base, tmp_path), plans(f"{base} {change}", tmp_path)
    launcher = retention_launcher()
    assert first.run(launcher) == first.result() is not None, "not found again"
    assert other.result() is None, "one with other settings was taken"
    assert other.run(launcher) and first.result(), "the first is lost"
    assert [Settings(**found) for found in trials.ran] == [first.settings, other.settings], "what was run"


def retention_launcher():
    from rlsd.cli.sweep import Launcher

    return Launcher()


def test_a_damaged_file_is_no_result(tmp_path, monkeypatch):
    Trials(monkeypatch)
    (trial,) = plans(f"{CARTPOLE} --variants baseline --seeds 5", tmp_path)
    trial.run(retention_launcher())
    for text in ("", "[]", "{}", json.dumps({"settings": asdict(trial.settings), "outcome": {"a": 1}})):
        trial.file.write_text(text)
        assert trial.result() is None, f"{text!r} was taken for a result"


def test_a_failed_trial_is_named_and_the_rest_is_reported(tmp_path, monkeypatch, capsys):
    Trials(monkeypatch, exit_codes=[1])
    monkeypatch.chdir(tmp_path)
    assert main(f"{CARTPOLE} --variants baseline,snapshot --seeds 0".split()) == 1, "exit code"
    said = capsys.readouterr()
    assert "baseline seed 0: failed" in said.err, "which failed"
    assert "1 of 2 trials are missing" in said.err, "that the table is not whole"
    assert "snapshot" in said.out, "the other one is not shown"


def test_ctrl_c_stops_the_trials_and_leaves_no_half_result(tmp_path):
    words = ["--env", "CartPole-v1", "--variants", "baseline", "--seeds", "0-1", "-n", "1e8"]
    command = [sys.executable, str(ROOT / "scripts" / "retention.py"), *words]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not list(tmp_path.rglob("*.log")) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, (out, err)
    assert "Stopped with 0 of 2 trials finished; the same command goes on." in err, err
    assert not list(tmp_path.rglob("*.json")), "a result was written"


WRONG = [
    ("", "--env is missing"),
    ("--env CartPol-v1", "CartPole-v1"),
    ("--env FrozenLake-v1", "observations that are vectors, not to Discrete(16)"),
    ("--env CartPole-v1 --algo sac", "variant baseline"),
    ("--env CartPole-v1 --variants guardd", "did you mean guard"),
    ("--env CartPole-v1 --variants x:strength.value=-1", "strength.value"),
    ('--env CartPole-v1 --variants x:strength={"type":"schedule"}', "strength 'schedule' follows training's progress"),
    ("--env CartPole-v1 --hyperparams learning_rate:lin_0.1", "give a number, such as 0.1"),
    ("--env CartPole-v1 --hyperparams gama:1", "did you mean gamma"),
    ("--env CartPole-v1 --env-kwargs nonsense:1", "nonsense"),
    ("--env CartPole-v1 --rounds 0", "--rounds must be 1 or more, got 0"),
    ("--env CartPole-v1 --jobs 0", "--jobs must be 1 or more, got 0"),
    ("--env CartPole-v1 --seeds 3-1", "--seeds"),
    ("--env CartPole-v1 --results .", "--results ."),
    ("--env CartPole-v1 --sed 3", "--seed"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words or "nothing" for words, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words.split()]) == 2, "exit code"
    said = capsys.readouterr()
    assert message in said.err, "message"
    assert said.err.count("\n") == 1, "more than one line"
    assert not list(tmp_path.iterdir()), "something was written"


def test_every_flag_is_explained_in_the_docs():
    text = (ROOT / "docs" / "retention.md").read_text(encoding="utf-8")
    flags = {field.name.replace("_", "-") for field in fields(RetentionOptions)}
    assert flags - set(re.findall(r"`--([\w-]+)`", text)) == set(), "flags that docs/retention.md does not list"
    assert retention.EXIT_FAILED == 1, "exit code of a failed trial"


@pytest.mark.slow
def test_remember_keeps_one_cartpole_while_it_learns_another_and_nobody_says_when(tmp_path: Path) -> None:
    words = words_of("CartPole-v1", "ppo", 30_000, {}, "cpu", str(tmp_path))
    (variant,) = parse_variants(("remember",), rlsd.recipes())
    outcome = two_tasks.train(settle(variant, words, {}, seed=720, rounds=1, eval_episodes=10))
    for actions in ("greedy", "sampled"):
        before = outcome.mean(0, "A", actions)
        assert before > 100, "A was not learned, so that nothing could be kept"
        assert outcome.mean(1, "A", actions) >= 0.9 * before
    assert outcome.figures["distill/change"] == 1
    assert outcome.figures["distill/changed_at"] == outcome.phases[0]["steps"]
