"""The programs that watch a stack, as compose services: what each image needs, and no more.

In: a monitor's resource and its folders. Out: a service. Its files are in ``CONFIG`` (read-only),
what it keeps in ``Watcher.data``; both belong to the project's user, so no image needs to begin as
root. Nothing is published but what the resource has a port for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enova.base.secret import SecretRef
from enova.stack import monitoring
from enova.stack.render import monitors
from enova.stack.render.compose_parts import (
    GIB,
    MIB,
    Document,
    Gpus,
    Health,
    Limits,
    Mark,
    Mount,
    Port,
    Project,
    program,
    reference,
)
from enova.stack.render.monitors import MonitorPlaces
from enova.stack.resources import MonitorResource

CONFIG = "/enova/config"
DATA = "/enova/data"
TARGETS = "/enova/targets"

NOBODY = "65534:65534"

_GENERATED = SecretRef(file="run/grafana-password of the state folder, which is generated")


@dataclass(frozen=True)
class Watcher:
    """What one program's container is made of. ``port`` is where it listens inside.

    ``arguments`` is its command, or what a container adds to that of ``monitors.command``.
    ``ready`` is a path that answers 200 when it serves; None where the image has no program beside
    its own, so that nothing in it could ask. ``secrets`` maps those of the resource that the
    program reads from its environment to their variables.
    """

    port: int
    program: str
    memory_bytes: int
    arguments: tuple[str, ...] = ()
    ready: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()
    configured: bool = True
    keeps: bool = True
    metrics: int | None = None
    data: str = DATA
    """Where it keeps things; what its image declares a volume, or a nameless one would be made."""

    @property
    def metrics_port(self) -> int:
        """Where ``/metrics`` is: ``port`` unless it has one of its own for that."""
        return self.metrics or self.port


WATCHERS: Mapping[str, Watcher] = {
    monitoring.ALERTMANAGER: Watcher(
        9093, "/bin/alertmanager", 256 * MIB, ready="/-/ready", data="/alertmanager"
    ),
    monitoring.DCGM_EXPORTER: Watcher(
        9400,
        # Not the image's own entrypoint: it sets a file capability, which no-new-privileges bars.
        "dcgm-exporter",
        GIB,
        arguments=("--collectors", f"{CONFIG}/counters.csv", "--address", "0.0.0.0:9400"),
        keeps=False,
    ),
    monitoring.GRAFANA: Watcher(
        3000,
        "/run.sh",
        512 * MIB,
        ready="/api/health",
        environment=(
            ("GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "false"),
            ("GF_ANALYTICS_CHECK_FOR_UPDATES", "false"),
            ("GF_ANALYTICS_REPORTING_ENABLED", "false"),
            ("GF_AUTH_ANONYMOUS_ENABLED", "false"),
            ("GF_LOG_MODE", "console"),
            ("GF_PATHS_DATA", DATA),
            ("GF_PATHS_LOGS", f"{DATA}/log"),
            ("GF_PATHS_PLUGINS", f"{DATA}/plugins"),
            ("GF_PATHS_PROVISIONING", f"{CONFIG}/provisioning"),
            ("GF_SECURITY_DISABLE_GRAVATAR", "true"),
            ("GF_USERS_ALLOW_SIGN_UP", "false"),
        ),
        secrets=((monitoring.PASSWORD, "GF_SECURITY_ADMIN_PASSWORD"),),
    ),
    monitoring.NODE_EXPORTER: Watcher(
        9100,
        "/bin/node_exporter",
        128 * MIB,
        arguments=(
            "--path.rootfs=/host",
            "--path.procfs=/host/proc",
            "--path.sysfs=/host/sys",
            # These would count the container's own network.
            "--no-collector.arp",
            "--no-collector.netdev",
            "--no-collector.netstat",
            "--no-collector.sockstat",
            "--no-collector.udp_queues",
        ),
        ready="/",
        configured=False,
        keeps=False,
    ),
    monitoring.OTEL_COLLECTOR: Watcher(
        4317,
        "/otelcol-contrib",
        512 * MIB,
        arguments=(f"--config={CONFIG}/collector.yaml",),
        keeps=False,
        metrics=8889,
    ),
    monitoring.PROMETHEUS: Watcher(
        9090, "/bin/prometheus", 2 * GIB, ready="/-/ready", data="/prometheus"
    ),
    monitoring.TEMPO: Watcher(
        3200, "/tempo", GIB, arguments=(f"-config.file={CONFIG}/tempo.yaml",)
    ),
}
"""By the monitors' names."""


