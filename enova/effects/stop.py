"""How an execution is asked to stop: from a signal handler, or because the lease was lost."""

from __future__ import annotations

from collections.abc import Callable


class StopFlag:
    """Asked once: finish what runs. Asked twice: stop now. Safe to call from a signal handler."""

    def __init__(self) -> None:
        self._requests = 0
        self._listeners: list[Callable[[], None]] = []

    @property
    def requested(self) -> bool:
        """Nothing new shall start."""
        return self._requests > 0

    @property
    def now(self) -> bool:
        """Do not even wait for what runs."""
        return self._requests > 1

    def request(self) -> None:
        """Ask to stop; once more means at once."""
        self._requests += 1
        for listener in tuple(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call it at every request. It must be safe in a signal handler."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.remove(listener)
