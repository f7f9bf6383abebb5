"""The reconciler as a compose service: it keeps the stack that it is part of.

In: where the state folder and the engine's socket are. Out: a service. Whoever has the socket has
the host, so nothing else gets it, nothing connects to this one, and a systemd unit without any of
that (``stack.render.unit``) is the other way.
"""

from __future__ import annotations

from collections.abc import Mapping

from enova.base.digest import digest
from enova.base.secret import SecretRef
from enova.stack.render.compose_parts import (
    MIB,
    Document,
    Health,
    Limits,
    Mark,
    Mount,
    Project,
    program,
    reference,
)

ADDRESS = "reconciler"
SOCKET = "/var/run/docker.sock"

STALE_S = 300
"""A reconciler whose memory is older than this hangs; a tick takes seconds."""


def reconciler(
    project: Project,
    *,
    component: str,
    ip: str,
    image: str,
    apply: str,
    root: str,
    folder: str,
    socket: str = SOCKET,
    socket_group: int,
    secrets: Mapping[str, SecretRef] | None = None,
) -> Document:
    """The service. ``root`` is the folder of all stacks' state, ``folder`` this stack's below it.

    Both keep their paths: what the reconciler mounts into others is named as the host names it.
    ``secrets`` are those the stack reads from environment variables, by these variables' names.
    """
    words = ["reconcile", project.stack, *(["--env", project.env] if project.env else [])]
    fields = (("command", " ".join(words)), ("image", image))
    asks = (
        f"import os, time; age = time.time() - os.stat('{folder}/memory.json').st_mtime; "
        f"raise SystemExit(age > {STALE_S})"
    )
    return program(
        project,
        mark=Mark("reconciler", component, ADDRESS, digest(fields), fields, apply),
        image=image,
        entrypoint=["enova"],
        command=words,
        ip=ip,
        limits=Limits(512 * MIB, pids=256, cpus=1.0),
        health=Health(("python3", "-I", "-S", "-c", asks), start_s=60.0),
        environment={
            "DOCKER_HOST": f"unix://{SOCKET}",
            "ENOVA_STATE_DIR": root,
            "HOME": "/tmp",  # noqa: S108
        },
        secrets={
            name: reference(ADDRESS, name, secret) for name, secret in (secrets or {}).items()
        },
        mounts=[Mount(root, root, read_only=False), Mount(socket, SOCKET, read_only=False)],
        # A running step is finished first.
        stop_s=600.0,
        more={"group_add": [str(socket_group)]},
    )
