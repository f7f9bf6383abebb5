"""What a lock holds now and what changed in it, field by field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from enova.base.digest import plain
from enova.cli.views.line import Line, columns
from enova.cli.views.recommendation import choice_words
from enova.workflows.lock import Locked

NOT_SHOWN = ("notes", "prediction", "step", "service")
"""Fields of a choice that follow from the others."""


def lock_lines(locked: Locked, *, written: bool) -> list[Line]:
    """One line a service, with the fields that differ from what was locked before."""
    lines: list[Line] = []
    for name, choice in sorted(locked.chosen.choices.items()):
        now = cast(Mapping[str, object], plain(choice))
        before = locked.before.get(name)
        if name not in locked.changed:
            lines.append(Line(f"  {name}  unchanged: {choice_words(now)}"))
        elif before is None:
            lines.append(Line(f"+ {name}  new: {choice_words(now)}", "green"))
        else:
            lines.append(Line(f"~ {name}  {choice_words(now)}", "yellow"))
            rows = list(_differences(before, now))
            lines += [Line(text) for text in columns(rows, indent="    ")]
            if not rows:
                lines.append(Line("    the same choice, now for another demand or prediction"))
    if not locked.changed:
        return [*lines, Line(f"{locked.path} is current.")]
    if not written:
        return lines
    return [
        *lines,
        Line(f"Wrote {locked.path}. Commit it; enova plan shows what it would change."),
    ]


def _differences(
    before: Mapping[str, object], now: Mapping[str, object]
) -> Iterable[tuple[str, ...]]:
    for key in sorted(set(before) | set(now)):
        if key not in NOT_SHOWN and before.get(key) != now.get(key):
            yield (key, f"{_value(before.get(key))} -> {_value(now.get(key))}")


def _value(value: object) -> str:
    return "(none)" if value is None else str(value)
