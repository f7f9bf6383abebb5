"""The gateway's access log: one JSON line per finished request, kept as a bounded ring on disk.

In: the log file Envoy appends to (fields: ``stack.render.envoy_listener.ACCESS_LOG_FIELDS``).
Out: ``AccessRecord`` values since a position, in order, across rotations. A record appears when
its request has ended; for the rate of arrivals at this moment use the gateway's counters
(``stack.queries``), which count a request when it comes.

Rotation renames ``access.log`` to ``access.log.1`` (older ones move up, the oldest goes) and
asks Envoy to open the name again; Envoy writes to the renamed file until it has done so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LARGEST_READ = 16 * 1024 * 1024


@dataclass(frozen=True)
class AccessRecord:
    """One finished request. Times in seconds; ``arrival_s`` is Unix time.

    ``service`` is None when the request reached no service (no key, unknown model);
    ``first_byte_s`` is None when no replica answered; for an answer that is not streamed it is
    about ``duration_s``. ``retries`` counts further attempts after the first.
    """

    arrival_s: float
    service: str | None
    instance: str | None
    method: str
    path: str
    status: int
    request_bytes: int
    response_bytes: int
    first_byte_s: float | None
    duration_s: float
    retries: int
    flags: str
    request_id: str
    stream: bool
    model: str | None
    client: str | None = None

    @property
    def failed(self) -> bool:
        """Not answered by fault of ours: a 5xx, or a stream that broke off."""
        broke = {"UC", "UPE", "UT", "SI", "DPE"} & set(self.flags.split(","))
        return self.status >= 500 or bool(broke)


@dataclass(frozen=True)
class Position:
    """How far a log was read: which file (inode) and the first byte not read yet."""

    inode: int = 0
    offset: int = 0


START = Position()
"""The oldest line that is kept."""


def read_new(path: Path, since: Position = START) -> tuple[list[AccessRecord], Position]:
    """The records after ``since``, and the position after them.

    A last line that is not complete stays for the next call; a line that is no record (a disk
    that was full) is skipped. If the file of ``since`` has left the ring, reading starts at the
    oldest one kept. At most 16 MiB are taken from each file at once: call again for more.
    """
    files = _oldest_first(path)
    known = [index for index, (_, inode, _size) in enumerate(files) if inode == since.inode]
    if known:
        files = files[known[-1] :]
    records: list[AccessRecord] = []
    position = since
    for index, (file, inode, size) in enumerate(files):
        # An inode may have been given to a younger file since: then the offset lies beyond it.
        offset = since.offset if inode == since.inode and since.offset <= size else 0
        found, offset, complete = _read(file, offset)
        records.extend(found)
        position = Position(inode, offset)
        last = index == len(files) - 1
        # A renamed file may still grow until Envoy has opened the new one: while there is no
        # newer file, stay in this one.
        if not complete and not last:
            break
    return records, position


def rotate(
    path: Path, reopen: Iterable[Callable[[], None]], *, max_bytes: int, keep: int = 4
) -> bool:
    """Rotate when the log has reached ``max_bytes``; ``keep`` old files stay. True when done.

    ``reopen`` are the ``GatewayAdmin.reopen_logs`` of every gateway process that writes there.
    """
    if not path.exists() or path.stat().st_size < max_bytes:
        return False
    numbered(path, keep).unlink(missing_ok=True)
    for number in range(keep - 1, 0, -1):
        older = numbered(path, number)
        if older.exists():
            older.rename(numbered(path, number + 1))
    path.rename(numbered(path, 1))
    for ask in reopen:
        ask()
    return True


def numbered(path: Path, number: int) -> Path:
    """The ``number``-th old file of the ring: 1 is the youngest."""
    return path.with_name(f"{path.name}.{number}")


def arrival_rate(records: Iterable[AccessRecord], now: float, window_s: float) -> float:
    """Requests per second that arrived for any service in the ``window_s`` before ``now``.

    Only requests that have ended are known here, so the rate is low by those still open.
    """
    if window_s <= 0:
        raise ValueError("the window must be longer than nothing")
    count = sum(1 for r in records if r.service is not None and now - window_s < r.arrival_s <= now)
    return count / window_s


def _oldest_first(path: Path) -> list[tuple[Path, int, int]]:
    """The files of the ring that exist, each with its inode and size."""
    found = []
    numbers = sorted(
        (
            int(file.suffix[1:])
            for file in path.parent.glob(f"{path.name}.*")
            if file.suffix[1:].isdigit()
        ),
        reverse=True,
    )
    for file in [*(numbered(path, number) for number in numbers), path]:
        try:
            status = file.stat()
        except FileNotFoundError:  # renamed in this very moment: the next call finds it
            continue
        found.append((file, status.st_ino, status.st_size))
    return found


def _read(file: Path, offset: int) -> tuple[list[AccessRecord], int, bool]:
    """Records from ``offset``, the offset after them, and whether the end was reached."""
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(_LARGEST_READ)
    except FileNotFoundError:
        return [], offset, False
    end = data.rfind(b"\n") + 1
    records = list(_parse(data[:end].split(b"\n")))
    return records, offset + end, len(data) < _LARGEST_READ


def _parse(lines: Iterable[bytes]) -> Iterator[AccessRecord]:
    for line in lines:
        if not line.strip():
            continue
        try:
            yield _record(json.loads(line))
        except (ValueError, KeyError, TypeError):
            continue


_NO_SERVICE = "enova_"


def _record(line: dict[str, object]) -> AccessRecord:
    service = _text(line["service"])
    first_byte = line["first_byte_ms"]
    return AccessRecord(
        arrival_s=float(str(line["start"])),
        service=None if service is None or service.startswith(_NO_SERVICE) else service,
        instance=_text(line["instance"]),
        method=_text(line["method"]) or "",
        path=_text(line["path"]) or "",
        status=_number(line["status"]),
        request_bytes=_number(line["request_bytes"]),
        response_bytes=_number(line["response_bytes"]),
        first_byte_s=None if first_byte is None else _number(first_byte) / 1000,
        duration_s=_number(line["duration_ms"]) / 1000,
        retries=max(0, _number(line["attempts"]) - 1),
        flags=_text(line["flags"]) or "",
        request_id=_text(line["request_id"]) or "",
        stream=line["stream"] is True,
        model=_text(line["model"]),
        client=_text(line.get("client")),
    )


def _text(value: object) -> str | None:
    return None if value is None or value == "-" else str(value)


def _number(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) else 0
