"""``scripts/benchmark.py successors``: what it makes, what it says of it, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from benchmarks.main import main
from benchmarks.successors import SuccessorsOptions

from rlsd.cli.main import main as rlsd_main

TINY = ["n_steps=64", "batch_size=64", "n_epochs=1"]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distilled agents, of which one keeps no states, and a plain one."""
    found = {}
    recipes = {"distilled": ("--recipe", "snapshot"), "mirrored": ("--recipe", "mirror"), "plain": ("--baseline",)}
    for name, words in recipes.items():
        folder = tmp_path_factory.mktemp(name)
        quiet = ["--no-progress", "--eval-freq", "0", "--save-freq", "0", "--eval-episodes", "1"]
        train = ["train", "--env", "CartPole-v1", "-n", "2048", "-f", str(folder), *quiet, *words, "-params", *TINY]
        assert rlsd_main(train) == 0
        found[name] = folder / "ppo" / "CartPole-v1_1" / "CartPole-v1.zip"
    return found


def _successors(*words: object) -> int:
    return main(["successors", *map(str, words), "--eval-episodes", "3", "--seeds", "0"])


@pytest.mark.filterwarnings("ignore")
def test_every_successor_is_made_judged_and_written(agents, tmp_path, capsys, monkeypatch):
    import rlsd
    from rlsd.students.rebirth import Reborn

    steps = {"compress": [], "reborn": []}
    compress = rlsd.compress
    few = {"steps": 20, "states": 256, "rounds": 2}
    monkeypatch.setattr(rlsd, "compress", lambda *a, **k: steps["compress"].append(k) or compress(*a, **few, **k))
    monkeypatch.setattr(rlsd, "Reborn", lambda kind: steps["reborn"].append(kind) or Reborn(kind=kind, steps=20))
    file = tmp_path / "successors.json"
    assert _successors("-i", agents["distilled"], "--net-arch", "4,4", "6", "--json", file) == 0
    data, out = json.loads(file.read_text()), capsys.readouterr().out
    names = [agent["name"] for agent in data["agents"]]
    kinds = ["fresh", "last_layers", "shrink_and_perturb"]
    assert names == ["teacher", "compressed to 4,4", "compressed to 6", *(f"reborn, {kind}" for kind in kinds)]
    assert all(name in out for name in names), "the table"
    teacher, four, six, *reborn = data["agents"]
    assert four["parameters"] < teacher["parameters"] / 10 and six["parameters"] < teacher["parameters"] / 10
    assert four["kept"] == pytest.approx(four["mean"] / teacher["mean"])
    assert steps["reborn"][-3:] == kinds and len(steps["compress"]) == 2
    for one in reborn:
        assert one["parameters"] == teacher["parameters"]
        assert one["took_over"] or one["mean"] == teacher["mean"], "an agent that stayed is the teacher"


@pytest.mark.parametrize("name", ["plain", "mirrored"])
def test_an_agent_without_states_can_be_compressed_but_not_reborn(name, agents, capsys):
    assert _successors("-i", agents[name], "--net-arch", "4") == 2
    error = capsys.readouterr().err.strip()
    assert "no stored states" in error and "\n" not in error


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "--trained-agent ZIP is missing"),
        (["-i", "nowhere.zip"], "nowhere.zip"),
        (["-i", "x.zip", "--net-arch", "16,b"], "--net-arch takes the sizes of hidden layers"),
        (["-i", "x.zip", "--net-arch", "0"], "--net-arch takes the sizes of hidden layers"),
    ],
)
def test_wrong_input_is_one_line(words, reason, capsys):
    assert _successors(*words) == 2
    error = capsys.readouterr().err.strip()
    assert reason in error and "\n" not in error


def test_an_unknown_kind_is_refused(agents, capsys):
    assert _successors("-i", agents["distilled"], "--kinds", "old") == 2
    assert "old" in capsys.readouterr().err


def test_every_flag_is_in_the_docs():
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    flags = {field.name.replace("_", "-") for field in dataclasses.fields(SuccessorsOptions)} - {"debug"}
    assert flags - set(re.findall(r"`--([\w-]+)`", page)) == set(), "flags that docs/benchmarks.md does not list"
