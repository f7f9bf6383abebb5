"""Which Docker engine is meant: DOCKER_HOST, else the context that the ``docker`` command uses.

In: environment variables. Out: the path of the engine's socket on this machine. Engines elsewhere
are refused: containers get their configuration from folders of this machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from enova.base.errors import Refused, Unreachable

_SCHEME = "unix://"
_CONTEXT_S = 20.0

_PASSED_ON = (
    "HOME",
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "DOCKER_CONFIG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
"""What the ``docker`` command needs of its surroundings. No COMPOSE_*: they would name other files
and projects than ours."""


def environment(surroundings: Mapping[str, str]) -> dict[str, str]:
    """The environment of a ``docker`` command, without what says which engine."""
    passed = {name: surroundings[name] for name in _PASSED_ON if name in surroundings}
    passed.setdefault("PATH", os.defpath)
    return passed


def client(surroundings: Mapping[str, str]) -> str:
    """The path of the ``docker`` command. Raises Refused when there is none."""
    found = shutil.which("docker", path=surroundings.get("PATH", os.defpath))
    if found is None:
        raise Refused(
            "there is no `docker` command on PATH. Install Docker with its Compose plugin "
            "(https://docs.docker.com/engine/install), or use pool.target: process"
        )
    return found


def login_file(surroundings: Mapping[str, str]) -> Path | None:
    """Where the ``docker`` command keeps its logins to registries, when it has any."""
    folder = surroundings.get("DOCKER_CONFIG")
    home = surroundings.get("HOME")
    if not folder and not home:
        return None
    file = Path(folder) / "config.json" if folder else Path(home or "") / ".docker" / "config.json"
    return file if file.is_file() else None


def socket(surroundings: Mapping[str, str]) -> Path:
    """The engine's socket. Raises Refused for an engine elsewhere or one this user may not use,
    Unreachable when nothing is there."""
    host, named_by = _host(surroundings)
    if not host.startswith(_SCHEME):
        raise Refused(
            f"{named_by} names the engine {host}, which is not a socket of this machine. Target "
            "compose mounts its configuration from here, so it needs a unix:// engine: unset "
            f"{named_by.split(' ', 1)[0]} or run enova there. For other machines there is "
            "pool.target: ansible"
        )
    path = Path(host.removeprefix(_SCHEME))
    try:
        exists = path.exists()
    except PermissionError:
        exists = True
    if not exists:
        raise Unreachable(
            f"no Docker engine is at {path} (from {named_by}). Start it (systemctl start docker), "
            "or say where it is with DOCKER_HOST=unix:///..."
        )
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise Refused(
            f"this user may not use the Docker engine at {path}. Join its group (sudo usermod -aG "
            "docker $USER, then log in again), or use rootless Docker"
        )
    return path


def _host(surroundings: Mapping[str, str]) -> tuple[str, str]:
    """The engine's address and what named it. DOCKER_HOST wins, as for the command itself."""
    named = surroundings.get("DOCKER_HOST")
    if named:
        return named, "DOCKER_HOST"
    context = surroundings.get("DOCKER_CONTEXT")
    command = (client(surroundings), "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    told = environment(surroundings) | ({"DOCKER_CONTEXT": context} if context else {})
    by = f"DOCKER_CONTEXT {context}" if context else "Docker's current context"
    try:
        done = subprocess.run(
            command, env=told, capture_output=True, text=True, check=False, timeout=_CONTEXT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"`docker context inspect`: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it exited with {done.returncode}"]
        raise Refused(f"{by} cannot be read: {lines[-1]}")
    return done.stdout.strip(), by
