"""The README and the pages of docs/: their examples run, their links lead somewhere, nothing is left out.

A ``python`` block runs, after the blocks before it on the same page, unless its fence says ``python no-run``.
A ``yaml`` block that begins with a comment naming a file is that file.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import ALGORITHMS, small_agent
from stable_baselines3 import PPO

import rlsd
from rlsd import config
from rlsd.actors import base
from rlsd.cli.main import COMMANDS
from rlsd.cli.options import TrainOptions
from rlsd.presets import _RECIPES

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT / "docs", ROOT / "docs" / "recipes", ROOT / "docs" / "tutorials"]
PAGES = [ROOT / "README.md", *(page for folder in FOLDERS for page in sorted(folder.glob("*.md")))]

#: What a reader would write, and what shows as much in a test.
SHORTER = {
    "100_000": "300",
    "states=2000, steps=500": "states=200, steps=50",
    'PPO)("MlpPolicy", "CartPole-v1")': 'PPO)("MlpPolicy", "CartPole-v1", n_steps=128)',
    'PPO("MlpPolicy", "CartPole-v1")': 'PPO("MlpPolicy", "CartPole-v1", n_steps=128)',
    '"CartPole-v1", distill="remember")': '"CartPole-v1", n_steps=128, distill="remember")',
}


class Block(NamedTuple):
    """A fenced block: its language and marks, its text, and the line of the page on which it begins."""

    info: str
    text: str
    line: int


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w[^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1].strip(), match[2], text.count("\n", 0, match.start(2)))


def runnable(page):
    return [block for block in blocks(page) if block.info == "python"]


def text_of(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture
def own_registries(monkeypatch):
    """Let examples register answers and adapters that no other test sees."""
    copied = {question: dict(known) for question, known in config._REGISTRY.items()}
    monkeypatch.setattr(config, "_REGISTRY", copied)
    monkeypatch.setattr(base, "_ACTORS", dict(base._ACTORS))


def title(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=title)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, own_registries):
    if page.name == "algorithms.md":
        pytest.importorskip("sb3_contrib")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        named = re.match(r"# ([\w.-]+\.yml)\n", block.text)
        if block.info == "yaml" and named:
            Path(named[1]).write_text(block.text, encoding="utf-8")
        if block.info == "python":
            code = block.text
            for long, short in SHORTER.items():
                code = code.replace(long, short)
            # Empty lines ahead, so that a traceback names the page's own line.
            exec(compile("\n" * block.line + code, str(page), "exec"), namespace)


def test_the_errors_on_the_page_are_those_that_are_raised(capsys):
    found = re.search(
        r"^## Errors\n.*?^```python\n(.*?)^```\n\n((?:    [^\n]*\n)+)", text_of("config.md"), re.DOTALL | re.MULTILINE
    )
    exec(found[1], {"rlsd": rlsd})
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in found[2].splitlines()]


def test_the_glossary_has_every_metric_that_is_logged_and_no_other():
    gated = rlsd.Constant(gates="entropy_floor")
    pulling = rlsd.recipe("snapshot", teacher=rlsd.Snapshot(every=64), strength=gated)
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, seed=0, distill=pulling)
    agent.learn(256)
    explained = set(re.findall(r"^\| `(\w+/\w+)` \|", text_of("metrics.md"), re.MULTILINE))
    logged = set(agent.distiller.logged)
    others = [
        {"timing": "phase"},
        {"timing": "reborn", "strength": 1.0},
        {"teacher": {"type": "best", "every": 1, "episodes": 2}},
    ]
    for change in [
        *others,
        {"teacher": "peers"},
        {"teacher": "selective"},
        {"teacher": "remember", "states": "episodes"},
    ]:
        beside = pulling.changed(change)
        agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, seed=0, distill=beside)
        logged |= set(agent.learn(256).distiller.logged)
    assert logged - explained == set(), "metrics without a line in docs/metrics.md"
    assert explained - logged == set(), "docs/metrics.md explains metrics that are not logged"
    mentioned = {key for page in PAGES for key in re.findall(r"\bdistill/\w+", page.read_text(encoding="utf-8"))}
    assert mentioned <= explained, f"metrics that do not exist: {sorted(mentioned - explained)}"


@pytest.mark.parametrize(
    "cls",
    [cls for known in config._REGISTRY.values() for cls in known.values() if cls.__module__.startswith("rlsd.")],
    ids=lambda cls: f"{cls.question}-{cls.name}",
)
def test_every_answer_and_its_defaults_are_in_the_reference(cls):
    text = text_of("config.md")
    assert f"`{cls.name}`" in text, f"docs/config.md does not name the {cls.question} {cls.name!r}"
    for field in dataclasses.fields(cls):
        rows = re.findall(rf"^\|.*\| `{field.name}` \| ([^|]+) \|", text, re.MULTILINE)
        default = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        default = {"()": "none", "": "none"}.get(default, default)
        assert default in rows, f"docs/config.md gives {rows} as default of {cls.name}'s {field.name}, it is {default}"


def test_every_recipe_is_named_in_the_docs():
    missing = [name for name in rlsd.recipes() if not (ROOT / "docs" / "recipes" / f"{name}.md").is_file()]
    assert not missing, f"recipes without a page in docs/recipes: {missing}"


RECIPE_PAGES = [ROOT / "docs" / "recipes" / f"{name}.md" for name in rlsd.recipes()]
each_recipe_page = pytest.mark.parametrize("page", RECIPE_PAGES, ids=lambda page: page.stem)
SECTIONS = ["Notes", "Can I use it?", "Example", "Results", "How to replicate", "Parameters"]


def section(page, heading):
    return re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)[
        1
    ]


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in text.splitlines() if line[:3] == "| `"]


def test_every_recipe_has_a_page_and_the_index_leads_to_it():
    folder = ROOT / "docs" / "recipes"
    index = (folder / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w-]+)\.md\)", index))
    assert {page.stem for page in folder.glob("*.md")} - {"README"} == linked
    assert set(rlsd.recipes()) <= linked
    named = re.findall(r"^\| \[`(\w+)`\]\(\1\.md\)", index, re.MULTILINE)
    assert named == list(rlsd.recipes()), "the table has another order, or other recipes, than rlsd.recipes()"


@each_recipe_page
def test_a_recipes_page_says_what_every_page_says(page):
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {page.stem}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert f"--env CartPole-v1 --recipe {page.stem}" in section(page, "Example")
    results = section(page, "Results")
    assert results.strip() and "<!--" not in results, "say what was measured, or that nothing was"
    assert any(page.stem in line for line in section(page, "How to replicate").splitlines() if line[:4] == "    ")


@each_recipe_page
def test_the_parameters_of_a_recipes_page_are_the_recipes(page):
    wanted = rlsd.recipe(page.stem, **({"teacher": "teacher.zip"} if page.stem == "kickstart" else {}))
    shown = {name.strip("`"): value.strip("`") for name, value, _ in rows(section(page, "Parameters"))}
    for name, value in shown.items():
        question, _, field = name.partition(".")
        answer = getattr(wanted, question)
        found = getattr(answer, field) if field else answer.name
        if field == "gates":
            found = [f"{gate.name}`, margin {gate.margin:g}, width {gate.width:g}" for gate in answer.gates]
        text = ", ".join(map(_short, found)) if isinstance(found, (list, tuple)) else _short(found)
        assert value == text, f"{name} is {text}, docs/recipes/{page.name} says {value}"
    said = _RECIPES[page.stem].answers
    fields = {f"{question}.{key}" for question, given in said.items() for key in given} | set(said)
    unsaid = {name for name in fields if not name.endswith(".type")} - set(shown) - {"states.parts"}
    assert not unsaid, f"docs/recipes/{page.name} does not explain {sorted(unsaid)}"


def _short(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


@each_recipe_page
def test_the_algorithms_of_a_recipes_page_are_those_that_take_it(page):
    table = re.findall(r"^\| ([A-Z][^|]+) \| (yes|no)\b", section(page, "Can I use it?"), re.MULTILINE)
    said = {name.replace("-", ""): answer for names, answer in table for name in names.split(", ")}
    assert said.keys() == ALGORITHMS.keys()
    for name, answer in said.items():
        distill = page.stem
        if distill == "kickstart":
            teacher = small_agent("PPO" if name == "RecurrentPPO" else name)
            distill = rlsd.recipe("kickstart", teacher=teacher)
        refused = None
        try:
            small_agent(name, wrap=rlsd.SelfDistilled, distill=distill)
        except TypeError as error:
            refused = error
        assert answer == ("yes" if refused is None else "no"), f"{name}: {refused}"


def test_every_command_is_on_the_page_of_commands():
    missing = [name for name in COMMANDS if not re.search(rf"`(rlsd )?{name}\b", text_of("commands.md"))]
    assert not missing, f"commands that docs/commands.md does not name: {missing}"


def test_every_flag_of_train_is_listed():
    listed = set(re.findall(r"`--([\w-]+)`", text_of("cli.md")))
    flags = {field.name.replace("_", "-") for field in dataclasses.fields(TrainOptions)}
    assert flags - listed == set(), "flags of rlsd train that docs/cli.md does not list"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=title)
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if not re.match(r"\w+:", target)]
    dead = [target for target in local if target and not (page.parent / target).exists()]
    assert not dead, f"{page.name} links to what is not there: {dead}"


def test_the_readme_or_the_sites_index_leads_to_every_page():
    linked = set(re.findall(r"\]\((docs/[\w./-]+\.md)\)", PAGES[0].read_text(encoding="utf-8")))
    linked |= {f"docs/{name}.md" for name in re.findall(r"^([\w/]+)$", text_of("index.md"), re.MULTILINE)}
    top = {title(page) for page in PAGES[1:] if page.parent.name != "recipes" or page.name == "README.md"}
    missing = top - linked - {"docs/index.md"}
    assert not missing, f"pages that neither the README nor docs/index.md leads to: {missing}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb")
    words = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^\.\. auto\w+:: rlsd\.(\w+)$", text_of("api.md"), re.MULTILINE)
    assert sorted(found) == sorted({*rlsd.__all__} - {"__version__"}), "docs/api.md has not each public name once"
    assert "learning_rate" in (tmp_path / "api.html").read_text(encoding="utf-8"), "the docstrings are missing"


@pytest.mark.parametrize("path", sorted((ROOT / "docs/results").glob("*.json")), ids=lambda path: path.name)
def test_committed_results_name_no_folder_of_the_machine_that_measured_them(path: Path) -> None:
    found = re.findall(r"[\s\"'=](/[\w.-]+/[\w./-]+)", path.read_text(encoding="utf-8"))
    assert not found, found


def test_measured_figures_are_those_of_the_committed_files() -> None:
    page = text_of("results.md")
    measured = [*(ROOT / "docs/results").glob("overhead-*.json"), *(ROOT / "docs/results").glob("throughput-*.json")]
    for path in [*measured, *(ROOT / "docs/results").glob("solve-*.json")]:
        found = json.loads(path.read_text(encoding="utf-8"))
        ratio = found["wall_ratio"]
        figures = f"{ratio['median']:.3f} ({ratio['minimum']:.3f} to {ratio['maximum']:.3f}"
        assert figures in page, f"docs/results.md does not give {path.name} as {figures}"
    kept = json.loads((ROOT / "docs/results/retention-cartpole-ppo-40.json").read_text(encoding="utf-8"))["summary"]
    figures = f"`selective` {kept['selective']['greedy']['both']}, plain SB3 {kept['baseline']['greedy']['both']}"
    assert figures in page, f"docs/results.md does not give retention as {figures}"
    for name in ("cartpole-dqn", "pendulum-sac"):
        kept = json.loads((ROOT / f"docs/results/retention-{name}.json").read_text(encoding="utf-8"))["summary"]
        both = {variant: kept[variant]["greedy"]["both"] for variant in ("selective", "baseline")}
        figures = f"`selective` {both['selective']} of 10, plain SB3 {both['baseline']}"
        assert figures in page, f"docs/results.md does not give {name} as {figures}"
    results = json.loads((ROOT / "docs/results/acrobot-seeds-100-109.json").read_text(encoding="utf-8"))["results"]
    for variant, words in (("default", "`guard`"), ("baseline", "plain SB3")):
        finals = [result["final"] for result in results if result["variant"] == variant]
        figures = f"{words} {sum(finals) / len(finals):.1f} / {min(finals):.1f}"
        assert figures in page, f"docs/results.md does not give Acrobot's {figures}"


def test_the_readmes_figures_are_those_of_the_results() -> None:
    readme, page = (ROOT / "README.md").read_text(encoding="utf-8"), text_of("results.md")
    stated = ("`selective` 32, plain SB3 0", "2.263 (2.000 to 2.304)", "-83.1 / -87.2", "0.25", "39, plain SB3 3")
    for figures in stated:
        assert figures in readme and figures in page, f"{figures} is not on both pages"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=title)
def test_a_module_that_a_page_names_is_there(page):
    text = re.sub(r"```python\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"(?<![\w/.-])((?:[a-z_]+/)*[a-z_]+\.py)(?=[`<,\s)])", text)) - {"my_module.py"}
    places = [ROOT, ROOT / "rlsd", ROOT / "scripts" / "benchmarks", ROOT / "scripts" / "experiments", page.parent]
    gone = sorted(name for name in named if not any((place / name).exists() for place in places))
    assert not gone, f"{page.name} names what is not there: {gone}"