def monitor(
    project: Project,
    *,
    component: str,
    resource: MonitorResource,
    ip: str,
    image: str,
    apply: str,
    config: str | None = None,
    data: str | None = None,
    targets: str = "./monitoring/targets",
    profiling: bool = True,
) -> Document:
    """The service of one monitor; KeyError for an unknown name.

    ``config``, ``data`` and ``targets`` are folders of the host. Profiling counters of GPUs are
    shown by their driver to administrators alone, so with ``profiling`` the DCGM exporter is one.
    """
    name = resource.name
    what = WATCHERS[name]
    folder = f"./monitoring/{name}"
    mounts = []
    if what.configured:
        mounts.append(Mount(config or f"{folder}/config", CONFIG))
    if name == monitoring.PROMETHEUS:
        mounts.append(Mount(targets, TARGETS))
    if what.keeps:
        mounts.append(Mount(data or f"{folder}/data", what.data, read_only=False))
    if name == monitoring.NODE_EXPORTER:
        # Free space of all file systems can be asked for only where they are seen. It looks as
        # nobody, who reads no more than any user of the host.
        mounts.append(Mount("/", "/host"))
    administers = name == monitoring.DCGM_EXPORTER and profiling
    user = NOBODY if name == monitoring.NODE_EXPORTER else "0:0" if administers else None
    words = (*_command(resource, what), *what.arguments)
    given = dict(resource.secrets)
    return program(
        project,
        mark=Mark(
            "monitor", component, resource.address, resource.digest, resource.fields(), apply
        ),
        image=image,
        entrypoint=words[:1],
        command=words[1:],
        ip=ip,
        limits=Limits(what.memory_bytes, pids=512, cpus=1.0),
        health=Health(_asks(what.port, what.ready)) if what.ready is not None else None,
        environment=dict(what.environment),
        secrets={
            variable: reference(name, key, given.get(key, _GENERATED))
            for key, variable in what.secrets
        },
        mounts=mounts,
        ports=[Port(what.port, resource.port, resource.host)] if resource.port is not None else [],
        # Whoever is told of alerts is elsewhere.
        outside=monitoring.WEBHOOK in given,
        # Others are told this name, so their files stay when it gets another address.
        alias=name,
        gpus=Gpus() if name == monitoring.DCGM_EXPORTER else None,
        # The second, because a root without it cannot read the user's files.
        cap_add=("SYS_ADMIN", "DAC_READ_SEARCH") if administers else (),
        user=user,
    )


def monitor_places(
    stack: str,
    name: str,
    *,
    peers: Mapping[str, str],
    secrets: Mapping[str, str] | None = None,
) -> MonitorPlaces:
    """Where a monitor finds everything in its container; ``peers`` are hosts inside by name.

    Which of its networks may connect is said where the port is published.
    """
    return MonitorPlaces(
        stack=stack,
        config=CONFIG,
        data=WATCHERS[name].data,
        targets=TARGETS,
        listen=f"0.0.0.0:{WATCHERS[name].port}",
        peers={peer: f"{ip}:{WATCHERS[peer].port}" for peer, ip in sorted(peers.items())},
        secrets=dict(secrets or {}),
    )


def _command(resource: MonitorResource, what: Watcher) -> tuple[str, ...]:
    """The program and, where it is run without containers too, the command it has there."""
    if resource.name not in monitoring.PROGRAMS:
        return (what.program,)
    return monitors.command(resource, what.program, monitor_places("", resource.name, peers={}))


def _asks(port: int, path: str) -> tuple[str, ...]:
    """These images have busybox."""
    return ("wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{port}{path}")
