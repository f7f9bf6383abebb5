"""Both clocks wait for an inbox; the manual one moves only by hand."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from enova.effects.clock import ManualClock, SystemClock


def test_an_item_ends_the_wait() -> None:
    for clock in (SystemClock(), ManualClock(), ManualClock(automatic=True)):
        inbox: SimpleQueue[str] = SimpleQueue()
        inbox.put("here")
        assert clock.take(inbox, 60.0) == "here"


def test_nothing_within_no_time_is_none() -> None:
    for clock in (SystemClock(), ManualClock(), ManualClock(automatic=True)):
        assert clock.take(SimpleQueue[str](), 0.0) is None


def test_time_moves_by_hand_and_wakes_only_who_is_due() -> None:
    clock = ManualClock(start=10.0)
    order: list[str] = []
    woken = threading.Event()

    def wait(name: str, seconds: float) -> None:
        clock.sleep(seconds)
        order.append(name)
        woken.set()

    threads = [threading.Thread(target=wait, args=("short", 5.0))]
    threads.append(threading.Thread(target=wait, args=("long", 50.0)))
    for thread in threads:
        thread.start()
    while clock.waiting() < 2:
        pass
    clock.advance(5.0)
    assert woken.wait(30.0)
    assert (order, clock.waiting(), clock.now()) == (["short"], 1, 15.0)
    clock.advance(45.0)
    for thread in threads:
        thread.join(30.0)
    assert order == ["short", "long"]


def test_the_automatic_clock_moves_to_the_end_of_each_wait() -> None:
    clock = ManualClock(start=0.0, automatic=True)
    clock.sleep(3.0)
    assert clock.take(SimpleQueue[str](), 4.0) is None
    assert clock.monotonic() == 7.0
