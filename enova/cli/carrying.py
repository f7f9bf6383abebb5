"""Carrying out a plan from the terminal: progress, Ctrl-C, the closing table, the exit code.

Ctrl-C once finishes the running actions and leaves; twice stops at once. Before the first action
it simply ends the verb. Either way the record says what happened and the next plan goes on from
there.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from enova.base.errors import Unreachable
from enova.cli.exits import FAILED, INTERRUPTED, OK
from enova.cli.views.events import event_view
from enova.cli.views.line import put
from enova.cli.views.outcome import Ending, nothing_to_do, outcome_document, outcome_lines
from enova.effects.stop import StopFlag
from enova.stack.events import Event
from enova.stack.observed import Observed
from enova.stack.plan import Plan
from enova.workflows.apply import carry_out
from enova.workflows.wiring import Site


def carry_out_and_report(
    made: Plan, here: Site, *, command: str, again: str, output: str, wait_s: float
) -> int:
    """Carry out ``made``, print what happens, and return the exit code.

    ``command`` names us to those who wait for the lease; ``again`` is what a person types to go on
    after a failure.
    """
    stop = StopFlag()
    with stopping_on_signals(stop) as begun, event_view(output, made) as show:

        def emit(event: Event) -> None:
            begun()
            show(event)

        applied = carry_out(made, here, emit=emit, stop=stop, command=command, wait_s=wait_s)
    ending = Ending(applied, again, _now(here))
    if output == "json":
        _put_json(outcome_document(ending))
    else:
        put(outcome_lines(ending), sys.stderr)
    if applied.outcome.result == "interrupted":
        return INTERRUPTED
    return OK if applied.outcome.result == "succeeded" else FAILED


def report_nothing_to_do(made: Plan, output: str) -> int:
    """Say in the format asked for that the plan is empty. Its text was printed already."""
    if output == "json":
        _put_json(nothing_to_do(made))
    return OK


class _Begun:
    """Turns true at the first event."""

    def __init__(self) -> None:
        self.yet = False

    def __call__(self) -> None:
        self.yet = True


@contextmanager
def stopping_on_signals(stop: StopFlag) -> Iterator[_Begun]:
    """While inside, SIGINT and SIGTERM ask ``stop``, or interrupt while nothing has begun.

    Yields what is to be called when something has.
    """
    begun = _Begun()

    def ask(number: int, frame: FrameType | None) -> None:
        if not begun.yet:
            raise KeyboardInterrupt
        stop.request()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield begun
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _now(here: Site) -> Observed | None:
    try:
        return here.driver.observe()
    except Unreachable:
        return None


def _put_json(document: object) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()
