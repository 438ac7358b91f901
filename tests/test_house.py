"""The shape of the house: what the rules of CONTRIBUTING.md say about files and imports, read from the source."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rlsd
from rlsd.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 400

# From the ground up. A module imports from its own layer or from one below; what holds a folder holds all within it.
LAYERS = (
    {"rlsd.version", "rlsd.plain", "rlsd.config", "rlsd.several"},
    {"rlsd.distributions", "rlsd.observations", "rlsd.actors", "rlsd.divergences", "rlsd.returns"}
    | {"rlsd.clock", "rlsd.faults", "rlsd.memory", "rlsd.devices", "rlsd.optimizers", "rlsd.rng"}
    | {"rlsd.described", "rlsd.hooks", "rlsd.acceleration", "rlsd.behaviour"}
    | {"rlsd.io", "rlsd.torch_family", "rlsd.chunks", "rlsd.change", "rlsd.betting"},
    {"rlsd.teachers", "rlsd.states", "rlsd.sources", "rlsd.recording", "rlsd.strength", "rlsd.gates", "rlsd.timing"}
    | {"rlsd.episodes", "rlsd.collecting"},
    {
        "rlsd.targets",
        "rlsd.injection",
        "rlsd.critic_first",
        "rlsd.acting_teacher",
        "rlsd.penalty",
        "rlsd.distiller",
        "rlsd.metrics",
    }
    | {"rlsd.distillers", "rlsd.weight_average", "rlsd.plain_copy", "rlsd.algorithms"},
    {"rlsd.io.checkpoint", "rlsd.io.sharing"},
    {"rlsd.wrapping", "rlsd.callback", "rlsd.offering", "rlsd.io.resume", "rlsd.presets", "rlsd.together"}
    | {"rlsd.zoo_registration", "rlsd.zoo"}
    | {"rlsd.averaging", "rlsd.environment_state", "rlsd.io.weights"},
    {"rlsd.speed", "rlsd.students"},
    {"rlsd.scaling", "rlsd.typed"},
    {"rlsd.api"},
    {"rlsd", "rlsd.cli"},
    {"rlsd.__main__"},
)


def modules(folder: Path) -> dict[str, Path]:
    """Dotted name and file of every module of a package."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(name: str, path: Path) -> set[str]:
    """Every dotted name a module imports, wherever in the file: an import inside a function is an arrow too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def nearest_module(name: str, known: dict[str, Path]) -> str | None:
    """The module that holds a dotted name: ``rlsd.config.Answer`` is in ``rlsd.config``."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


INSTALLED = importlib.metadata.packages_distributions()
LIBRARY = modules(ROOT / "rlsd")
TASKS = modules(ROOT / "envs" / "rlsd_envs")
IMPORTS = {name: imported_names(name, path) for name, path in {**LIBRARY, **TASKS}.items()}
ARROWS = {name: {nearest_module(target, LIBRARY) for target in IMPORTS[name]} - {None, name} for name in LIBRARY}


def layer(name: str) -> int | None:
    """The number of a module's layer, its own or that of the folder it is in. The root holds only itself."""
    if name == "rlsd":
        return next(i for i, names in enumerate(LAYERS) if name in names)
    while name != "rlsd":
        for number, names in enumerate(LAYERS):
            if name in names:
                return number
        name = name.rpartition(".")[0]
    return None


