"""Reading rotated output: its end, and what comes next.

In: ``engine.log`` and its older ``engine.log.1``, ``.2`` ... Out: lines as text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

_CHUNK = 64 * 1024


def files(log: Path) -> list[Path]:
    """The files of one output that exist, oldest first."""
    older = []
    for path in log.parent.glob(f"{log.name}.*"):
        index = path.name.removeprefix(f"{log.name}.")
        if index.isdigit():
            older.append((int(index), path))
    found = [path for _, path in sorted(older, reverse=True)]
    return [*found, log] if log.exists() else found


def tail(log: Path, count: int) -> list[str]:
    """The last ``count`` lines over all files of an output."""
    lines: list[str] = []
    for path in reversed(files(log)):
        if len(lines) >= count:
            break
        lines = _last_lines(path, count - len(lines)) + lines
    return lines


def follow(log: Path, *, tail_lines: int, wait: Callable[[], bool]) -> Iterator[str]:
    """The last lines, then every further line across rotations.

    ``wait`` blocks until it is worth looking again and says whether the process still runs.
    """
    held = b""
    file = log.open("rb") if log.exists() else None
    try:
        end = file.seek(0, 2) if file is not None else 0
        newest = _last_lines(log, tail_lines, end=end)
        yield from (_older(log, tail_lines - len(newest)) + newest)
        while True:
            running = wait()
            while True:
                if file is None and log.exists():
                    file = log.open("rb")
                data = file.read(_CHUNK) if file is not None else b""
                if data:
                    *whole, held = (held + data).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
                    continue
                newer = _next_file(log, file.fileno()) if file is not None else None
                if newer is None:
                    break
                if file is not None:
                    file.close()
                file = newer.open("rb")
            if not running:
                break
        if held:
            yield held.decode(errors="replace")
    finally:
        if file is not None:
            file.close()


def _next_file(log: Path, handle: int) -> Path | None:
    """The file after the open one, None when the open one is the newest (or gone for good)."""
    inode = os.fstat(handle).st_ino
    present = files(log)
    for position, path in enumerate(present):
        try:
            if path.stat().st_ino == inode:
                return present[position + 1] if position + 1 < len(present) else None
        except FileNotFoundError:
            continue
    return present[0] if present else None


def _older(log: Path, count: int) -> list[str]:
    lines: list[str] = []
    for path in reversed(files(log)):
        if path != log and len(lines) < count:
            lines = _last_lines(path, count - len(lines)) + lines
    return lines


def _last_lines(path: Path, count: int, *, end: int | None = None) -> list[str]:
    if count <= 0:
        return []
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2) if end is None else end
            data = b""
            while end > 0 and data.count(b"\n") <= count:
                step = min(_CHUNK, end)
                end -= step
                file.seek(end)
                data = file.read(step) + data
    except FileNotFoundError:
        return []
    return [line.decode(errors="replace") for line in data.splitlines()[-count:]]
