"""A monitor's files on disk, and a running one brought to new ones: the same on every target.

In: texts from ``stack.render.monitors``; how this target tells a program to read again. Out: files
for this user only, each replaced in one step; a program that has taken them over, or the old files
back in force.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from enova.base.errors import ActionFailed, Unreachable
from enova.effects.clock import Clock
from enova.effects.state.files import FOLDER_MODE, replace_file
from enova.stack.actions import Action

RELOAD_S = 20.0
_LOOK_S = 0.1
_ASK_S = 2.0
_MOST_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Running:
    """A program that runs. ``reloaded`` is its ``stack.render.monitors.Program.reloaded``;
    ``reload`` tells it to read its files again (SIGHUP); ``tail`` gives its last lines."""

    host: str
    port: int
    reloaded: str | None
    reload: Callable[[], None]
    tail: Callable[[], tuple[str, ...]]
    clock: Clock


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Bring the files below ``folder`` to these texts; others are left alone."""
    for name in sorted(texts):
        path = folder / name
        for above in reversed(path.relative_to(folder).parents[:-1]):
            (folder / above).mkdir(mode=FOLDER_MODE, exist_ok=True)
        if _read(path) != texts[name]:
            replace_file(path, texts[name].encode())


def change(action: Action, folder: Path, texts: Mapping[str, str], running: Running) -> None:
    """Write the files and have the program read them.

    Raises ActionFailed when it rejects them; then the files are as they were, and in force.
    """
    if running.reloaded is None:  # it looks at its files by itself
        write(folder, texts)
        return
    before = {name: _read(folder / name) for name in texts}
    earlier = _taken_over(running, running.reloaded)
    write(folder, texts)
    running.reload()
    end = running.clock.monotonic() + RELOAD_S
    reason = f"it has not read its files again within {RELOAD_S:.0f} s"
    while running.clock.monotonic() < end:
        now = _taken_over(running, running.reloaded)
        if now is not None and now.at_s != (earlier.at_s if earlier else None) and now.well:
            return
        if now is not None and not now.well and (earlier is None or earlier.well):
            reason = "it rejects its new files"
            break
        running.clock.sleep(_LOOK_S)
    lines = running.tail()
    for name, text in before.items():
        if text is None:
            (folder / name).unlink(missing_ok=True)
    write(folder, {name: text for name, text in before.items() if text is not None})
    running.reload()
    raise ActionFailed(action.address, "change", f"{reason}; the old ones are kept", lines)


@dataclass(frozen=True)
class _TakenOver:
    """What a program says of its last reload."""

    well: bool
    at_s: float


def _taken_over(running: Running, metric: str) -> _TakenOver | None:
    """None when it does not answer or does not say."""
    try:
        page = _page(running.host, running.port)
    except Unreachable:
        return None
    found = {}
    for line in page.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith(metric):
            found[name.removeprefix(metric)] = float(value)
    if found.keys() != {"_successful", "_success_timestamp_seconds"}:
        return None
    return _TakenOver(found["_successful"] == 1, found["_success_timestamp_seconds"])


def _page(host: str, port: int) -> str:
    """The metrics page at an address. Raises Unreachable."""
    connection = http.client.HTTPConnection(host, port, timeout=_ASK_S)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read(_MOST_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{host}:{port}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