def distributions(module: str) -> set[str]:
    """The normalised names of the distributions that a top-level module may come from."""
    return {normalised(name) for name in INSTALLED.get(module, [module])}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """The normalised names of the dependencies in pyproject.toml, with those of the extras named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return {normalised(re.match(r"[\w.-]+", line).group()) for lines in lists for line in lines}


def foreign_imports(names: dict[str, Path], allowed: set[str], own: set[str]) -> list[str]:
    """Imports of ``names`` that come neither from Python, nor from ``own``, nor from an allowed distribution."""
    return [
        f"{name} imports {target}"
        for name in names
        for target in sorted(IMPORTS[name])
        for top in [target.partition(".")[0]]
        if top not in own and top not in sys.stdlib_module_names and not distributions(top) & allowed
    ]


def test_the_reader_of_imports_sees_every_kind_of_import(tmp_path):
    path = tmp_path / "middle.py"
    path.write_text("import a.b\nfrom . import near\nfrom ..up import x\ndef f():\n    from c import d\n")
    assert imported_names("pkg.sub.middle", path) == {"a.b", "pkg.sub.near", "pkg.up.x", "c.d"}, "an import was missed"


def test_no_module_of_rlsd_imports_itself_through_others():
    try:
        TopologicalSorter(ARROWS).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle (each is imported by the next): {' -> '.join(error.args[1])}")


def test_every_module_of_rlsd_is_in_a_layer():
    homeless = [name for name in LIBRARY if layer(name) is None]
    assert not homeless, f"say in LAYERS where these belong: {homeless}"


def test_imports_in_rlsd_go_downward_only():
    upward = [
        f"{name} imports {target}"
        for name, targets in ARROWS.items()
        for target in sorted(targets)
        if (layer(name) or 0) < (layer(target) or 0)
    ]
    assert not upward, f"imports that go upward: {upward}"


def test_the_core_imports_nothing_that_is_optional():
    optional = ("rlsd.speed", "rlsd.students", "rlsd.scaling", "rlsd.cli")
    core = [name for name in LIBRARY if layer(name) < min(map(layer, optional))]
    assert {"rlsd.wrapping", "rlsd.presets", "rlsd.distiller", "rlsd.io.resume"} <= {*core}, "that is not the core"
    arrows = [f"{name} imports {target}" for name in core for target in ARROWS[name] if target.startswith(optional)]
    assert not arrows, f"the core must do without: {arrows}"


def folder(name: str) -> str | None:
    """The folder of rlsd that a module is in, None for those beside the folders."""
    parts = (name if LIBRARY[name].name == "__init__.py" else name.rpartition(".")[0]).split(".")
    return parts[1] if len(parts) > 1 else None


def test_no_two_folders_import_each_other():
    between = {(folder(name), folder(target)) for name, targets in ARROWS.items() for target in targets}
    both = sorted({(a, b) for a, b in between if a and b and a < b and (b, a) in between})
    assert not both, f"folders that import each other: {both}"


def test_a_file_is_short_enough_to_read():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in {**LIBRARY, **TASKS}.items()}
    long = {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}
    assert not long, f"these hold more than one concept: {long}"


def test_the_library_imports_no_particular_environment():
    library = {name: path for name, path in LIBRARY.items() if not name.startswith("rlsd.cli")}
    foreign = foreign_imports(library, declared("contrib"), own={"rlsd"})
    foreign += [
        f"{name} imports {target}" for name in library for target in IMPORTS[name] if "gymnasium.envs" in target
    ]
    assert not foreign, f"below the command line rlsd knows SB3 and no environment: {foreign}"


def test_the_command_line_imports_only_what_is_declared():
    extras = ("contrib", "export", "plots", "video", "tune", "ray", "hub", "track")
    line = {name: path for name, path in LIBRARY.items() if name.startswith("rlsd.cli")}
    foreign = foreign_imports(line, declared(*extras), own={"rlsd", "rlsd_envs"})
    assert not foreign, f"not in the dependencies of pyproject.toml: {foreign}"


def test_the_environments_know_nothing_of_distillation():
    foreign = foreign_imports(TASKS, declared("envs", "fast"), own={"rlsd_envs"})
    assert not foreign, f"rlsd_envs imports what it should not know or what is not declared: {foreign}"


def test_no_package_called_envs_is_made():
    assert not (ROOT / "envs" / "__init__.py").exists(), "envs/ is a folder; the package is envs/rlsd_envs"


@pytest.mark.parametrize("package", ["rlsd", "envs/rlsd_envs"])
def test_a_package_says_that_it_is_typed(package):
    assert (ROOT / package / "py.typed").is_file(), f"{package}/py.typed is missing"


def test_versions_agree():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    logged = re.search(r"^## Release (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert cited is not None, "CITATION.cff names no version"
    assert logged is not None, "CHANGELOG.md names no release"
    assert cited.group(1) == rlsd.__version__, "CITATION.cff and rlsd.__version__ differ"
    assert logged.group(1) == rlsd.__version__, "the newest release of CHANGELOG.md is not rlsd.__version__"


def test_no_public_name_is_that_of_a_module():
    # A module's name becomes an attribute of the package when it is imported, and would hide the public one.
    modules = {name.split(".")[1] for name in LIBRARY if "." in name}
    assert not modules & {*rlsd.__all__} - {"__version__"}, "a public name and a module are called the same"


EVERY_COMMAND = ", ".join(command.module for command in COMMANDS.values())


@pytest.mark.parametrize("package", ["rlsd", "rlsd_envs", EVERY_COMMAND], ids=["rlsd", "rlsd_envs", "commands"])
def test_neither_package_imports_torch_before_something_of_it_is_used(package):
    heavy = "{'torch', 'stable_baselines3'} & sys.modules.keys()"
    code = f"import sys, {package}; sys.exit(' '.join({heavy}) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"import {package} imports {done.stderr}"
