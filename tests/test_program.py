"""``rlsd`` before anything of it is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rlsd_program


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_midst_of_imports_is_no_traceback(tmp_path, number):
    package = tmp_path / "rlsd" / "cli"
    package.mkdir(parents=True)
    (tmp_path / "rlsd" / "__init__.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    for name in ("__init__", "main"):
        (package / f"{name}.py").touch()
    paths = os.pathsep.join([str(tmp_path), str(Path(rlsd_program.__file__).parent)])
    environment = os.environ | {"PYTHONPATH": paths}
    words = [sys.executable, "-m", "rlsd_program"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped\n"), done
