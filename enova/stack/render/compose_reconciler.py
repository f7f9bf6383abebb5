"""The reconciler as a compose service: it keeps the stack that it is part of.

In: where the state folder and the engine's socket are. Out: a service. Whoever has the socket has
the host, so nothing else gets it, nothing connects to this one, and a systemd unit without any of
that (``stack.render.unit``) is the other way.
"""

from __future__ import annotations

from collections.abc import Iterator

from enova.base.address import RECONCILER
from enova.base.secret import SecretRef
from enova.stack.render.compose_parts import (
    GIB,
    Document,
    Gpus,
    Health,
    Limits,
    Mark,
    Mount,
    Project,
    program,
    reference,
    secret_variable,
)
from enova.stack.resources import ReconcilerResource

SOCKET = "/var/run/docker.sock"

INSIDE_VARIABLE = "ENOVA_INSIDE"
"""Set to 1 where this machine's published ports are not those of the process."""

STOP_S = 600.0
"""A running step is finished first."""

STALE_S = 300
"""A reconciler whose last look is older than this hangs; a look takes seconds."""


def reconciler(
    project: Project,
    *,
    component: str,
    resource: ReconcilerResource,
    ip: str,
    apply: str,
    root: str,
    folder: str,
    socket: str = SOCKET,
    socket_group: int,
    gpus: bool = False,
) -> Document:
    """The service. ``root`` is the folder of all stacks' state, ``folder`` this stack's below it.

    Both keep their paths: what the reconciler mounts into others is named as the host names it.
    ``gpus``: the pool has some, so it must see them, all of them, without being able to use one.
    """
    words = ["reconcile", project.stack, *(["--env", project.env] if project.env else [])]
    asks = (
        f"import os, time; age = time.time() - os.stat('{folder}/reconciler.json').st_mtime; "
        f"raise SystemExit(age > {STALE_S})"
    )
    return program(
        project,
        mark=Mark("reconciler", component, RECONCILER, resource.digest, resource.fields(), apply),
        image=resource.image,
        entrypoint=["enova"],
        command=words,
        ip=ip,
        limits=Limits(GIB, pids=256, cpus=1.0),
        health=Health(("python3", "-I", "-S", "-c", asks), start_s=60.0),
        environment={
            "DOCKER_HOST": f"unix://{SOCKET}",
            INSIDE_VARIABLE: "1",
            "ENOVA_STATE_DIR": root,
            "HOME": "/tmp",  # noqa: S108
            # The user has no entry in the image's passwd; the lease is to name somebody.
            "USER": "enova",
        },
        secrets={
            name: reference(RECONCILER, name, SecretRef(env=name)) for name in resource.variables
        },
        mounts=[
            Mount(root, root, read_only=False),
            Mount(socket, SOCKET, read_only=False),
            *(Mount(path, path) for path in _read(resource, root)),
        ],
        gpus=Gpus(capabilities=("utility",)) if gpus else None,
        stop_s=STOP_S,
        more={
            "group_add": [str(socket_group)],
            # By this name the lease, the status and their readers know it.
            "hostname": component,
            # An empty folder: the name of the stack is not to be taken for one here.
            "working_dir": "/tmp",  # noqa: S108
        },
    )


def variables(resource: ReconcilerResource) -> Iterator[tuple[str, str]]:
    """Variables of the environment, and of Compose's environment by which it gets them."""
    for name in resource.variables:
        yield name, secret_variable(RECONCILER, name)


def _read(resource: ReconcilerResource, root: str) -> Iterator[str]:
    """What it reads besides its state, which it has already."""
    for path in (*resource.files, *resource.folders):
        if not path.startswith(f"{root}/"):
            yield path
