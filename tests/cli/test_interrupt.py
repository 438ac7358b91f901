"""The first Ctrl-C asks, the second insists."""

import os
import signal

import pytest

from rlsd.cli import interrupt
from rlsd.cli.interrupt import SIGNALS, TOGETHER, on_signals, stop_on_signals


@pytest.fixture
def later(monkeypatch):
    """Lets time pass: a function to be called between signals that do not come together."""
    now = [0.0]
    monkeypatch.setattr(interrupt.time, "monotonic", lambda: now[0])

    def pass_by(seconds=2 * TOGETHER):
        now[0] += seconds

    return pass_by


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_stops(number, capsys, later):
    asked = []
    with pytest.raises(KeyboardInterrupt), stop_on_signals(lambda: asked.append(1)) as stopping:  # noqa: PT012 - in order
        assert not stopping(), "nobody asked"
        os.kill(os.getpid(), number)
        assert asked == [1], "the first signal did not ask"
        assert stopping(), "it is not remembered"
        assert "to save" in capsys.readouterr().err, "nobody was told"
        later()
        os.kill(os.getpid(), number)
    assert asked == [1], "asked twice"


def test_signals_that_come_together_are_one_wish(later):
    """``timeout`` sends one to the process and one to its group."""
    asked = []
    with stop_on_signals(lambda: asked.append(1)):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
            later(0.9 * TOGETHER)  # each soon after the one before
    assert asked == [1], "they were taken for several"


def test_a_signal_whose_echo_comes_at_the_next_stage_is_one_wish_there_too(later):
    with stop_on_signals(lambda: None):
        os.kill(os.getpid(), signal.SIGTERM)
    with on_signals(interrupt.interrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        later()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_forked_worker_leaves_signals_to_the_main_process(later):
    with on_signals(interrupt.interrupt):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, "it did not live on"


def test_what_nohup_ignores_stays_ignored(later):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals(interrupt.interrupt):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_from_before_are_put_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError), stop_on_signals(lambda: None):
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before, "a handler stayed"
