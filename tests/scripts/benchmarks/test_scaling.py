"""``scripts/benchmark.py scaling``: every size in turn with the smallest."""

import json

import pytest
from benchmarks import gradient_steps
from benchmarks.environment_steps import in_training
from benchmarks.main import main
from benchmarks.pairs import RATE, Timing
from benchmarks.scaling import ScalingOptions
from benchmarks.series import STEP_TIME, Point, Series, flat, measure, series_dict

import rlsd
from rlsd.speed import update

TINY = "--hyperparams n_envs=2 n_steps=16 batch_size=32 n_epochs=2 --distill teacher.every=32 states.batch_size=16"


@pytest.fixture(autouse=True)
def _no_garbage(monkeypatch):
    """Collecting the garbage of a whole test session takes its time."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def points(seconds, calls):
    def point(size):
        def work():
            calls.append(size)
            return Timing(seconds[size], 2 * seconds[size], 10)

        return Point(size, work, lambda: calls.append(-size))

    return [point(size) for size in seconds]


def test_every_size_is_timed_next_to_the_smallest():
    calls = []
    measure(Series("sizes", "", STEP_TIME, points({1: 1.0, 2: 1.0, 4: 1.0}, calls)), 2)
    assert calls == [1, 1, 2, 1, 4, 1, 1, 1, 1, 2, 1, 4], "order"


def test_figures_and_ratios_are_those_of_the_unit():
    series = Series("sizes", "", RATE, points({1: 1.0, 8: 0.25}, []))
    smallest, largest = measure(series, 5)
    assert (smallest.wall, largest.wall, largest.cpu) == (10.0, 40.0, 20.0), "steps per second"
    assert smallest.wall_ratio == (1.0, 1.0, 1.0) and largest.cpu_ratio == (4.0, 4.0, 4.0), "ratios"
    assert not flat([smallest, largest]) and flat([smallest]), "flat"
    assert series_dict(series, [smallest, largest])["sizes"][1]["wall_ratio"]["median"] == 4.0, "as plain data"


def test_all_axes_are_measured_printed_and_written(tmp_path, capsys):
    file, plot = tmp_path / "scaling.json", tmp_path / "scaling.svg"
    words = f"-n 32 --pairs 5 --reservoirs 64 128 --teachers 1 2 --envs 1 2 --backends dummy gymnasium {TINY}"
    drawn = ""
    try:
        import matplotlib  # noqa: F401

        drawn = f" --plot {plot}"
    except ImportError:
        pass
    assert main(f"scaling {words} --json {file}{drawn}".split()) == 0, "exit code"
    out, data = capsys.readouterr().out, json.loads(file.read_text())
    assert all(word in out for word in ("Reservoir", "µs per gradient step", "within 5 %", "Machine")), "report"
    names = [series["name"] for series in data["series"]]
    teachers = [name + how for name in ("ensemble", "cascade") for how in ("", ", the gradient steps alone")]
    assert names == ["states", *teachers] + [
        f"{backend}, {how}" for how in ("stepped alone", "in training") for backend in ("dummy", "gymnasium")
    ], "series"
    assert [size["size"] for size in data["series"][0]["sizes"]] == [64, 128], "sizes of the reservoir"
    for series in data["series"]:
        assert series["sizes"] or series["skipped"], "neither measured nor said why not"
        assert all(size["wall"] > 0 and size["cpu"] > 0 for size in series["sizes"]), "figures"
    assert not drawn or plot.read_text().startswith("<?xml"), "plot"


def test_the_reservoir_is_full_of_states_that_were_met():
    plan = ScalingOptions(recipe="snapshot", distill=("teacher.every=32", "states.batch_size=16"),
                          hyperparams=("n_envs=2", "n_steps=16", "batch_size=32", "n_epochs=1")).plan()  # fmt: skip
    series = gradient_steps.against_reservoir(plan, (100, 300), 32)
    training = series.points[1].work.__self__
    assert training.agent.distiller.states.count == 300, "not full"
    block = training.work()
    assert block.steps > 0 and block.cpu > 0, "gradient steps"
    states = training.agent.distiller.states.tensors()["@observation"]
    assert len(states.unique(dim=0)) <= 128, "states that nobody met"
    series.close()


def test_only_the_updates_are_timed(monkeypatch):
    plan = ScalingOptions(recipe="snapshot", distill=("teacher.every=32",),
                          hyperparams=("n_envs=2", "n_steps=16", "batch_size=32", "n_epochs=3")).plan()  # fmt: skip
    training = gradient_steps.Training(plan, 32)
    training.warm_up(1)
    seconds = iter(range(1000))
    monkeypatch.setattr("benchmarks.gradient_steps.time.process_time", lambda: float(next(seconds)))
    block = training.work()
    assert (block.cpu, block.steps) == (1.0, 3), "one update of three gradient steps"
    training.env.close()


def test_the_answers_for_the_cache_can_be_left_out_of_the_time():
    plan = ScalingOptions(recipe="ensemble", distill=("teacher.every=16",),
                          hyperparams=("n_envs=2", "n_steps=16", "batch_size=32", "n_epochs=3")).plan()  # fmt: skip
    training = gradient_steps.Training(plan, 32, alone=True)
    training.warm_up(2)
    block, whole, aside = training.work(), training._watch, training._aside
    assert aside.wall > 0 and aside.cpu > 0, "the teacher was not asked, or not timed"
    assert (block.wall, block.cpu) == (whole.wall - aside.wall, whole.cpu - aside.cpu)
    assert block.wall > 0
    training.env.close()


@pytest.mark.parametrize("alone", [False, True])
def test_timing_the_updates_leaves_the_speed_on(alone):
    plan = ScalingOptions(recipe="snapshot", speed="exact").plan()
    training = gradient_steps.Training(plan, 32, alone)
    training.agent.learn(32)
    assert update.can_own(training.agent), "another update is timed than the one that is used"
    training.env.close()


def test_a_teacher_that_is_not_there_is_left_out_with_a_note():
    plan = ScalingOptions(recipe="snapshot").plan()
    gradient_steps.TEACHERS["committee"] = "k"
    try:
        series = gradient_steps.against_teachers(plan, "committee", (1, 2), 32)
    finally:
        del gradient_steps.TEACHERS["committee"]
    assert not series.points and "unknown teacher 'committee'" in series.skipped[0], "note"
    assert len(series.skipped) == 1, "the same note again and again"


def test_teachers_are_refreshed_as_often_as_the_one_of_the_recipe():
    config = rlsd.recipe("snapshot", **{"teacher.every": 77})
    gradient_steps.TEACHERS["snapshot"] = "every"  # stands for a teacher with a number
    try:
        assert gradient_steps._several(config, "snapshot", 5).teacher.every == 77, "every"
    finally:
        del gradient_steps.TEACHERS["snapshot"]


def test_agents_in_many_environments_have_rollouts_of_one_size():
    plan = ScalingOptions(recipe="snapshot", hyperparams=("n_envs=2", "n_steps=16", "batch_size=32")).plan()
    series = in_training(plan, "dummy", (1, 8), 16, 16)
    agents = [point.work.__self__.agent for point in series.points]
    assert [agent.n_steps * agent.n_envs for agent in agents] == [64, 64], "rollouts"
    series.close()


def test_more_processes_than_wanted_are_left_out():
    plan = ScalingOptions(recipe="snapshot").plan()
    series = in_training(plan, "subproc", (100,), 16, 16)
    assert not series.points and "--most-processes is 16" in series.skipped[0], "note"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--axes reservoirs", "did you mean reservoir?"),
        ("--reservoirs 1000 100", "--reservoirs must be 1 or more and rise, got 1000 100"),
        ("--reservoirs 1 1000", "states.capacity"),
        ("--envs 0 4", "--envs must be 1 or more"),
        ("--backends dumy", "did you mean dummy?"),
        ("--plot curves.doc", "--plot curves.doc must end in one of .svg"),
        ("--pairs 4", "--pairs must be 5 or more, got 4"),
        ("--most-processes 0", "--most-processes must be 1 or more"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys):
    assert main(["scaling", *words.split()]) == 2, "exit code"
    said = capsys.readouterr()
    assert message in said.err, "message"
    assert said.err.count("\n") == 1, "more than one line"
    assert not said.out, "something was begun"


def test_a_plot_without_matplotlib_names_the_package(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["scaling", "--plot", "curves.svg"]) == 2, "exit code"
    assert "matplotlib: pip install 'rlsd[plots]'" in capsys.readouterr().err, "message"
