"""The engine's clock on the wall: scaled, freezable, and without drift.

In: a wall clock and a factor. Out: the engine's time now, and the wall time of an engine time.
``Pacer`` wakes the engine at the wall time of its next step. Wake-ups follow the schedule of the
engine, never "so many milliseconds from now", so a late one does not delay those after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

EARLY_S = 0.0005
"""A step due within this is taken now: the event loop's timers count whole milliseconds."""


class Clock:
    """Engine seconds against wall seconds: ``scale`` engine seconds pass in one wall second."""

    def __init__(self, wall: Callable[[], float], scale: float) -> None:
        self.wall = wall
        self._scale = scale
        self._origin = wall()
        self._frozen: float | None = None

    @property
    def frozen(self) -> bool:
        """Whether engine time stands still."""
        return self._frozen is not None

    def now(self) -> float:
        """Engine seconds since the start, less the time spent frozen."""
        wall = self.wall() if self._frozen is None else self._frozen
        return (wall - self._origin) * self._scale

    def wall_at(self, engine_s: float) -> float:
        """The wall time at which the engine's clock shows ``engine_s``."""
        return self._origin + engine_s / self._scale

    def freeze(self) -> None:
        """Stop engine time; no effect when stopped."""
        if self._frozen is None:
            self._frozen = self.wall()

    def thaw(self) -> None:
        """Go on where it stopped."""
        if self._frozen is not None:
            self._origin += self.wall() - self._frozen
            self._frozen = None


class Paced(Protocol):
    """What a pacer drives."""

    def next_due(self) -> float | None:
        """Wall time of the next step's end, None when there is nothing to wait for."""
        ...

    def advance(self) -> None:
        """Take the steps that are due."""
        ...


class Pacer:
    """Calls ``advance`` when it is due, on one event loop."""

    def __init__(
        self,
        engine: Paced,
        loop: asyncio.AbstractEventLoop,
        wall: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._loop = loop
        # The loop's own clock counts whole milliseconds, so the wall clock is asked instead.
        self._wall = wall
        self._timer: asyncio.Handle | None = None
        self._due: float | None = None

    def arm(self) -> None:
        """Look again when the next step is due: after a submit, an abort, a freeze or a thaw."""
        due = self._engine.next_due()
        if due == self._due and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = due
        if due is None:
            return
        left = due - self._wall()
        if left <= EARLY_S:
            # Through the loop, so that sockets get their turn even when the engine is behind.
            self._timer = self._loop.call_soon(self._wake)
        else:
            self._timer = self._loop.call_later(left, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._due = None
        self._engine.advance()
        self.arm()
