"""``rlsd compare``: what is trained, what is found again, and what is said about it."""

import json
from pathlib import Path
from threading import Event, Thread

import pytest

from rlsd.cli import sweep
from rlsd.cli.compare import CompareOptions, plan_trials
from rlsd.cli.errors import UserError
from rlsd.cli.flags import read_flags
from rlsd.cli.main import main
from rlsd.cli.options import parse
from rlsd.cli.plan import plan_new
from rlsd.cli.report import Record
from rlsd.cli.runfolder import RunFolder
from rlsd.cli.summary import show, summarise
from rlsd.cli.sweep import EXIT_LOST, Launcher
from rlsd.cli.trials import Result, Trial, training_return
from rlsd.cli.variants import Variant, parse_seeds, parse_variants

RECIPES = ("snapshot", "selective")
TINY = "--hyperparams n_envs=1 n_steps=32 batch_size=32 n_epochs=1"


def options(words, tmp_path):
    return read_flags(CompareOptions(), "rlsd compare", [*words.split(), "-f", str(tmp_path / "logs")])


def result(variant, seed, final, env="A-v0", training=1.0):
    return Result(env, variant, seed, final, 0.0, 100, training, 1000, 2.0, 1, "0.1.0")


class Training:
    """Stands in for ``rlsd train``: writes what it writes, without training."""

    def __init__(self, monkeypatch, exit_codes=()):
        self.launched = []
        self.exit_codes = list(exit_codes)
        monkeypatch.setattr(Trial, "_train", lambda trial, launcher, words: self.train(trial, words))

    def train(self, trial, words):
        self.launched.append(words)
        code = self.exit_codes.pop(0) if self.exit_codes else 0
        folder = RunFolder(Path(words[1]), trial.plan.env_id) if words[0] == "--resume" else begin(trial)
        if code == 0:
            finish(folder, trial)
        elif words[0] != "--resume":
            (folder.checkpoints / "64").mkdir(parents=True)
        return code


def begin(trial):
    """The folder of a run that was started."""
    # Not parsed from its words: this runs in a thread, and parsing turns standard error aside for all of them.
    folder = RunFolder.create(trial.folder, trial.plan.options.algo, trial.plan.env_id)
    Record.new(folder, trial.plan, trial.words)
    return folder


def finish(folder, trial):
    """What a run leaves that came to its end."""
    figures = {"mean_reward": float(trial.seed), "std_reward": 1.5, "n_eval_episodes": 20}
    folder.write_results({**figures, "timesteps": trial.plan.n_timesteps, "wall_clock_seconds": 3.0})
    folder.monitor.write_text('#{"t_start": 0}\nr,l,t\n' + "".join(f"{i},1,1\n" for i in range(150)))


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("baseline", Variant("baseline", baseline=True)),
        ("default", Variant("default")),
        ("selective", Variant("selective", recipe="selective")),
        ("quick:recipe=guard;speed=max", Variant("quick", recipe="guard", speed="max")),
        ("soft:strength.value=0.1", Variant("soft", distill={"strength.value": 0.1})),
        ("snapshot:teacher.every=8", Variant("snapshot", recipe="snapshot", distill={"teacher.every": 8})),
        (
            "a:recipe=selective;x.y=[1,2];hyperparams.gamma=.9",
            Variant("a", recipe="selective", distill={"x.y": [1, 2]}, hyperparams={"gamma": 0.9}),
        ),
        (
            "gated:strength={value: 1, gates: [{type: behind, teacher_return: 9}]}",
            Variant("gated", distill={"strength": {"value": 1, "gates": [{"type": "behind", "teacher_return": 9}]}}),
        ),
        ("slow:baseline;hyperparams.lr=1e-4", Variant("slow", baseline=True, hyperparams={"lr": 1e-4})),
    ],
)
def test_a_variant_is_a_name_and_settings(text, variant):
    assert parse_variants([text], RECIPES) == [variant], "variant"
    both = parse_variants([f"other:a=1,{text}"], RECIPES)
    assert both[1] == variant, "after a comma"


