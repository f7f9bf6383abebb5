"""A plan as text: what was chosen and why, what changes, what the way costs, what to type next.

Three lengths: the summary line, the changes (default), everything (``-v``: every field of what is
added, and every step).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from enova.cli.views.line import Line, columns
from enova.cli.views.recommendation import recommendation_lines
from enova.stack.changes import MEANING, Change, Symbol
from enova.stack.compare import FieldChange
from enova.stack.plan import Plan

COLOURS = {
    Symbol.ADD: "green",
    Symbol.REMOVE: "red",
    Symbol.UPDATE: "yellow",
    Symbol.REPLACE_START_FIRST: "yellow",
    Symbol.REPLACE_STOP_FIRST: "magenta",
    Symbol.WAIT: "blue",
}
LONGEST_VALUE = 60
_DIGEST = re.compile(r"(@sha256:[0-9a-f]{12})[0-9a-f]{52}$")
"""Of an image's digest so much is shown: two that differ must not look the same."""


def plan_lines(plan: Plan, *, verbose: bool = False) -> list[Line]:
    """The whole plan."""
    lines = [Line(_title(plan), bold=True), Line()]
    if verbose or not plan.is_empty:
        lines += recommendation_lines(plan, verbose=verbose)
    if plan.is_empty:
        lines.append(Line(nothing(plan)))
        lines += _counts(plan)
        return [*lines, *_notes(plan)]
    for change in plan.changes:
        lines += _change(change, verbose=verbose)
    lines += _counts(plan)
    if verbose:
        lines += [Line(), Line("Steps:"), *(Line(f"  {a.line()}") for a in plan.actions)]
    lines += _rollout(plan)
    lines += [Line(), *_legend(plan), Line(summary(plan), bold=True)]
    return [*lines, *_notes(plan)]


def nothing(plan: Plan) -> str:
    """What an empty plan says."""
    if plan.destroys:
        return f"Nothing of {plan.stack} runs, nothing is recorded."
    return "No changes. What runs is what was asked for."


def summary(plan: Plan) -> str:
    """One line: how much changes."""
    counted = Counter(change.symbol for change in plan.changes)
    replaced = counted[Symbol.REPLACE_START_FIRST] + counted[Symbol.REPLACE_STOP_FIRST]
    parts = [
        f"{counted[Symbol.ADD]} to add",
        f"{replaced} to replace",
        f"{counted[Symbol.UPDATE]} to change in place",
        f"{counted[Symbol.REMOVE]} to remove",
    ]
    if counted[Symbol.WAIT]:
        parts.append(f"{counted[Symbol.WAIT]} waiting")
    return ", ".join(parts) + "." + _cost(plan)


def _cost(plan: Plan) -> str:
    """What an hour costs now and then, when every running service has a price."""
    if plan.cost.before is None or plan.cost.after is None:
        return ""
    return f"  {plan.cost.before:.2f} -> {plan.cost.after:.2f} USD/h"


def _title(plan: Plan) -> str:
    env = f" ({plan.env})" if plan.env else ""
    emulated = "  emulated engines" if plan.emulated else ""
    return f"stack {plan.stack}{env} on target {plan.target}{emulated}"


def _change(change: Change, *, verbose: bool) -> Iterable[Line]:
    colour = COLOURS[change.symbol]
    detail = f": {change.detail}" if change.detail else ""
    yield Line(f"{change.symbol.value} {change.address}  {change.reason.value}{detail}", colour)
    if change.symbol is Symbol.ADD and not verbose:
        return
    rows = [
        (f.path, f"{_value(f.before)} -> {_value(f.after)}", f"owned by {f.owner.value}")
        for f in change.fields
    ]
    for text in columns(rows, indent="    "):
        yield Line(text)


def field_text(field: FieldChange) -> str:
    """One field's change in one piece of text."""
    return f"{field.path}: {_value(field.before)} -> {_value(field.after)}"


def _value(value: object) -> str:
    if value is None:
        return "(none)"
    if value == "":
        return '""'
    text = _DIGEST.sub(r"\1", "true" if value is True else str(value))
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _counts(plan: Plan) -> list[Line]:
    rows = [
        (
            f"  {count.service}",
            "replicas",
            f"{count.serving} serving, {count.wanted} wanted, {count.least} to {count.most}",
            "owned by the scaler",
        )
        for count in plan.counts
    ]
    return [Line(text) for text in columns(rows)]


def _rollout(plan: Plan) -> list[Line]:
    if not plan.rollouts:
        return []
    lines = [Line()]
    for note in plan.rollouts:
        floor = (
            f"never fewer than {note.lowest_serving} of {note.serving_before} serve"
            if note.serving_before
            else "nothing serves yet"
        )
        lines.append(
            Line(
                f"Rollout of {note.service}: {note.replaced} replaced, the first alone, then "
                f"{note.at_a_time} at a time; {floor}."
            )
        )
    return lines


def _legend(plan: Plan) -> list[Line]:
    used = {change.symbol for change in plan.changes}
    words = ", ".join(f"{s.value} {MEANING[s]}" for s in Symbol if s in used)
    return [Line(words)] if words else []


def _notes(plan: Plan) -> list[Line]:
    lines = [Line(f"Refused: {g.address}: {g.message}", "red") for g in plan.guards]
    lines += [Line(f"Note: {note}") for note in plan.notes]
    return [Line(), *lines] if lines else []
