"""One hardened compose service as plain data: what replicas, gateway and monitors are made of.

In: values that say what runs and what it needs. Out: the service as Compose reads it, so every
``$`` that is not a reference to a secret is written ``$$``. Everything is as closed as an image
can bear; what it cannot is an argument that its caller gives with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from enova.base.digest import canonical
from enova.base.secret import SecretRef
from enova.stack.resources import Fields

Document = dict[str, object]

INSIDE = "inside"
"""The network of everything: no way out, a fixed address each."""
OUTSIDE = "outside"
"""The network of what publishes a port or downloads a model."""

LOOPBACK = "127.0.0.1"
MIB = 2**20
GIB = 2**30

_LOG_BOUNDS = {"max-size": "8m", "max-file": "4"}


@dataclass(frozen=True)
class Project:
    """One stack in one environment as Compose sees it.

    ``subnet`` is that of ``INSIDE`` (``10.213.7.0/24``), ``user`` the ``uid:gid`` that owns the
    folders that are mounted, ``cores`` what the engine's host has: Docker refuses limits above it.
    """

    stack: str
    env: str
    subnet: str
    user: str
    cores: int = 1

    @property
    def name(self) -> str:
        """The project's name. No name of a stack or environment has an underscore."""
        return f"enova-{self.stack}_{self.env}" if self.env else f"enova-{self.stack}"


@dataclass(frozen=True)
class Mark:
    """Whose a container is, and what it was started as; ``apply`` is the id of that apply.

    ``kind`` is ``replica``, ``gateway``, ``monitor`` or ``reconciler``.
    """

    kind: str
    instance: str
    address: str
    digest: str
    fields: Fields
    apply: str


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host, relative ones written ``./x``, or a named volume."""

    source: str
    target: str
    read_only: bool = True

    @property
    def volume(self) -> bool:
        """Whether the source is a named volume."""
        return not self.source.startswith(("/", "."))


@dataclass(frozen=True)
class Port:
    """A port of the container, published on an address of the host."""

    target: int
    published: int
    host: str = LOOPBACK


@dataclass(frozen=True)
class Health:
    """A command in the container that fails while it does not serve. Seconds."""

    test: tuple[str, ...]
    start_s: float = 30.0
    interval_s: float = 10.0
    timeout_s: float = 5.0


@dataclass(frozen=True)
class Limits:
    """The most it may take. ``cores`` pins it to these, ``cpus`` only bounds it."""

    memory_bytes: int
    pids: int
    cpus: float | None = None
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Gpus:
    """GPUs by the ids that NVIDIA's driver gives them; no ids: all of them."""

    ids: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ("gpu",)


def program(
    project: Project,
    *,
    mark: Mark,
    image: str,
    entrypoint: Sequence[str],
    command: Sequence[str],
    ip: str,
    limits: Limits,
    health: Health | None,
    environment: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    mounts: Iterable[Mount] = (),
    ports: Iterable[Port] = (),
    outside: bool = False,
    gpus: Gpus | None = None,
    shm_bytes: int = 0,
    tmp_bytes: int = 64 * MIB,
    tmp_exec: bool = False,
    stop_s: float = 10.0,
    cap_add: Iterable[str] = (),
    user: str | None = None,
    alias: str | None = None,
    more: Mapping[str, object] | None = None,
) -> Document:
    """One service. ``secrets`` maps a variable of the container to a reference (``reference``).

    ``ip`` is its address in ``INSIDE``, ``alias`` a name it answers to there. Publishing a port or
    ``outside`` puts it in ``OUTSIDE`` too. ``cap_add`` and ``user`` are for images that cannot do
    without; ``more`` are further keys of the service, which win.
    """
    ports = tuple(ports)
    names: Document = {"aliases": [alias]} if alias is not None else {}
    networks: Document = {INSIDE: {"ipv4_address": ip, **names}}
    if ports or outside:
        networks[OUTSIDE] = {}
    added = sorted(cap_add)
    variables = {name: literal(value) for name, value in (environment or {}).items()}
    variables |= dict(secrets or {})
    service: Document = {
        "image": literal(image),
        "pull_policy": "missing",
        "entrypoint": [literal(word) for word in entrypoint],
        "command": [literal(word) for word in command],
        "user": user or project.user,
        "environment": dict(sorted(variables.items())),
        "volumes": [_mount(mount) for mount in mounts],
        "networks": networks,
        "ports": [_port(port) for port in ports],
        "deploy": {"resources": _resources(project, limits, gpus)},
        "cpuset": _cpuset(project, limits),
        "shm_size": _bytes(shm_bytes) if shm_bytes else "",
        "tmpfs": [f"/tmp:mode=1777,size={_bytes(tmp_bytes)}{',exec' if tmp_exec else ''}"],  # noqa: S108
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": added,
        "security_opt": ["no-new-privileges:true"],
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": _seconds(stop_s),
        "healthcheck": _health(health) if health else {},
        "logging": {"driver": "json-file", "options": dict(_LOG_BOUNDS)},
        "labels": labels(project, mark),
    }
    service |= dict(more or {})
    # What does not apply is left out. An empty command is a statement: the image's own is not run.
    return {k: v for k, v in service.items() if k == "command" or v not in ("", [], {})}


