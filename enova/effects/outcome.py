"""What became of every action of an execution: the value ``execute`` returns and views print."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from enova.base import errors
from enova.stack import events
from enova.stack.actions import Action


@dataclass(frozen=True)
class Failure:
    """One action that failed. ``error`` is one of the six, the driver's own error its cause."""

    action: int
    reason: str
    log_tail: tuple[str, ...]
    performed: bool
    error: errors.EnovaError


@dataclass(frozen=True)
class Row:
    """One line of the table of what happened."""

    action: int
    address: str
    step: str
    status: Literal["done", "undone", "failed", "not started"]
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of every action. The lists are sorted by id; ``undone`` are also in another."""

    result: events.Result
    done: tuple[int, ...]
    failures: tuple[Failure, ...]
    not_started: tuple[tuple[int, str], ...]
    undone: tuple[int, ...] = ()
    undo_failures: tuple[tuple[int, str], ...] = ()

    def table(self, actions: Iterable[Action]) -> tuple[Row, ...]:
        """One row an action: done, undone, failed, not started, with the reason."""
        failed = {failure.action: failure.reason for failure in self.failures}
        skipped = dict(self.not_started)
        rows = []
        for action in sorted(actions, key=lambda a: a.id):
            row = Row(action.id, action.address, action.do.kind, "done")
            if action.id in failed:
                row = replace(row, status="failed", why=failed[action.id])
            elif action.id in skipped:
                row = replace(row, status="not started", why=skipped[action.id])
            elif action.id in self.undone:
                row = replace(row, status="undone")
            rows.append(row)
        return tuple(rows)
