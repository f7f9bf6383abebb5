"""Reading rotated output: its end, what comes next, which line explains a failure, which phase.

In: ``engine.log`` and its older ``engine.log.1``, ``.2`` ... Out: lines as text. The words looked
for are those of vLLM 0.2x and 0.3x; an engine that says nothing known is simply quoted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_CHUNK = 64 * 1024

_PREFIX = re.compile(
    r"^(?:\([A-Za-z]\w*(?: pid=\d+)?\)\s*)?"
    r"(?:(?:ERROR|CRITICAL|WARNING|INFO)\s+[\d-]+ [\d:.,]+\s+(?:\[[^\]]*\]\s*)?)?"
)
_CAUSES = (
    re.compile(r"^[\w./-]*(?:\s[\w-]+)?: error: .+"),
    re.compile(r"^\s*Value error, .+"),
    re.compile(r"^(?:[a-zA-Z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit): .+"),
    re.compile(r"^(?:ERROR|CRITICAL|FATAL|error|fatal)\b[:\s].+"),
    re.compile(r"^\[[\d-]+ [\d:.]+\]\[\d+\]\[(?:critical|error)\].+"),
    re.compile(r".*\bmsg=.*\berr=.+"),
)
_GENERIC = re.compile(
    r"Engine core initialization failed|EngineCore failed to start|EngineDeadError|"
    r"WorkerProc initialization failed|Engine process failed to start|"
    r"validation errors? for|BrokenPipeError|CancelledError|KeyboardInterrupt|SystemExit"
)
_PYDANTIC = re.compile(r"\s*\[type=\w+, input_value=.*$")
_REASON_MOST = 400
_ADDRESS_IN_USE = re.compile(r"address already in use|Errno 98|EADDRINUSE", re.IGNORECASE)

_PHASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Downloading|Fetching \d+ files", re.IGNORECASE), "download"),
    (re.compile(r"Starting to load model|Loading safetensors|loading weights", re.I), "weights"),
    (re.compile(r"Model loading took|Loading weights took"), "weights loaded"),
    (re.compile(r"torch\.compile|Compiling a graph", re.IGNORECASE), "compile"),
    (re.compile(r"Capturing CUDA graph", re.IGNORECASE), "graphs"),
    (re.compile(r"GPU KV cache size|KV cache size|# GPU blocks"), "kv cache"),
    (re.compile(r"Application startup complete"), "server"),
)


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


def reason(lines: Sequence[str]) -> str | None:
    """The line that says why a process failed, without the logger's prefix; None if none does.

    The last line that names a cause; lines that only say that something else failed give way.
    """
    generic = None
    for line in reversed(lines):
        text = _PREFIX.sub("", line.rstrip())
        if any(cause.match(text) for cause in _CAUSES):
            if not _GENERIC.search(text):
                return _short(text)
            generic = generic or _short(text)
    return generic


def _short(text: str) -> str:
    """Without what pydantic appends about its input, and of readable length."""
    text = _PYDANTIC.sub("", text.strip())
    return text if len(text) <= _REASON_MOST else f"{text[: _REASON_MOST - 4]} ..."


def address_in_use(lines: Sequence[str]) -> bool:
    """Whether a process ended because somebody else took its port."""
    return any(_ADDRESS_IN_USE.search(line) for line in lines)


def phases(lines: Sequence[str]) -> list[str]:
    """The phases of a start that these lines announce, in the order they were reached."""
    found: list[str] = []
    for line in lines:
        for pattern, word in _PHASES:
            if pattern.search(line) and word not in found:
                found.append(word)
    return found


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
