"""Nothing that is said ends what is being done."""

import io
import os
import subprocess
import sys

import pytest

from rlsd.cli.console import say, swallowing, warn

SPEAKING = [(say, "stdout"), (warn, "stderr")]


@pytest.mark.parametrize(("speak", "name"), SPEAKING)
def test_a_reader_that_has_gone_stops_nothing(monkeypatch, speak, name):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, name, swallowing(pipe))
        speak("heard")
        assert os.read(reader, 100) == b"heard\n", "while somebody reads"
        os.close(reader)
        for _ in range(3):
            speak("unheard")
            print("by somebody else", file=getattr(sys, name), flush=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize(("speak", "name"), SPEAKING)
def test_a_full_disk_stops_nothing(monkeypatch, speak, name):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, name, swallowing(full))
        for _ in range(3):
            speak("lost")
            print("lost, too" * 10_000, file=getattr(sys, name), flush=True)


@pytest.mark.parametrize(("speak", "name"), SPEAKING)
def test_no_stream_and_a_closed_one_stop_nothing(monkeypatch, speak, name):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, name, stream)
        speak("unheard")
        with swallowing(stream) as nowhere:
            nowhere.write("unheard")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_knows_no_plus_minus_stops_nothing(tmp_path, encoding):
    file = tmp_path / "terminal"
    with file.open("w", encoding=encoding) as stream:
        swallowing(stream).write("1.00 ± 0.50 µs 猫\n")
    assert file.read_bytes().startswith(b"1.00 "), "nothing is left"


def test_what_reads_a_terminal_sees_it_through(tmp_path):
    with (tmp_path / "terminal").open("w") as stream:
        other = swallowing(stream)
        assert (other.fileno(), other.isatty(), other.name) == (stream.fileno(), False, stream.name)


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_a_process_without_a_stream_gives_its_number_to_no_file(tmp_path, closed):
    code = """
import os, sys
for number in sys.argv[2].split(): os.close(int(number))
for name in ("stdin", "stdout", "stderr"):
    if str(("stdin", "stdout", "stderr").index(name)) in sys.argv[2]: setattr(sys, name, None)
from rlsd.cli.console import swallow_failures
swallow_failures()
with open(sys.argv[1], "w") as file:
    print("said"), print("said", file=sys.stderr)
    for number in (1, 2): os.write(number, b"said by C")
    assert file.fileno() > 2
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file"), closed], env=environment, check=True)
    assert (tmp_path / "file").read_bytes() == b"", "what was said is in a file"
