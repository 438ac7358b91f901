"""Settings of the command line's tests."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rlsd.cli import interrupt, session
from rlsd.cli.main import main
from rlsd_envs.lifeline import SIGNALS


@pytest.fixture(autouse=True)
def _long_after_the_last_signal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no signal come together with that of the test before, and ``nohup`` and ``&`` ignore none of them."""
    monkeypatch.setattr(interrupt, "_last_signal", -math.inf)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def short_end() -> Iterator[None]:
    """Judge final agents by 2 episodes: the 20 of a run are tested in test_train.py, and are long in some tasks."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "FINAL_EPISODES", 2)
        yield


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with normalised observations and two evaluations; to be read only."""
    logs = tmp_path_factory.mktemp("small") / "logs"
    words = ["--env", "CartPole-v1", "-n", "256", "--n-envs", "2", "--no-progress", "-f", str(logs)]
    params = ["-params", "normalize:true", "n_steps:64", "batch_size:64"]
    evaluated = ["--eval-freq", "128", "--eval-episodes", "2", "--n-eval-envs", "2"]
    threads = torch.get_num_threads()
    assert main(["train", *words, *evaluated, *params]) == 0
    torch.set_num_threads(threads)
    return logs / "ppo" / "CartPole-v1_1"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must refuse its input, and return the one line that says why."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main(words) == 2, f"exit code of {words}"
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1, f"not one line: {said}"
        return said

    return run
