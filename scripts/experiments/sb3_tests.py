"""Run the tests of Stable-Baselines3's repository, or of sb3-contrib's, with every algorithm wrapped by rlsd.

    git clone --depth 1 https://github.com/DLR-RM/stable-baselines3 /tmp/stable-baselines3
    python scripts/experiments/sb3_tests.py /tmp/stable-baselines3
    python scripts/experiments/sb3_tests.py /tmp/stable-baselines3 --recipes snapshot -- -k "predict or save"

For each recipe the tests run with ``PPO`` and all the others exchanged for ``rlsd.SelfDistilled(PPO)``. What does not
pass there runs once more in plain SB3, where it may fail too, for instance for a package that is missing. Only the
checkout's ``tests/`` are used: what they test is the SB3 that is installed. They need pandas and matplotlib beside what
rlsd asks for, and take about a quarter of an hour of one core for each recipe.

Exits with 1 when a test differs for a reason that is not in :data:`KNOWN`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: How this file tells itself, as a plugin of pytest in a child process, what to wrap the algorithms with.
RECIPE, EVERY = "RLSD_SB3_TESTS_RECIPE", "RLSD_SB3_TESTS_EVERY"
PLAIN, NONE = "plain", "none"

#: Tests that may differ, by a pattern of their names, and why.
KNOWN: dict[str, str] = {
    r"test_her\.py::test_performance|test_identity\.py": "must learn in few steps, which a snapshot every 64 slows",
}


def main() -> int:
    """Run the tests wrapped, and print what differs from plain SB3."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=Path, help="a checkout of stable-baselines3 or stable-baselines3-contrib")
    parser.add_argument("--recipes", default="guard,snapshot", help="what to wrap with, separated by commas, or 'none'")
    parser.add_argument("--every", type=int, default=64, help="environment steps from one snapshot to the next")
    arguments, rest = parser.parse_known_args()
    rest = [argument for argument in rest if argument != "--"]
    unknown = 0
    with tempfile.TemporaryDirectory() as folder:
        tests = copied(arguments.checkout, Path(folder, "checkout"))
        for recipe in arguments.recipes.split(","):
            wrapped = run(tests, recipe, arguments.every, ["tests", *rest])
            failed = [test for test, outcome in wrapped.items() if outcome == "failed"]
            plain = run(tests, PLAIN, arguments.every, failed) if failed else {}
            differing = [test for test in failed if plain.get(test) != "failed"]
            counts = Counter(wrapped.values())
            print(f"{recipe}: {counts['passed']} passed, {counts['skipped']} skipped, ", end="")
            print(f"{len(failed) - len(differing)} failed in plain SB3 too, {len(differing)} differ")
            for test in differing:
                reason = next((why for pattern, why in KNOWN.items() if re.search(pattern, test)), None)
                unknown += reason is None
                print(f"  {test}: {reason or 'not known why'}")
    return 1 if unknown else 0


def copied(checkout: Path, folder: Path) -> Path:
    """Copy a checkout's tests and their settings to where its own, other version of SB3 cannot be imported."""
    if not (checkout / "tests").is_dir():
        raise SystemExit(f"{checkout} is no checkout of SB3: it has no folder tests/")
    shutil.copytree(checkout / "tests", folder / "tests")
    shutil.copy(checkout / "pyproject.toml", folder)
    return folder


def run(folder: Path, recipe: str, every: int, what: list[str]) -> dict[str, str]:
    """Run tests in a child process, and return what came of each."""
    here = Path(__file__).resolve().parent
    path = os.pathsep.join(filter(None, [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, RECIPE: recipe, EVERY: str(every), "PYTHONHASHSEED": "0"}
    # -P: the folder that it runs in is no place to import from.
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "sb3_tests", "-p", "no:cacheprovider"]
    options = ["--tb=short", "--junitxml=report.xml", "-o", "junit_family=xunit1"]
    subprocess.run([*command, *options, *what], cwd=folder, env=environment, check=False)
    found = {}
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        module, _, cls = case.get("classname", "").partition(".Test")
        name = f"Test{cls}::{case.get('name')}" if cls else case.get("name", "")
        # A file that cannot be imported is one case, named after the module.
        test = f"{module.replace('.', '/')}.py::{name}" if module else f"{name.replace('.', '/')}.py"
        tags = [tag for tag in ("failure", "error", "skipped") if case.find(tag) is not None]
        found[test] = {"failure": "failed", "error": "failed", "skipped": "skipped"}[tags[0]] if tags else "passed"
    return found


def pytest_configure(config: Any) -> None:
    """Exchange the algorithms before the tests import them. Only a child of this script sees the recipe."""
    recipe = os.environ.get(RECIPE, PLAIN)
    if recipe == PLAIN:
        return
    import rlsd

    # `rlsd.recipes` is the function of that name.
    answers, wrapping = importlib.import_module("rlsd.presets"), importlib.import_module("rlsd.wrapping")
    every = int(os.environ[EVERY])

    def resolve(distill: Any, algorithm: type[Any], changes: Any = None) -> Any:
        if distill is True:
            distill = None if recipe == NONE else answers.resolve(recipe, algorithm)
            if getattr(getattr(distill, "teacher", None), "every", 0) > every:  # the tests train for some hundred steps
                distill = distill.changed({"teacher.every": every})
        return answers.resolve(distill, algorithm, changes)

    wrapping.resolve = resolve  # type: ignore[attr-defined]
    exchange(rlsd.SelfDistilled)


def exchange(wrap: Callable[[type[Any]], type[Any]]) -> None:
    """Put the wrapped algorithm wherever SB3's packages name one, but for the module that defines it."""
    names = "stable_baselines3", "sb3_contrib"
    base = importlib.import_module("stable_baselines3.common.base_class").BaseAlgorithm
    packages = [importlib.import_module(name) for name in names]
    things = [thing for package in packages for thing in vars(package).values() if isinstance(thing, type)]
    wrapped = {thing: wrap(thing) for thing in things if issubclass(thing, base)}
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in names]:
        for name, thing in [*vars(module).items()]:
            if isinstance(thing, type) and thing in wrapped and thing.__module__ != module.__name__:
                setattr(module, name, wrapped[thing])


if __name__ == "__main__":
    sys.exit(main())
