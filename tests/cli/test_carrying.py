"""What Ctrl-C does: it ends a verb that has not begun, and asks one that has to finish."""

from __future__ import annotations

import signal

import pytest

from enova.cli.carrying import stopping_on_signals
from enova.effects.stop import StopFlag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_the_first_action_it_interrupts(number: signal.Signals) -> None:
    stop = StopFlag()
    with pytest.raises(KeyboardInterrupt), stopping_on_signals(stop):
        signal.raise_signal(number)
    assert not stop.requested


def test_afterwards_it_asks_once_and_then_insists() -> None:
    stop = StopFlag()
    with stopping_on_signals(stop) as begun:
        begun()
        signal.raise_signal(signal.SIGINT)
        assert (stop.requested, stop.now) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert stop.now


def test_the_former_treatment_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stopping_on_signals(StopFlag()):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
