"""What Docker says of a container, as a value: does it run, why not, is it what was started.

In: what ``docker inspect`` tells. Out: words. Pure: nothing is asked here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from enova.base.digest import digest
from enova.effects.drivers import log_words

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
FOLDER = "com.docker.compose.project.working_dir"
_HASH = "com.docker.compose.config-hash"

STACK, ENV = "enova.stack", "enova.env"
KIND, INSTANCE, ADDRESS = "enova.kind", "enova.instance", "enova.address"
DIGEST, FIELDS = "enova.digest", "enova.fields"

Facts = dict[str, Any]


@dataclass(frozen=True)
class Container:
    """One container. ``status`` is Docker's: created, running, paused, restarting, exited, dead."""

    id: str
    name: str
    created: str
    status: str
    exit_code: int
    out_of_memory: bool
    error: str
    restarts: int
    labels: Mapping[str, str]
    gpus: tuple[str, ...]
    cores: tuple[int, ...]
    memory_bytes: int
    facts: Facts
    """What makes it the container that was started, by name, comparable later."""

    @property
    def service(self) -> str:
        """Its service in the Compose project."""
        return self.labels.get(SERVICE, "")

    @property
    def label(self) -> str:
        """Whose it is, for people."""
        owner = self.labels.get(STACK, "")
        env = self.labels.get(ENV, "")
        return f"{self.labels.get(ADDRESS, self.name)} of stack {owner}{f' ({env})' if env else ''}"


def from_inspect(data: Mapping[str, Any]) -> Container:
    """The value of one ``docker inspect`` document."""
    state, config, host = data["State"], data["Config"], data["HostConfig"]
    return Container(
        id=data["Id"],
        name=str(data["Name"]).lstrip("/"),
        created=str(data["Created"]),
        status=state["Status"],
        exit_code=int(state["ExitCode"]),
        out_of_memory=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        restarts=int(data.get("RestartCount") or 0),
        labels=dict(config.get("Labels") or {}),
        gpus=tuple(
            str(name)
            for request in host.get("DeviceRequests") or ()
            for name in request.get("DeviceIDs") or ()
        ),
        cores=_cores(str(host.get("CpusetCpus") or "")),
        memory_bytes=int(host.get("Memory") or 0),
        facts=_facts(data),
    )


def ended(container: Container | None, *, created: bool, served: bool) -> str | None:
    """Why it does not run, None while it does. ``created``: it was seen once.

    Docker starts again what ends by itself (``unless-stopped``). One that never served is not
    waited for; one that has served comes back, so its restarts are not its end.
    """
    if container is None:
        if created:
            return "its container was removed by hand"
        return "it was never started: enova was interrupted before"
    code = container.exit_code
    killed = "killed: it took more memory than its limit" if container.out_of_memory else ""
    match container.status:
        case "running" | "paused" if served or not container.restarts:
            return None
        case "restarting" if served:
            return None
        case "running" | "paused":
            return killed or "it exits and is started again by Docker"
        case "restarting":
            return killed or f"exited with code {code}"
        case "created" if not container.error:
            return "its container was made and never started: enova was interrupted before"
    if container.error:
        return f"Docker could not start it: {container.error}"
    return killed or f"stopped by hand (exit code {code})"


def with_cause(reason: str, lines: Sequence[str]) -> str:
    """The reason and, where it ended by itself, the line of its output that says why."""
    cause = log_words.reason(lines) if "by hand" not in reason else None
    return f"{reason}: {cause}" if cause else reason


def restarting(container: Container) -> bool:
    """Whether Docker waits before it starts it again."""
    return container.status == "restarting"


def plain_facts(container: Container, *, secret: Collection[str]) -> Facts:
    """Its facts to be kept. Of secrets in its environment only the names, not even a digest."""
    kept = dict(container.facts)
    kept["environment"] = {
        name: "" if name in secret else digest([value])
        for name, value in cast(dict[str, str], container.facts["environment"]).items()
    }
    return kept


def differences(container: Container, kept: Facts, *, secret: Collection[str]) -> tuple[str, ...]:
    """What is not as it was when it was started, in words."""
    found = []
    now = plain_facts(container, secret=secret)
    for name, words in _WORDS.items():
        if name not in kept or now.get(name) == kept[name]:
            continue
        if name == "networks" and container.status not in ("running", "paused"):
            continue
        found += _changed(name, words, kept[name], now.get(name))
    return tuple(found)


_WORDS = {
    "labels": "label",
    "image": "it runs another image",
    "command": "it runs another command",
    "environment": "variable",
    "user": "it runs as another user",
    "limits": "limit",
    "devices": "it was given other devices",
    "mounts": "it has other mounts",
    "ports": "it publishes other ports",
    "networks": "it is in other networks or has another address there",
    "restart": "its restart policy was changed",
    "rights": "right",
    "hash": "it was made from an edited compose file",
}
"""In this order. A word alone is followed by what of it was changed."""


def _changed(name: str, words: str, before: object, now: object) -> list[str]:
    if " " in words or not isinstance(before, dict) or not isinstance(now, dict):
        return [words if " " in words else f"its {name} were changed"]
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    shown = name not in ("environment",)
    return [
        f"its {words} {key} was changed"
        + (f" from {before.get(key) or 'nothing'} to {now.get(key) or 'nothing'}" if shown else "")
        for key in changed
    ]


def _facts(data: Mapping[str, Any]) -> Facts:
    config, host = data["Config"], data["HostConfig"]
    labels = config.get("Labels") or {}
    variables = (str(entry).partition("=") for entry in config.get("Env") or ())
    networks = (data.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        "labels": {k: v for k, v in sorted(labels.items()) if k.startswith("enova.")},
        "image": data["Image"],
        "command": [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())],
        "environment": {name: value for name, _, value in sorted(variables)},
        "user": config.get("User") or "",
        "limits": {
            "memory": host.get("Memory") or 0,
            "cpus": (host.get("NanoCpus") or 0) / 1e9,
            "cores": host.get("CpusetCpus") or "",
            "processes": host.get("PidsLimit") or 0,
            "shared memory": host.get("ShmSize") or 0,
        },
        "devices": [
            [
                request.get("Driver") or "",
                request.get("Count") or 0,
                list(request.get("DeviceIDs") or ()),
                request.get("Capabilities") or [],
            ]
            for request in host.get("DeviceRequests") or ()
        ],
        "mounts": sorted(
            [str(m.get("Source")), str(m.get("Destination")), bool(m.get("RW"))]
            for m in data.get("Mounts") or ()
        ),
        "ports": {
            port: [[b.get("HostIp"), b.get("HostPort")] for b in bindings or ()]
            for port, bindings in sorted((host.get("PortBindings") or {}).items())
        },
        "networks": {
            name: ((found or {}).get("IPAMConfig") or {}).get("IPv4Address") or ""
            for name, found in sorted(networks.items())
        },
        "restart": (host.get("RestartPolicy") or {}).get("Name") or "",
        "rights": {
            "privileged": bool(host.get("Privileged")),
            "capabilities": sorted(host.get("CapAdd") or ()),
            "dropped capabilities": sorted(host.get("CapDrop") or ()),
            "security": sorted(host.get("SecurityOpt") or ()),
            "read-only": bool(host.get("ReadonlyRootfs")),
        },
        "hash": labels.get(_HASH, ""),
    }


def _cores(text: str) -> tuple[int, ...]:
    """``0-2,5`` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return tuple(sorted(set(found)))
