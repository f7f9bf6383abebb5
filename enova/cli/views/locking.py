"""What a lock holds now and what changed in it, field by field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from enova.base.digest import plain
from enova.cli.views.line import Line, columns
from enova.cli.views.recommendation import choice_words
from enova.spec.lock import LockedImage
from enova.workflows.lock import Locked

NOT_SHOWN = ("notes", "prediction", "step", "service")
"""Fields of a choice that follow from the others."""

_SHOWN = len("sha256:") + 12


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
    lines += _images(locked)
    lines += [Line(f"Note: {note}") for note in locked.notes]
    if not locked.changed and not locked.images_changed:
        return [*lines, Line(f"{locked.path} is current.")]
    if not written:
        return lines
    return [
        *lines,
        Line(f"Wrote {locked.path}. Commit it; enova plan shows what it would change."),
    ]


def _images(locked: Locked) -> Iterable[Line]:
    """One line an image that is new or another; those that stay are counted."""
    for reference in locked.images_changed:
        now, before = locked.images.get(reference), locked.images_before.get(reference)
        if now is None:
            yield Line(f"- {reference}  not used any more", "red")
        elif before is None:
            yield Line(f"+ {reference}  {_digest(now)}", "green")
        elif before.digest != now.digest:
            yield Line(f"~ {reference}  {_digest(before)} -> {_digest(now)}", "yellow")
    stay = sum(
        1
        for reference, now in locked.images.items()
        if (before := locked.images_before.get(reference)) is not None
        and before.digest == now.digest
    )
    if stay:
        yield Line(f"  {stay} image{'s' if stay > 1 else ''} unchanged")


def _digest(image: LockedImage) -> str:
    return image.digest[:_SHOWN] if image.digest is not None else "by tag"


def _differences(
    before: Mapping[str, object], now: Mapping[str, object]
) -> Iterable[tuple[str, ...]]:
    for key in sorted(set(before) | set(now)):
        if key not in NOT_SHOWN and before.get(key) != now.get(key):
            yield (key, f"{_value(before.get(key))} -> {_value(now.get(key))}")


def _value(value: object) -> str:
    return "(none)" if value is None else str(value)
