"""``scripts/benchmark.py``: how it times, and what it writes. No assertion on seconds."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from benchmarks.board import BoardOptions
from benchmarks.main import main
from benchmarks.overhead import OverheadOptions
from benchmarks.pairs import Side, Work, interleave, spread, time_once
from benchmarks.scaling import ScalingOptions
from benchmarks.solve import SolveOptions
from benchmarks.successors import SuccessorsOptions
from benchmarks.throughput import ThroughputOptions

from rlsd.cli.agents import new_agent
from rlsd.cli.flags import read_flags
from rlsd.cli.glance import Glance

_init = Glance.__init__
TINY = "--hyperparams n_envs=1 n_steps=32 batch_size=32 n_epochs=1"


@pytest.fixture
def _no_garbage(monkeypatch):
    """Collecting the garbage of a whole test session takes its time."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def side(name, calls):
    """Work that notes when it is prepared, run and closed."""

    def prepare(number):
        calls.append((name, "prepare", number))

        def run():
            calls.append((name, "run", number))
            return 10

        return Work(run, lambda: calls.append((name, "close", number)))

    return Side(name, prepare)


@pytest.mark.usefixtures("_no_garbage")
def test_the_side_that_goes_first_alternates():
    calls = []
    pairs = interleave(side("A", calls), side("B", calls), 5, lambda pair: None)
    assert "".join(name for name, what, _ in calls if what == "run") == "ABBAABBAAB", "order"
    assert [pair.first for pair in pairs] == ["A", "B", "A", "B", "A"], "order as reported"
    assert [pair.number for pair in pairs] == list(range(5)), "numbers"


@pytest.mark.usefixtures("_no_garbage")
def test_every_run_is_on_fresh_work_that_is_closed_after_it():
    calls = []
    interleave(side("A", calls), side("B", calls), 5, lambda pair: None)
    steps = [what for _, what, _ in calls]
    assert steps == ["prepare", "run", "close"] * 10, "something is shared between runs"


def test_work_that_fails_is_closed():
    closed = []

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        time_once(Side("A", lambda number: Work(fail, lambda: closed.append(number))), 3)
    assert closed == [3], "left open"


