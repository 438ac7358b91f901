"""The notebooks of docs/notebooks: they execute, their outputs are clean, their links lead somewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def shown(notebook):
    """The kind of each output, cell by cell."""
    return [[output["output_type"] for output in cell["outputs"]] for cell in cells(notebook, "code")]


@each_notebook
def test_a_notebooks_outputs_are_small_and_name_no_folder_of_the_machine(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 10_000, "outputs are committed: keep them small"
    outputs = json.dumps([cell["outputs"] for cell in cells(json.loads(text), "code")])
    assert not re.findall(r"(?<![\w.])(?:\.\./|/)[\w.-]+/[\w./-]+", outputs)
    assert any(map(len, shown(json.loads(text)))), "it was never executed"


@each_notebook
def test_the_site_and_the_readme_lead_to_a_notebook_and_its_links_lead_somewhere(path):
    assert f"notebooks/{path.stem}\n" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"](docs/notebooks/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")
    texts = ["".join(cell["source"]) for cell in cells(json.loads(path.read_text(encoding="utf-8")), "markdown")]
    targets = re.findall(r"\]\(([^)\s]+)\)", "\n".join(texts))
    assert targets and not [target for target in targets if not (path.parent / target).exists()]


@pytest.mark.slow
@each_notebook
def test_a_notebook_executes_and_shows_what_is_committed(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install 'rlsd[docs]'")
    nbformat = pytest.importorskip("nbformat", reason="pip install 'rlsd[docs]'")
    pytest.importorskip("ipykernel", reason="pip install 'rlsd[docs]'")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    notebook = nbformat.read(path, as_version=4)
    committed = shown(notebook)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in cells(notebook, "code"):
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
    assert [kinds[:1] for kinds in shown(notebook)] == [kinds[:1] for kinds in committed]
    if path.stem == "keep":
        values = [
            output["data"]["text/plain"]
            for cell in cells(notebook, "code")
            for output in cell["outputs"]
            if "data" in output
        ]
        plain, ours = map(ast.literal_eval, values)
        assert plain["first"] < 100 < 400 < min(ours.values()), "the difference that the notebook is about"
