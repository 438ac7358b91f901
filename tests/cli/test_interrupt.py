"""The first Ctrl-C asks, the second insists."""

import os
import signal

import pytest

from rlsd.cli.interrupt import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops(number, capsys):
    asked = []
    with pytest.raises(KeyboardInterrupt), stop_on_signals(lambda: asked.append(1)):  # noqa: PT012 - in this order
        os.kill(os.getpid(), number)
        assert asked == [1], "the first signal did not ask"
        assert "to save" in capsys.readouterr().err, "nobody was told"
        os.kill(os.getpid(), number)
    assert asked == [1], "asked twice"


def test_the_handlers_from_before_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), stop_on_signals(lambda: None):
        raise RuntimeError
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before, "a handler stayed"