def test_the_preparation_is_not_timed(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("time.process_time", lambda: 0.0)

    def prepare(number):
        next(clock), next(clock)
        return Work(lambda: next(clock), lambda: None)

    assert time_once(Side("A", prepare), 0).wall == 2.0, "one tick of the work and one of the clock itself"


def test_the_spread_is_smallest_middle_largest():
    assert spread([3.0, 1.0, 2.0, 9.0, 1.5]) == (1.0, 2.0, 9.0), "spread"


@pytest.mark.usefixtures("_no_garbage")
def test_overhead_prints_each_pair_and_writes_what_it_measured(tmp_path, capsys):
    threads = torch.get_num_threads()
    file = tmp_path / "new" / "overhead.json"
    words = f"overhead -n 64 --pairs 5 {TINY} --json {file}"
    assert main(words.split()) == 0, "exit code"
    out = capsys.readouterr().out
    assert all(f"pair {number}" in out for number in range(1, 6)), "a pair is not shown"
    assert all(word in out for word in ("median", "CPU time", "Machine", "Versions", "stable-baselines3")), "report"
    data = json.loads(file.read_text())
    assert data["command"] == f"python scripts/benchmark.py {words}", "command"
    assert data["hyperparams"]["n_steps"] == 32, "settings"
    assert data["distill"]["distillations"], "the distillation is not in the file"
    assert {"cpu", "cores", "load_average"} <= set(data["machine"]), "machine"
    assert [pair["first"] for pair in data["pairs"]] == ["on", "off", "on", "off", "on"], "order"
    for pair in data["pairs"]:
        assert pair["on"]["steps"] == pair["off"]["steps"] == 64, "both sides do the same work"
        assert pair["wall_ratio"] == pair["on"]["wall"] / pair["off"]["wall"], "ratio"
    ratios = sorted(pair["cpu_ratio"] for pair in data["pairs"])
    assert data["cpu_ratio"] == {"minimum": ratios[0], "median": ratios[2], "maximum": ratios[4]}, "spread"
    assert torch.get_num_threads() == threads, "the number of threads stayed changed"


@pytest.mark.usefixtures("_no_garbage")
def test_only_one_side_of_board_shows_its_cards(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("rlsd.cli.glance.Glance.__init__", lambda self, steps: made.append(steps) or _init(self, steps))
    file = tmp_path / "board.json"
    assert main([*f"board -n 64 --pairs 5 {TINY} --json {file}".split()]) == 0
    assert made == [6, 64, 64, 64, 64, 64], "the warm-up and one side of each pair"
    assert len(json.loads(file.read_text())["pairs"]) == 5


@pytest.mark.usefixtures("_no_garbage")
def test_only_one_side_distils_and_each_pair_has_its_own_seed(monkeypatch):
    made = []

    def note(plan, env, tensorboard):
        agent = new_agent(plan, env, tensorboard)
        made.append((agent.seed, plan.distill is not None))
        return agent

    monkeypatch.setattr("rlsd.cli.agents.new_agent", note)
    assert main([*f"overhead -n 32 --pairs 5 --seed 7 {TINY}".split()]) == 0, "exit code"
    warm_up, runs = made[:2], made[2:]
    assert warm_up == [(7, True), (7, False)], "both sides are warmed up"
    assert [distils for _, distils in runs] == [True, False, False, True, True, False, False, True, True, False], (
        "sides"
    )
    seeds = [seed for seed, _ in runs]
    assert seeds[::2] == seeds[1::2] == [7, 8, 9, 10, 11], "seeds"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("overhed", "did you mean overhead"),
        ("overhead --pairs 4", "--pairs must be 5 or more, got 4"),
        ("overhead -n 0", "--n-timesteps must be 1 or more, got 0"),
        ("overhead --env CartPol-v1", "CartPole-v1"),
        ("overhead --distill strengh=1", "strengh"),
        ("overhead --json .", "--json ."),
        ("overhead --pears 5", "--pairs"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, message, capsys):
    assert main([*words.split()]) == 2, "exit code"
    said = capsys.readouterr()
    assert message in said.err, "message"
    assert said.err.count("\n") == 1, "more than one line"
    assert not said.out, "something was begun"


def test_help_lists_the_benchmarks(capsys):
    for words in ([], ["--help"]):
        assert main([*words]) == 0, "exit code"
        out = capsys.readouterr().out
        assert all(name in out for name in ("overhead", "throughput", "scaling", "solve")), "a benchmark is missing"


@pytest.mark.parametrize(
    "options",
    [OverheadOptions, BoardOptions, ThroughputOptions, ScalingOptions, SolveOptions],
    ids=lambda cls: cls.__name__,
)
def test_every_flag_is_listed(options):
    pages = (Path(__file__).parents[3] / "docs" / page for page in ("cli.md", "benchmarks.md"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    flags = {field.name.replace("_", "-") for field in dataclasses.fields(options)}
    assert flags - set(re.findall(r"`--([\w-]+)`", text)) == set(), "flags that the docs do not list"


def test_the_commands_of_the_page_are_understood():
    text = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    kinds = {"overhead": OverheadOptions, "board": BoardOptions, "throughput": ThroughputOptions}
    kinds |= {"scaling": ScalingOptions, "solve": SolveOptions, "successors": SuccessorsOptions}
    commands = re.findall(r"^    python scripts/benchmark.py (\w+) (-.*)$", text, re.MULTILINE)
    assert {name for name, _ in commands} == set(kinds), "a benchmark without a command"
    for name, words in commands:
        options = read_flags(kinds[name](), name, shlex.split(words))
        if name != "successors":  # its agent is looked for only when it runs
            options.check()
