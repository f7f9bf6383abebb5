"""Which image each part of a stack runs: as ``enova.lock`` holds it, otherwise as registries say.

In: a spec with its choices, the site. Out: references with a digest where it is known, by tag where
it is not, and notes that say so. What is locked is not asked again: a tag that moves changes
nothing until the lock changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from enova.base.errors import Refused
from enova.capacity.sizing.choice import Choice
from enova.spec.lock import FILE_NAME, LockedImage, images_of
from enova.stack import images
from enova.stack.monitoring import KEYS
from enova.workflows.choosing import read_lock
from enova.workflows.loading import Read
from enova.workflows.wiring import Site

Asking = Literal["nobody", "unknown", "unpinned", "all"]
"""Whose registries are asked: nobody's, those of images the lock knows nothing of, also those of
images it holds by tag, those of all."""


@dataclass(frozen=True)
class Pinned:
    """``images``: what to run, by what it is for. ``locked``: what the lock is to hold, by
    reference. ``unknown``: images that were not in it."""

    images: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, LockedImage] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def pin(
    spec: Read,
    here: Site,
    choices: Mapping[str, Choice],
    *,
    monitors: Collection[str],
    asking: Asking,
) -> Pinned:
    """The images of a stack. ``monitors``: names of those that the target can run.

    A registry that does not answer is a note, and changes nothing of what is locked. Raises
    Refused for an engine of which no image is known.
    """
    used = _used(spec, choices, monitors)
    # What cannot run here just now keeps what is locked of it.
    kept = set(_used(spec, choices, KEYS).values())
    known = _known(spec)
    by_tag = sorted({one for one in used.values() if not images.is_pinned(one)})
    to_ask = [one for one in by_tag if _is_asked(known.get(one), asking)]
    locked = {one: entry for one, entry in known.items() if one in kept}
    silent: dict[str, str] = {}
    if to_ask:
        answers = here.driver.ask_registries(to_ask)
        today = datetime.fromtimestamp(here.clock.now(), UTC).date().isoformat()
        for one in to_ask:
            answer, before = answers[one], known.get(one)
            if answer.digest is None and before is not None and before.digest is not None:
                silent[one] = answer.reason
            else:
                locked[one] = LockedImage(answer.digest, today, answer.reason)
    unknown = tuple(one for one in by_tag if one not in known)
    return Pinned(
        images={what: _pinned(one, locked) for what, one in used.items()},
        locked=dict(sorted(locked.items())),
        unknown=unknown,
        notes=_notes(by_tag, locked, silent),
    )


def refuse_unlocked(spec: Read, pinned: Pinned, *, applied: Mapping[str, str]) -> None:
    """Raise Refused for what ``--locked`` must not let pass: an image that the lock knows nothing
    of while it knows others, or one by tag where what was applied (``applied``) has a digest."""
    lost = {
        images.by_tag(reference)
        for what, reference in pinned.images.items()
        if not images.is_pinned(reference) and images.is_pinned(applied.get(what, ""))
    }
    if _known(spec):
        lost |= set(pinned.unknown)
    if lost:
        raise Refused(
            f"{FILE_NAME} holds no digest of {', '.join(sorted(lost))}. "
            f"Run where its registry answers: enova lock {spec.files[0]}"
        )


def changed_images(spec: Read, locked: Mapping[str, LockedImage]) -> tuple[str, ...]:
    """References whose entry in the lock is not the one given, or that should not be there."""
    known = _known(spec)
    return tuple(
        one for one in sorted(known.keys() | locked.keys()) if known.get(one) != locked.get(one)
    )


def _used(spec: Read, choices: Mapping[str, Choice], monitors: Collection[str]) -> dict[str, str]:
    try:
        return images.used(spec.spec, choices, monitors=monitors)
    except ValueError as error:
        raise Refused(f"{error}. Name one in the spec: engine.image") from error


def _known(spec: Read) -> dict[str, LockedImage]:
    return images_of(read_lock(spec), spec.spec.name, env=spec.env or None)


def _is_asked(known: LockedImage | None, asking: Asking) -> bool:
    if asking == "nobody":
        return False
    return known is None or asking == "all" or (asking == "unpinned" and known.digest is None)


def _pinned(reference: str, locked: Mapping[str, LockedImage]) -> str:
    entry = locked.get(reference)
    return images.pinned(reference, entry.digest if entry is not None else None)


def _notes(
    by_tag: Collection[str], locked: Mapping[str, LockedImage], silent: Mapping[str, str]
) -> tuple[str, ...]:
    """At most one for what goes by tag, and one for what keeps its digest unasked."""
    loose = {
        one: entry.answer if entry is not None else f"{FILE_NAME} says nothing of it"
        for one in by_tag
        if (entry := locked.get(one)) is None or entry.digest is None
    }
    notes = []
    if loose:
        notes.append(
            f"by tag, not by digest, so what is pulled later may differ: {_by_reason(loose)}. "
            "`enova lock` asks the registries again (`docker login` for a private one)"
        )
    if silent:
        notes.append(f"locked digests are kept of what did not answer: {_by_reason(silent)}")
    return tuple(notes)


def _by_reason(reasons: Mapping[str, str]) -> str:
    grouped: dict[str, list[str]] = {}
    for reference, reason in sorted(reasons.items()):
        grouped.setdefault(reason, []).append(reference)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in grouped.items())
