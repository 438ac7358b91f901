"""What type checkers see of the doors: mypy and pyright on snippets, and signatures equal to those of SB3."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from agents import ALL_ALGORITHMS

import rlsd
from rlsd.config import QUESTIONS

ROOT = Path(__file__).parent.parent
GOOD = """
import rlsd
from stable_baselines3 import PPO
agent = rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps=64, distill="snapshot", strength=0.3)
plain: PPO = agent.learn(100)
assert agent.distiller is not None
figures: dict[str, float] = agent.distiller.figures
loaded: PPO = rlsd.SelfDistilled(PPO).load("agent")
same: PPO = rlsd.distill(plain, "snapshot", strength=0.3)
callback = rlsd.SelfDistillation("snapshot", strength=0.3)
"""
BAD = """
import rlsd
from stable_baselines3 import PPO
rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_step=64)
rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", n_steps="many")
rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1", distil="snapshot")
rlsd.SelfDistilled(PPO)("MlpPolicy", "CartPole-v1").distillery
rlsd.distill("agent")
"""


def check(checker, tmp_path):
    """Run a type checker on both snippets; return the lines of each that it complains of."""
    files = {tmp_path / "good.py": GOOD, tmp_path / "bad.py": BAD}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    done = subprocess.run([*checker, *map(str, files)], capture_output=True, text=True, cwd=ROOT)
    complaints = re.findall(r"(good|bad)\.py:(\d+)(?::\d+)?(?:: | - )error", done.stdout)
    assert complaints, f"the checker said nothing of the errors: {done.stdout} {done.stderr}"
    return {name: sorted({int(line) for found, line in complaints if found == name}) for name in ("good", "bad")}


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright", "basedpyright"])
def test_a_type_checker_knows_the_doors(checker, tmp_path):
    words = {"mypy": [sys.executable, "-m", "mypy", "--strict"]}.get(checker)
    program = shutil.which(checker) or shutil.which(checker, path=str(Path(sys.executable).parent))
    if words is None and program is None:
        pytest.skip(f"{checker} is not installed")
    found = check(words or [program, "--pythonpath", sys.executable, "--level", "error"], tmp_path)
    assert found["good"] == [], "what is right is refused"
    assert found["bad"] == [4, 5, 6, 7, 8], "what is wrong is let through"


def written_down(name):
    tree = ast.parse((ROOT / "rlsd" / "typed.py").read_text(encoding="utf-8"))
    cls = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == f"Distilled{name}")
    return next(node for node in cls.body if isinstance(node, ast.FunctionDef)).args


@pytest.mark.parametrize("name", ALL_ALGORITHMS)
def test_the_constructor_that_is_written_down_is_that_of_the_algorithm_and_ours(name):
    cls = ALL_ALGORITHMS[name]
    theirs = [one for one in inspect.signature(cls).parameters if one != "_init_setup_model"]
    given = written_down(name)
    assert [one.arg for one in given.args[1:]] == theirs
    assert {one.arg for one in given.kwonlyargs} == {"distill", "speed", "rollout_device", "workers", *QUESTIONS}
    known = inspect.signature(rlsd.SelfDistilled(cls)).parameters
    assert {one.arg for one in given.args[1:] + given.kwonlyargs} == set(known) - {"_init_setup_model"}, "at run time"
