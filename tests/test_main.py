"""``rlsd`` before anything of it is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rlsd


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_midst_of_imports_is_no_traceback(tmp_path, number):
    # What the command line imports first tells of it as the imports are under way.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'rlsd.cli.main': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    paths = [str(tmp_path), str(Path(rlsd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    words = [sys.executable, "-m", "rlsd"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped\n"), done