def test_a_variants_flags_are_those_of_rlsd_train():
    variant = Variant("a", recipe="r", distill={"x": 1}, hyperparams={"gamma": 0.9})
    words = variant.flags({"gamma": 0.5, "n_steps": 8})
    assert words == ("--recipe", "r", "--distill", '{"x": 1}', "--hyperparams", '{"gamma": 0.9, "n_steps": 8}'), "words"
    assert Variant("b", baseline=True).flags({}) == ("--baseline",), "baseline"
    assert Variant("c", speed="max").flags({}) == ("--speed", "max"), "speed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("selectiv", "did you mean selective"),
        ("default,default", "twice"),
        ("baseline:x=1", "'baseline' cannot have settings"),
        ("a:baseline;strength=1", "contradicts"),
        ("../up:x=1", "name of a variant"),
        ("a:novalue", "novalue"),
        ("a:speed=fast", "speed must be one of exact, max, none"),
        (",", "empty"),
    ],
)
def test_a_wrong_variant_is_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_variants([text], RECIPES)


def test_seeds_are_numbers_and_ranges():
    assert parse_seeds("100-102") == [100, 101, 102], "range"
    assert parse_seeds("0,3, 7-8") == [0, 3, 7, 8], "list"
    for text in ("", "a", "3-1", "-1", "1,1", "1-3,2", "1.5"):
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(text)


def test_all_variants_train_with_the_same_settings_and_seeds(tmp_path):
    words = f"--env CartPole-v1 --env MountainCar-v0 --variants baseline default --seeds 3-4 -n 64 {TINY}"
    trials = plan_trials(options(words, tmp_path))
    assert [(trial.plan.env_id[0], trial.variant[0], trial.seed) for trial in trials] == [
        *(("C", "b", 3), ("C", "d", 3), ("M", "b", 3), ("M", "d", 3)),
        *(("C", "b", 4), ("C", "d", 4), ("M", "b", 4), ("M", "d", 4)),
    ], "trials"
    plain, distilled = (plan_new(parse(trial.words)) for trial in trials[:2])
    assert plain.distill is None, "the baseline distils"
    assert distilled.distill is not None, "the default does not distil"
    assert plain.hyperparams == distilled.hyperparams, "hyperparameters differ"
    assert plain.seed == distilled.seed == 3, "seed"
    assert plain.num_threads == distilled.num_threads == 1, "threads"


