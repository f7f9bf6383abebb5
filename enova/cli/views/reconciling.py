"""What a reconciler decided and did: one line each time something changes, or JSON lines.

In: reports of ticks and events of what is carried out. Out: lines on standard output, which is
what a service's log keeps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping

from enova.base.digest import plain
from enova.cli.views.events import event_document, event_words
from enova.cli.views.history import utc
from enova.cli.views.line import Line, put
from enova.effects.clock import Clock
from enova.services.reconciler.loop import Report
from enova.stack import events

SCHEMA = 1


class Reconciling:
    """Prints reports. Repeats no decision, note or problem that stays the same."""

    def __init__(self, output: str, *, clock: Clock, verbose: bool) -> None:
        self._json = output == "json"
        self._clock = clock
        self._verbose = verbose
        self._said: dict[str, int] = {}
        self._notes: frozenset[str] = frozenset()
        self._problem = ""

    def event(self, event: events.Event) -> None:
        """One event of carrying a tick's plan out."""
        if self._json:
            _put_json(event_document(event))
            return
        if isinstance(event, events.ActionDone | events.ActionFailed | events.ActionUndone):
            self._put(f"{event.address}  {event.step}: {event_words(event)}")

    def report(self, report: Report) -> None:
        """One tick."""
        if self._json:
            _put_json(report_document(report, at=self._clock.now()))
            return
        for line in self._lines(report):
            self._put(line.text, line.colour)

    def _lines(self, report: Report) -> Iterable[Line]:
        for service, decision in sorted(report.decisions.items()):
            # Only the number counts as news: the reason quotes traffic, which always moves.
            if self._verbose or self._said.get(service) != decision.replicas:
                yield Line(f"{service}  {_replicas(decision.replicas)}: {decision.reason}")
            self._said[service] = decision.replicas
        if report.plan is not None:
            for change in report.plan.changes:
                detail = f": {change.detail}" if change.detail else ""
                words = f"{change.symbol.value} {change.address}  {change.reason.value}{detail}"
                if self._verbose or report.begun:
                    yield Line(words)
            for note in report.plan.notes:
                if note not in self._notes:
                    yield Line(note)
            self._notes = frozenset(report.plan.notes)
        if report.problem and (self._verbose or report.problem != self._problem):
            yield Line(report.problem, None if report.ended else "red")
        elif self._problem and not report.problem:
            yield Line("goes on")
        self._problem = report.problem

    def _put(self, text: str, colour: str | None = None) -> None:
        put([Line(f"{utc(self._clock.now())}  {text}", colour)])
        sys.stdout.flush()


def report_document(report: Report, *, at: float) -> Mapping[str, object]:
    """One tick as JSON data."""
    return {
        "schema": SCHEMA,
        "kind": "tick",
        "at": at,
        "decisions": plain(report.decisions),
        "changes": plain(report.plan.changes) if report.plan else [],
        "notes": list(report.plan.notes) if report.plan else [],
        "begun": report.begun,
        "result": report.result or ("begun" if report.begun else "nothing to do"),
        "problem": report.problem,
        "ended": report.ended,
    }


def _replicas(count: int) -> str:
    return f"{count} replica{'s' if count != 1 else ''}"


def _put_json(document: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()
