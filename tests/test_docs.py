"""The README and the pages of docs/: their examples run, their links lead somewhere, nothing is left out.

A ``python`` block runs, after the blocks before it on the same page, unless its fence says ``python no-run``.
A ``yaml`` block that begins with a comment naming a file is that file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from stable_baselines3 import PPO

import rlsd
from rlsd import config
from rlsd.actors import base
from rlsd.cli.options import TrainOptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: What a reader would write, and what shows as much in a test.
SHORTER = {"100_000": "300"}


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


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
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


def test_the_glossary_has_every_figure_that_is_logged_and_no_other():
    pulling = rlsd.recipe("snapshot", teacher=rlsd.Snapshot(every=64))
    agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, seed=0, distill=pulling)
    agent.learn(256)
    explained = set(re.findall(r"^\| `(\w+/\w+)` \|", text_of("metrics.md"), re.MULTILINE))
    logged = set(agent.distiller.figures)
    assert logged - explained == set(), "figures without a line in docs/metrics.md"
    assert explained - logged == set(), "docs/metrics.md explains figures that are not logged"
    mentioned = {key for page in PAGES for key in re.findall(r"\bdistill/\w+", page.read_text(encoding="utf-8"))}
    assert mentioned <= explained, f"figures that do not exist: {sorted(mentioned - explained)}"


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
        default = {"()": "none"}.get(default, default)
        assert default in rows, f"docs/config.md gives {rows} as default of {cls.name}'s {field.name}, it is {default}"


def test_every_recipe_is_named_in_the_docs():
    text = text_of("config.md") + text_of("defaults.md")
    missing = [name for name in rlsd.recipes() if f"`{name}`" not in text and f'"{name}"' not in text]
    assert not missing, f"recipes that neither docs/config.md nor docs/defaults.md names: {missing}"


def test_every_flag_of_train_is_listed():
    listed = set(re.findall(r"`--([\w-]+)`", text_of("cli.md")))
    flags = {field.name.replace("_", "-") for field in dataclasses.fields(TrainOptions)}
    assert flags - listed == set(), "flags of rlsd train that docs/cli.md does not list"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [target.partition("#")[0] for target in targets if not re.match(r"\w+:", target)]
    dead = [target for target in local if target and not (page.parent / target).exists()]
    assert not dead, f"{page.name} links to what is not there: {dead}"


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\(docs/([\w.-]+\.md)\)", PAGES[0].read_text(encoding="utf-8")))
    missing = {page.name for page in PAGES[1:]} - linked
    assert not missing, f"pages that the README does not link to: {missing}"


def test_the_readmes_measured_figures_are_those_of_the_committed_files() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("overhead-default", "overhead-snapshot"):
        ratio = json.loads((ROOT / f"docs/results/{name}.json").read_text(encoding="utf-8"))["wall_ratio"]
        figures = f"{ratio['median']:.3f} ({ratio['minimum']:.3f} to {ratio['maximum']:.3f}"
        assert figures in readme, f"README does not give {name} as {figures}"
    results = json.loads((ROOT / "docs/results/acrobot-seeds-100-109.json").read_text(encoding="utf-8"))["results"]
    for variant, words in (("default", "default"), ("baseline", "plain SB3")):
        finals = [result["final"] for result in results if result["variant"] == variant]
        figures = f"{words} {sum(finals) / len(finals):.1f} / {min(finals):.1f}"
        assert figures in readme, f"README does not give Acrobot's {figures}"
