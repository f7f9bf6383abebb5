"""What an execution tells, as it happens.

In: the format asked for and the plan. Out: a context that gives ``emit``. On a terminal a live
table, one row a started action; elsewhere one line an event on standard error; with ``json`` one
object a line on standard output. The format decides, never the verb.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

from enova.base.digest import plain
from enova.base.units import format_duration
from enova.cli.views.line import colour_wanted, lively
from enova.stack import events
from enova.stack.plan import Plan

if TYPE_CHECKING:
    from rich.table import Table

Emit = Callable[[events.Event], None]

SCHEMA = 1
"""Version of the JSON lines."""


@contextmanager
def event_view(output: str, plan: Plan) -> Iterator[Emit]:
    """Show the events of carrying out ``plan`` while inside."""
    if output == "json":
        yield _json_line
    elif lively(sys.stderr, os.environ):
        with _live(plan, sys.stderr) as emit:
            yield emit
    else:
        yield _Lines(plan, sys.stderr)


def event_document(event: events.Event) -> Mapping[str, object]:
    """One event as JSON data."""
    return {"schema": SCHEMA, **cast(dict[str, object], plain(event))}


def _json_line(event: events.Event) -> None:
    sys.stdout.write(json.dumps(event_document(event), ensure_ascii=False) + "\n")
    sys.stdout.flush()


class _Lines:
    """One line an event: the number of the step and of all, the address, what happens."""

    def __init__(self, plan: Plan, stream: TextIO) -> None:
        self._stream = stream
        self._width = max((len(action.address) for action in plan.actions), default=0)
        self._numbers = {action.id: n for n, action in enumerate(plan.actions, start=1)}

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.ExecutionStarted | events.ExecutionEnded):
            return
        if isinstance(event, events.ActionSkipped):
            return  # the table at the end has them all
        total = len(self._numbers)
        number = self._numbers[event.action]
        place = f"[{number:>{len(str(total))}}/{total}] {event.address:<{self._width}}"
        self._stream.write(f"{place}  {event.step}: {event_words(event)}\n")
        self._stream.flush()


AboutAction = (
    events.ActionStarted
    | events.ActionProgress
    | events.ActionDone
    | events.ActionFailed
    | events.ActionUndone
    | events.ActionSkipped
)


def event_words(event: AboutAction) -> str:
    """What an event says about its action."""
    match event:
        case events.ActionStarted():
            return f"started ({event.cause})"
        case events.ActionProgress():
            still = "still " if event.heartbeat else ""
            return f"{still}{event.phase or 'running'}, {format_duration(event.running_s)}"
        case events.ActionDone():
            return f"done in {format_duration(event.took_s)}"
        case events.ActionFailed():
            word = "failed" if event.performed else "refused"
            return f"{word}: {event.reason}"
        case events.ActionUndone():
            return f"could not be undone: {event.failure}" if event.failure else "undone"
        case events.ActionSkipped():
            return f"not started: {event.why}"


@contextmanager
def _live(plan: Plan, stream: TextIO) -> Iterator[Emit]:
    """A table that is drawn again a few times a second, so that running times move."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, no_color=not colour_wanted(stream, os.environ))
    rows = _Rows(plan)
    with Live(console=console, get_renderable=rows.table, refresh_per_second=4) as live:

        def emit(event: events.Event) -> None:
            rows.note(event)
            live.refresh()

        yield emit


class _Rows:
    """The state of the live table. Running times count from the arrival of the event here."""

    _MARKS: Mapping[str, tuple[str, str]] = {
        "running": ("·", "cyan"),
        "done": ("✓", "green"),
        "failed": ("✗", "red"),
        "undone": ("↶", "yellow"),
    }

    def __init__(self, plan: Plan) -> None:
        self._total = len(plan.actions)
        self._rows: dict[int, tuple[str, events.ActionStarted, str, float | None, float]] = {}

    def note(self, event: events.Event) -> None:
        """Take one event in."""
        from time import monotonic

        if isinstance(event, events.ActionStarted):
            self._rows[event.action] = ("running", event, "", None, monotonic())
            return
        if isinstance(event, events.ExecutionStarted | events.ExecutionEnded):
            return
        known = self._rows.get(event.action)
        if known is None:
            return
        state, started, phase, took, since = known
        match event:
            case events.ActionProgress():
                phase = event.phase
            case events.ActionDone():
                state, phase, took = "done", "", event.took_s
            case events.ActionFailed():
                state, phase, took = "failed", event.reason, monotonic() - since
            case events.ActionUndone():
                state = "undone" if not event.failure else state
                phase = event.failure or phase
            case _:
                return
        self._rows[event.action] = (state, started, phase, took, since)

    def table(self) -> Table:
        """What is shown now. The oldest finished rows go first when there are many."""
        from time import monotonic

        from rich.table import Table
        from rich.text import Text

        done = sum(1 for row in self._rows.values() if row[0] == "done")
        shown = list(self._rows.items())
        while len(shown) > 20:
            finished = next((i for i, (_, row) in enumerate(shown) if row[0] == "done"), 0)
            del shown[finished]
        table = Table(box=None, pad_edge=False, title_justify="left", show_header=False)
        for _, (state, started, phase, took, since) in shown:
            mark, colour = self._MARKS[state]
            elapsed = took if took is not None else monotonic() - since
            table.add_row(
                Text(mark, colour),
                Text(started.address),
                Text(started.step),
                Text(phase, "dim" if state != "failed" else colour),
                Text(format_duration(round(elapsed, 1)) if elapsed >= 0.05 else ""),
            )
        table.add_row("", Text(f"{done} of {self._total} steps done", "bold"), "", "", "")
        return table
