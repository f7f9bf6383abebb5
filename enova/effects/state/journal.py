"""What happened, in order, for good: one JSON object a line, appended and never changed.

Plans, actions, decisions with their inputs, healing. Each line carries a checksum over itself and
the line before, so that a changed or removed line shows; a line torn by a kill or a power cut is
passed over. Feeds ``history`` and ``why``. Holds no secret: texts go through ``redact``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from enova.base.digest import digest, plain
from enova.base.errors import ActionFailed
from enova.effects.clock import Clock
from enova.effects.state.files import FILES, Files, locked, write_all
from enova.stack import events

SCHEMA = 1
ROTATE_BYTES = 8 * 2**20
KEPT_FILES = 4
"""Rotated files beside the current one: ``journal.jsonl.1`` is the newest of them."""
_LOG_LINES = 20
_CHUNK = 64 * 1024


class Kind(StrEnum):
    """What a line tells."""

    PLAN_BEGAN = "plan-began"
    PLAN_ENDED = "plan-ended"
    ACTION_BEGAN = "action-began"
    ACTION_DONE = "action-done"
    ACTION_FAILED = "action-failed"
    ACTION_UNDONE = "action-undone"
    ACTION_SKIPPED = "action-skipped"
    DECISION = "decision"
    """A policy concluded something; the detail has its inputs."""
    HEAL = "heal"
    """A replica was found dead or hung; the detail has why."""


@dataclass(frozen=True)
class Entry:
    """One line. ``at`` is seconds since 1970 (UTC), ``address`` "" for the whole stack."""

    at: float
    kind: str
    address: str
    detail: Mapping[str, object]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Verification:
    """Whether the journal is whole. ``broken``: file name and line number of each bad place."""

    lines: int
    torn: tuple[tuple[str, int], ...] = ()
    """Cut short by a crash; nothing else is missing there."""
    broken: tuple[tuple[str, int], ...] = ()
    """Changed, or something before it was removed."""


class Journal:
    """The journal of one stack. Any process may append, also without the lease."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        redact: Callable[[str], str] = lambda text: text,
        rotate_bytes: int = ROTATE_BYTES,
        files: Files = FILES,
    ) -> None:
        self._path = path
        self._clock = clock
        self._redact = redact
        self._rotate_bytes = rotate_bytes
        self._files = files

    def append(
        self, kind: Kind, address: str = "", detail: Mapping[str, object] | None = None
    ) -> None:
        """Add one line and return once it is on the disk. Raises ActionFailed, Unreachable."""
        line = {
            "schema": SCHEMA,
            "at": round(self._clock.now(), 3),
            "kind": kind.value,
            "address": address,
            "detail": _redacted(plain(detail or {}), self._redact),
        }
        try:
            with locked(self._path) as descriptor:
                end = os.lseek(descriptor, 0, os.SEEK_END)
                if end >= self._rotate_bytes:
                    self._rotate()
                    self._append_to_new(line, _last_sum(descriptor, end))
                else:
                    before = _last_sum(descriptor, end) if end else self._sum_before_rotation()
                    self._append_line(descriptor, line, before)
        except OSError as error:
            raise ActionFailed(
                str(self._path), "write the journal", str(error.strerror or error)
            ) from error

    def note(self, event: events.Event) -> None:
        """Append what an execution tells. Progress is not kept."""
        match event:
            case events.ExecutionStarted():
                self.append(Kind.PLAN_BEGAN, "", {"actions": event.total})
            case events.ActionStarted():
                began = {"cause": event.cause, "group": event.group}
                self._note(Kind.ACTION_BEGAN, event, began)
            case events.ActionProgress():
                pass
            case events.ActionDone():
                self._note(Kind.ACTION_DONE, event, {"took_s": round(event.took_s, 3)})
            case events.ActionFailed():
                failed: dict[str, object] = {"reason": event.reason, "performed": event.performed}
                if event.log_tail:
                    failed["log_tail"] = event.log_tail[-_LOG_LINES:]
                self._note(Kind.ACTION_FAILED, event, failed)
            case events.ActionUndone():
                failure = {"failure": event.failure} if event.failure else {}
                self._note(Kind.ACTION_UNDONE, event, failure)
            case events.ActionSkipped():
                self._note(Kind.ACTION_SKIPPED, event, {"why": event.why})
            case events.ExecutionEnded():
                ended: dict[str, object] = {
                    "result": event.result,
                    "done": event.done,
                    "failed": event.failed,
                    "not_started": event.not_started,
                }
                self.append(Kind.PLAN_ENDED, "", ended)

    def tail(self, count: int) -> tuple[Entry, ...]:
        """The last ``count`` entries, oldest first. Damaged lines are left out, see ``verify``."""
        found: list[Entry] = []
        for path in reversed(self._paths()):
            if len(found) >= count:
                break
            found = [entry for _, entry, _ in _entries(path) if entry is not None] + found
        return tuple(found[len(found) - min(count, len(found)) :])

    def since(self, at: float) -> Iterator[Entry]:
        """Entries from that time (seconds since 1970) on, oldest first."""
        for path in self._paths():
            for _, entry, _ in _entries(path):
                if entry is not None and entry.at >= at:
                    yield entry

    def verify(self) -> Verification:
        """Follow the chain of checksums through all files."""
        lines = 0
        torn: list[tuple[str, int]] = []
        broken: list[tuple[str, int]] = []
        last: str | None = None
        damaged: list[tuple[str, int]] = []
        for path in self._paths():
            for number, entry, seals in _entries(path):
                lines += 1
                if entry is None:
                    damaged.append((path.name, number))
                    continue
                before, own = seals
                if last is None:
                    # What came before the oldest file was rotated away, or nothing did.
                    (broken if before and damaged else torn).extend(damaged)
                elif before != last:
                    broken += damaged or [(path.name, number)]
                else:
                    torn += damaged
                damaged, last = [], own
        # A crash leaves a last line without its end; one that has its end was changed.
        (broken if damaged and _ends_whole(self._path) else torn).extend(damaged)
        return Verification(lines, tuple(torn), tuple(broken))

    def _note(self, kind: Kind, event: _AboutAction, detail: Mapping[str, object]) -> None:
        self.append(kind, event.address, {"action": event.action, "step": event.step, **detail})

    def _paths(self) -> list[Path]:
        """All files that exist, oldest first."""
        rotated = [self._rotated(number) for number in range(KEPT_FILES, 0, -1)]
        return [path for path in (*rotated, self._path) if path.exists()]

    def _rotated(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _rotate(self) -> None:
        for number in range(KEPT_FILES - 1, 0, -1):
            if self._rotated(number).exists():
                self._files.rename(self._rotated(number), self._rotated(number + 1))
        self._files.rename(self._path, self._rotated(1))

    def _append_to_new(self, line: Mapping[str, object], before: str) -> None:
        with locked(self._path) as descriptor:
            if os.fstat(descriptor).st_size:
                before = _last_sum(descriptor, os.fstat(descriptor).st_size)
            self._append_line(descriptor, line, before)

    def _sum_before_rotation(self) -> str:
        newest = self._rotated(1)
        if not newest.exists():
            return ""
        with newest.open("rb") as file:
            return _last_sum(file.fileno(), newest.stat().st_size)

    def _append_line(self, descriptor: int, line: Mapping[str, object], before: str) -> None:
        body = {**line, "before": before}
        text = json.dumps({**body, "sum": digest(body)}, separators=(",", ":"), ensure_ascii=False)
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + text.encode() + b"\n"
        write_all(self._files, descriptor, data)
        self._files.sync(descriptor)


_AboutAction = (
    events.ActionStarted
    | events.ActionDone
    | events.ActionFailed
    | events.ActionUndone
    | events.ActionSkipped
)


def _entries(path: Path) -> Iterator[tuple[int, Entry | None, tuple[str, str]]]:
    """Line number, entry (None when damaged), checksums of the line before and of this one."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield (number, *_parse(line))


def _ends_whole(path: Path) -> bool:
    return path.exists() and path.read_bytes().endswith(b"\n")


def _parse(line: bytes) -> tuple[Entry | None, tuple[str, str]]:
    damaged = (None, ("", ""))
    try:
        data = json.loads(line)
    except ValueError:
        return damaged
    if not isinstance(data, dict):
        return damaged
    seal = data.pop("sum", None)
    detail = data.get("detail")
    at = data.get("at")
    if seal != digest(data) or not isinstance(detail, dict) or not isinstance(at, (int, float)):
        return damaged
    entry = Entry(
        at=float(at),
        kind=str(data.get("kind")),
        address=str(data.get("address")),
        detail=detail,
        schema=data["schema"] if isinstance(data.get("schema"), int) else 0,
    )
    return entry, (str(data.get("before")), seal)


def _last_sum(descriptor: int, size: int) -> str:
    """The checksum of the last whole line, "" when there is none."""
    data = b""
    start = size
    while start > 0:
        step = min(_CHUNK, start)
        start -= step
        data = os.pread(descriptor, step, start) + data
        lines = data.split(b"\n")
        for line in reversed(lines if start == 0 else lines[1:]):
            entry, (_, own) = _parse(line)
            if entry is not None:
                return own
    return ""


def _redacted(value: object, redact: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(item, redact) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, redact) for item in value]
    return value
