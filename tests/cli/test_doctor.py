"""``rlsd doctor``."""

import pytest

import rlsd
from rlsd.cli import doctor
from rlsd.cli.extras import EXTRAS
from rlsd.cli.main import main


def test_it_tells_versions_devices_and_extras(capsys):
    assert main(["doctor", "--no-speed"]) == 0
    said = capsys.readouterr().out
    for text in (rlsd.__version__, "torch 2", "devices   cpu", "threads", "dummy", *EXTRAS):
        assert text in said, f"{text!r} is not said"
    assert "speed" not in said, "it was not asked for"


def test_a_missing_extra_comes_with_the_way_to_install_it(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "missing", lambda extra: ["envpool"] if extra == "fast" else [])
    assert main(["doctor", "--no-speed"]) == 0
    said = capsys.readouterr().out
    assert "envpool missing: pip install 'rlsd[fast]'" in said and "envpool (missing)" in said


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_speed_is_compared_with_plain_sb3(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_STEPS", 64)
    assert main(["doctor"]) == 0
    assert "steps/s" in (said := capsys.readouterr().out) and "times plain SB3's" in said