def test_a_finished_training_is_not_run_again(tmp_path, monkeypatch):
    training = Training(monkeypatch)
    (trial,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 5 -n 64 {TINY}", tmp_path))
    first = trial.run(Launcher())
    assert first.final == 5.0, "result"
    assert first.training == sum(range(50, 150)) / 100, "the last hundred episodes"
    assert trial.run(Launcher()) == first, "result of the run that was there"
    assert training.launched == [trial.words], "it was trained twice"


@pytest.mark.parametrize(
    "change",
    ["-n 65", "--eval-episodes 30", "--hyperparams n_steps=16 batch_size=16", "--variants x:timing.stride=2"],
)
def test_a_training_with_other_settings_is_another(tmp_path, monkeypatch, change):
    training = Training(monkeypatch)
    base = f"--env CartPole-v1 --variants x:timing.stride=3 --seeds 5 -n 64 {TINY}"
    (trial,) = plan_trials(options(base, tmp_path))
    trial.run(Launcher())
    (other,) = plan_trials(options(f"{base} {change}", tmp_path))
    assert other.folder == trial.folder, "they lie side by side"
    assert other.result() is None, "a run with other settings was taken"
    other.run(Launcher())
    assert training.launched == [trial.words, other.words], "not trained"
    assert other.result() is not None, "not found again"
    assert trial.result() is not None, "the first is lost"


def test_a_training_whose_default_has_changed_since_is_another(tmp_path, monkeypatch):
    Training(monkeypatch)
    (trial,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 5 -n 64 {TINY}", tmp_path))
    trial.run(Launcher())
    folder = RunFolder(trial.folder / "ppo" / "CartPole-v1_1", "CartPole-v1")
    folder.write_yaml("distill.yml", {**folder.read_yaml("distill.yml"), "strength": {"type": "constant", "value": 9}})
    assert trial.result() is None, "the same words, and another distillation"


def test_a_stopped_training_goes_on(tmp_path, monkeypatch):
    training = Training(monkeypatch, exit_codes=[130])
    (trial,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 5 -n 64 {TINY}", tmp_path))
    assert trial.run(Launcher()) is None, "it was stopped"
    assert trial.run(Launcher()) is not None, "it did not end"
    resumed = ("--resume", str(trial.folder / "ppo" / "CartPole-v1_1"))
    assert training.launched == [trial.words, resumed], "not resumed"


def test_a_training_whose_machine_is_lost_goes_on_elsewhere_and_not_without_end(tmp_path, monkeypatch):
    training = Training(monkeypatch, exit_codes=[EXIT_LOST, EXIT_LOST])
    (trial,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 5 -n 64 {TINY}", tmp_path))
    launcher = Launcher()
    launcher.tries = 4
    assert trial.run(launcher) is not None, "it did not end"
    resumed = ("--resume", str(trial.folder / "ppo" / "CartPole-v1_1"))
    assert training.launched == [trial.words, resumed, resumed], "started over"
    (other,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 6 -n 64 {TINY}", tmp_path))
    training.exit_codes = [EXIT_LOST] * 9
    assert other.run(launcher) is None
    assert len(training.exit_codes) == 9 - launcher.tries


def test_a_training_that_cannot_be_resumed_starts_over_and_one_that_fails_again_does_not(tmp_path, monkeypatch):
    (trial,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 5 -n 64 {TINY}", tmp_path))
    training = Training(monkeypatch, exit_codes=[130, 2, 1, 1])
    assert trial.run(Launcher()) is None, "stopped"
    assert trial.run(Launcher()) is None, "the damaged checkpoint, then a failure"
    assert [words[0] for words in training.launched] == ["--env", "--resume", "--env"], "not started over"
    assert trial.run(Launcher()) is None, "failed again"
    assert [words[0] for words in training.launched[3:]] == ["--resume"], "progress was thrown away"


def unreadable(folder):
    (folder.params / "run.yml").unlink()


def nonsense(folder):
    folder.write_results({**folder.read_results(), "mean_reward": "high"})


@pytest.mark.parametrize("damage", [unreadable, nonsense])
def test_a_damaged_training_is_run_again_and_stops_no_comparison(tmp_path, monkeypatch, capsys, damage):
    training = Training(monkeypatch)
    (trial,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 5 -n 64 {TINY}", tmp_path))
    first = trial.run(Launcher())
    run = RunFolder(trial.folder / "ppo" / "CartPole-v1_1", "CartPole-v1")
    damage(run)
    assert trial.result() is None, "taken for finished"
    assert trial.run(Launcher()) == first, "not run again"
    assert training.launched == [trial.words] * 2, "trainings"
    err = capsys.readouterr().err
    assert err.startswith(f"not taken for finished: {'cannot read ' if damage is unreadable else ''}{run.root}"), err
    assert err.count("\n") == 1, "said more than once"


def test_stopping_ends_what_runs_and_starts_no_more(tmp_path, monkeypatch):
    started, ended = Event(), Event()

    class Process:
        pid = 0

        def __init__(self, *args, **kwargs):
            started.set()

        def wait(self, timeout=None):
            ended.wait(10)
            return 130

        def terminate(self):
            ended.set()

    monkeypatch.setattr(sweep.subprocess, "Popen", Process)
    monkeypatch.setattr(sweep, "guard", lambda pid, grace: None)
    (trial,) = plan_trials(options(f"--env CartPole-v1 --variants default --seeds 5 -n 64 {TINY}", tmp_path))
    launcher = Launcher()
    thread = Thread(target=trial.run, args=(launcher,))
    thread.start()
    assert started.wait(10), "nothing was started"
    launcher.stop()
    thread.join(10)
    assert not thread.is_alive(), "the training was not told"
    started.clear()
    assert trial.run(launcher) is None, "result"
    assert not started.is_set(), "one was started after the stop"


def test_the_training_return_of_no_episode_is_none(tmp_path):
    assert training_return(tmp_path / "missing.csv") is None, "no file"
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n')
    assert training_return(tmp_path / "0.monitor.csv") is None, "no line"
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0}\nr,l,t\n3.0,1,1\n5.0,1,1\n')
    assert training_return(tmp_path / "0.monitor.csv") == 4.0, "mean"


def test_figures_by_hand():
    results = [result("baseline", seed, final) for seed, final in enumerate((1.0, 2.0))]
    results += [result("default", seed, final, training=None) for seed, final in enumerate((2.0, 4.0))]
    figures = summarise(results)["A-v0"]
    final = figures["default"]["final"]
    assert (final["mean"], final["worst"], final["iqm"]) == (3.0, 2.0, 3.0), "means"
    assert final["std"] == pytest.approx(2**0.5), "sample standard deviation"
    assert final["improvement"]["probability"] == 3.5 / 4, "one tie in four"
    low, high = final["improvement"]["interval"]
    assert low <= 3.5 / 4 <= high == 1.0, "interval"
    assert figures["baseline"]["final"]["improvement"] is None, "the baseline over itself"
    assert figures["default"]["training"] is None, "no episode ended in training"
    assert figures["default"]["seconds"] == 2.0, "wall-clock"


def test_the_table_holds_every_variant_and_warns_of_few_seeds():
    results = [result(variant, 0, 1.0, env) for env in ("A-v0", "B-v0") for variant in ("baseline", "x")]
    text = show(results)
    assert "fewer than 6 seeds" in text, "no warning"
    assert "All environments" in text, "no figure over the environments"
    assert "0.50" in text, "a tie is one half"
    lines = [line for line in text.splitlines() if line.startswith(("final  ", "training  "))]
    assert sum(" x " in line for line in lines) == 4, "two environments, two measures"
    many = [result("baseline", seed, 1.0) for seed in range(6)]
    assert "fewer" not in show(many), "six are enough"


def test_compare_trains_compares_and_does_nothing_the_second_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = f"compare --env CartPole-v1 --variants baseline,default --seeds 0 -n 64 --eval-episodes 20 -j 2 {TINY}"
    assert main([*words.split(), "--results", "out/all.json"]) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert "2 trainings: 0 finished, 2 to run" in out, "start"
    assert "P(better)" in out, "table"
    data = json.loads(Path("out/all.json").read_text())
    assert data["command"] == f"rlsd {words} --results out/all.json", "command"
    assert [(run["variant"], run["seed"], run["steps"]) for run in data["results"]] == [
        ("baseline", 0, 64),
        ("default", 0, 64),
    ], "results"
    assert data["variants"]["CartPole-v1"]["baseline"]["distill"] is None, "what the baseline is"
    assert data["variants"]["CartPole-v1"]["default"]["distill"]["distillations"], "what the default is"
    assert {"versions", "machine", "settings", "summary"} <= set(data), "what else is written"
    assert main(words.split()) == 0, "second time"
    assert "2 finished, 0 to run" in capsys.readouterr().out, "trained again"
    again = json.loads(Path("logs/compare/compare.json").read_text())
    assert again["results"] == data["results"], "other figures the second time"


def test_a_failed_training_is_named_and_the_rest_is_reported(tmp_path, monkeypatch, capsys):
    Training(monkeypatch, exit_codes=[1])
    monkeypatch.chdir(tmp_path)
    words = f"compare --env CartPole-v1 --variants baseline,default --seeds 0 -n 64 {TINY}"
    assert main(words.split()) == 1, "exit code"
    said = capsys.readouterr()
    assert "baseline seed 0: failed" in said.err, "which failed"
    assert "1 of 2 trainings are missing" in said.err, "that the table is not whole"
    assert "default" in said.out, "the other one is not shown"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--env is missing"),
        ("--env CartPol-v1", "CartPole-v1"),
        ("--env CartPole-v1 --variants x:strength.value=-1", "strength.value"),
        ("--env CartPole-v1 --variants x:hyperparams.gama=1", "did you mean gamma"),
        ("--env CartPole-v1 --jobs 0", "--jobs must be 1 or more, got 0"),
        ("--env CartPole-v1 --algo pro", "did you mean ppo"),
        ("--env CartPole-v1 --results .", "--results ."),
        ("--env CartPole-v1 --sed 3", "--seed"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words.split()]) == 2, "exit code"
    said = capsys.readouterr()
    assert message in said.err, "message"
    assert said.err.count("\n") == 1, "more than one line"
    assert not list(tmp_path.iterdir()), "something was written"