def labels(project: Project, mark: Mark) -> dict[str, str]:
    """The labels of a container as Compose reads them. Without secrets."""
    return {
        "enova.stack": project.stack,
        "enova.env": project.env,
        "enova.kind": mark.kind,
        "enova.instance": mark.instance,
        "enova.address": mark.address,
        "enova.digest": mark.digest,
        "enova.apply": literal(mark.apply),
        "enova.fields": literal(canonical(mark.fields)),
    }


def literal(text: str) -> str:
    """A text that Compose must not interpolate."""
    return text.replace("$", "$$")


def secret_variable(owner: str, name: str) -> str:
    """The variable Compose is called with for a secret: ``ENOVA_CHAT__HF_TOKEN``.

    The same for all replicas of a service, of which ``owner`` is the name.
    """
    return f"ENOVA_{owner.upper().replace('-', '_')}__{name}"


def reference(owner: str, name: str, secret: SecretRef) -> str:
    """A value that Compose takes from its own environment, or says where it comes from."""
    where = re.sub(r"[^\w ./@:+=,-]", "_", secret.describe())
    return f"${{{secret_variable(owner, name)}:?{where}}}"


def _mount(mount: Mount) -> Document:
    if mount.volume:
        return {"type": "volume", "source": mount.source, "target": literal(mount.target)}
    return {
        "type": "bind",
        "source": literal(mount.source),
        "target": literal(mount.target),
        "read_only": mount.read_only,
        # A wrong path is an error, not a new folder that belongs to root.
        "bind": {"create_host_path": False},
    }


def _port(port: Port) -> str:
    host = LOOPBACK if port.host == "localhost" else port.host
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port.published}:{port.target}"


def _resources(project: Project, limits: Limits, gpus: Gpus | None) -> Document:
    bounds: Document = {}
    if limits.cpus is not None:
        bounds["cpus"] = f"{min(limits.cpus, float(project.cores)):g}"
    bounds["memory"] = _bytes(limits.memory_bytes)
    bounds["pids"] = limits.pids
    if gpus is None:
        return {"limits": bounds}
    which: Document = {"device_ids": list(gpus.ids)} if gpus.ids else {"count": "all"}
    device = {"driver": "nvidia", **which, "capabilities": list(gpus.capabilities)}
    return {"limits": bounds, "reservations": {"devices": [device]}}


def _cpuset(project: Project, limits: Limits) -> str:
    """Cores to keep to; none where the pool states more of them than the host has."""
    there = all(core < project.cores for core in limits.cores)
    return ",".join(str(core) for core in limits.cores) if there else ""


def _health(health: Health) -> Document:
    return {
        "test": ["CMD", *(literal(word) for word in health.test)],
        "interval": _seconds(health.interval_s),
        "timeout": _seconds(health.timeout_s),
        "retries": 3,
        "start_period": _seconds(health.start_s),
    }


def _seconds(seconds: float) -> str:
    return f"{max(1, round(seconds))}s"


def _bytes(count: int) -> str:
    """``2560m``: whole MiB, rounded up."""
    return f"{-(-count // MIB)}m"
