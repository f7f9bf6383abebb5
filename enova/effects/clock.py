"""Time and waiting, as one thing that is passed in: the real clock here, a hand-driven one beside.

Everything outside the pure folders that needs to know the time or to wait takes a ``Clock``.
Waiting is always waiting *for something*: an inbox that another thread or a signal handler fills
(``SimpleQueue.put`` is safe in a signal handler, ``Queue.put`` and ``Event.set`` are not).
"""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

T = TypeVar("T")

Inbox = SimpleQueue
"""What ``take`` waits for."""


class Clock(Protocol):
    """What time it is, and waiting."""

    def now(self) -> float:
        """Seconds since 1970 (UTC). May jump; for people and for records."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, the same origin for all processes of one boot."""
        ...

    def take(self, inbox: SimpleQueue[T], timeout_s: float) -> T | None:
        """The next item of the inbox, or None once ``timeout_s`` seconds have passed."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds. Only where the awaited thing has no event."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Seconds since 1970 (UTC)."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since this machine started."""
        return time.monotonic()

    def take(self, inbox: SimpleQueue[T], timeout_s: float) -> T | None:
        """The next item of the inbox, or None after ``timeout_s`` seconds."""
        try:
            return inbox.get(timeout=max(timeout_s, 0.0))
        except Empty:
            return None

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        time.sleep(seconds)


class ManualClock:
    """Time that stands still until someone moves it.

    ``advance`` wakes those whose wait is over. With ``automatic``, whoever waits moves the time to
    the end of the wait: for a single thread that must not block.
    """

    def __init__(self, start: float = 1_000_000.0, *, automatic: bool = False) -> None:
        self._time = start
        self._automatic = automatic
        self._guard = threading.Lock()
        self._waits: list[tuple[float, SimpleQueue[object]]] = []

    def now(self) -> float:
        """The time set so far."""
        return self._time

    def monotonic(self) -> float:
        """The time set so far."""
        return self._time

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._guard:
            self._time += seconds
            due = [wait for wait in self._waits if wait[0] <= self._time]
            self._waits = [wait for wait in self._waits if wait[0] > self._time]
        for _, inbox in due:
            inbox.put(_TIME_PASSED)

    def take(self, inbox: SimpleQueue[T], timeout_s: float) -> T | None:
        """The next item of the inbox, or None once the time was moved far enough."""
        try:
            return _unless_wake_up(inbox.get_nowait())
        except Empty:
            pass
        if self._automatic:
            self.advance(timeout_s)
            return None
        wait: tuple[float, SimpleQueue[object]]
        with self._guard:
            if timeout_s <= 0:
                return None
            wait = (self._time + timeout_s, inbox)  # type: ignore[assignment]  # wake-ups enter too
            self._waits.append(wait)
        try:
            return _unless_wake_up(inbox.get())
        finally:
            with self._guard:
                if wait in self._waits:
                    self._waits.remove(wait)

    def sleep(self, seconds: float) -> None:
        """Return once the time was moved that far."""
        self.take(SimpleQueue[None](), seconds)

    def waiting(self) -> int:
        """How many wait right now; tests wait for this before they move the time."""
        with self._guard:
            return len(self._waits)


_TIME_PASSED = object()


def _unless_wake_up(item: T) -> T | None:
    return None if item is _TIME_PASSED else item
