"""The resources of a stack as values: what should run, independent of where it happens to run.

A service is one template and a count; a replica is the template in a slot. ``fields`` flattens a
resource into path and value pairs, and the digest of those pairs is the identity that drivers keep
with what they start. Count, slot, host, ports and devices are not part of it: they belong to the
scaler, to placement and to the engine, so moving or scaling never looks like a changed resource.
Nor are the edges an engine counts by: they follow the goals, and goals change nothing that runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from enova.base import address as addresses
from enova.base.digest import digest, plain
from enova.base.secret import SecretRef
from enova.stack.owners import ADOPTED_ARGS
from enova.stack.watched import Watched

Scalar = str | int | float | bool | None
Fields = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True)
class Needs:
    """Devices one replica takes: GPUs of a type, or cores and memory of a processor."""

    gpu_type: str | None
    gpus: int
    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class ReplicaTemplate:
    """One way to run a service's model. ``args`` are flags without dashes; True is a bare flag.

    ``{port}`` and other values only a driver knows are not in here. ``secret_env`` holds
    references; drivers resolve them at the moment of start.
    """

    service: str
    engine: str
    engine_version: str
    executable: str
    model: str
    served_name: str
    args: tuple[tuple[str, Scalar], ...]
    env: tuple[tuple[str, str], ...]
    secret_env: tuple[tuple[str, SecretRef], ...]
    needs: Needs
    image: str | None = None
    start_timeout_s: float = 600.0
    drain_timeout_s: float = 120.0
    weight: int = 100
    pinned: tuple[str, ...] = ()
    """Those of ``args`` and ``engine.image`` the spec states itself: what they are is no choice."""

    def fields(self) -> Fields:
        """Path and value pairs, sorted, of everything that makes a running engine this one.

        Not how it measures (``ADOPTED_ARGS``), unless the spec states that itself.
        """
        adopted = ADOPTED_ARGS - set(self.pinned)
        pairs: list[tuple[str, Scalar]] = [
            ("engine.name", self.engine),
            ("engine.version", self.engine_version),
            ("engine.executable", self.executable),
            ("engine.image", self.image),
            ("model.id", self.model),
            ("model.served_name", self.served_name),
            ("needs.gpu_type", self.needs.gpu_type),
            ("needs.gpus", self.needs.gpus),
            ("needs.cores", self.needs.cores),
            ("needs.memory_bytes", self.needs.memory_bytes),
        ]
        pairs += [(f"args.{flag}", value) for flag, value in self.args if flag not in adopted]
        pairs += [(f"env.{name}", value) for name, value in self.env]
        pairs += [(f"secret_env.{name}", ref.describe()) for name, ref in self.secret_env]
        return tuple(sorted((path, value) for path, value in pairs if value is not None))

    @property
    def digest(self) -> str:
        """Identity of the running engine this template asks for."""
        return digest(self.fields())


@dataclass(frozen=True)
class Rollout:
    """How replicas of a service are replaced."""

    surge: int = 1
    max_unavailable: int = 0


@dataclass(frozen=True)
class ServiceResource:
    """One service: its template, the count to begin with, bounds and rollout."""

    name: str
    template: ReplicaTemplate
    initial_count: int
    least: int
    most: int
    rollout: Rollout = Rollout()
    priority: int = 100
    protect: bool = False


@dataclass(frozen=True)
class KeyReference:
    """An API key by reference, with its own rate."""

    name: str
    secret: SecretRef
    rate: float | None = None


@dataclass(frozen=True)
class Traces:
    """Where spans go, OTLP over gRPC (``http://host:4317``), and what share of requests is traced.

    A client's ``traceparent`` goes on; it can forbid the sampling of its request, not force it.
    """

    endpoint: str
    sampling: float = 1.0


@dataclass(frozen=True)
class Route:
    """How the gateway reaches one service."""

    service: str
    served_name: str


@dataclass(frozen=True)
class GatewayResource:
    """The stack's one gateway. All of it can change while it runs."""

    host: str
    port: int
    routing: str
    routes: tuple[Route, ...]
    keys: tuple[KeyReference, ...] = ()
    max_body_bytes: int = 8 * 2**20
    rate: float | None = None
    max_pending: int = 1024
    max_requests: int = 4096
    idle_timeout_s: float = 600.0
    tls_certificate: str | None = None
    tls_key: str | None = None
    traces: Traces | None = None
    image: str | None = None
    """None: the target has its own, or runs a program."""

    def fields(self) -> Fields:
        """Path and value pairs, sorted."""
        pairs: list[tuple[str, Scalar]] = [
            ("host", self.host),
            ("port", self.port),
            ("routing", self.routing),
            ("limits.max_body", self.max_body_bytes),
            ("limits.rate", self.rate),
            ("limits.max_pending", self.max_pending),
            ("limits.max_requests", self.max_requests),
            ("limits.idle_timeout", self.idle_timeout_s),
            ("tls.certificate", self.tls_certificate),
            ("tls.key", self.tls_key),
            ("image", self.image),
        ]
        if self.traces is not None:
            pairs.append(("traces.endpoint", self.traces.endpoint))
            pairs.append(("traces.sampling", self.traces.sampling))
        pairs += [(f"routes.{route.service}", route.served_name) for route in self.routes]
        for key in self.keys:
            pairs.append((f"keys.{key.name}", key.secret.describe()))
            pairs.append((f"keys.{key.name}.rate", key.rate))
        return tuple(sorted((path, value) for path, value in pairs if value is not None))

    @property
    def digest(self) -> str:
        """Identity of the running gateway this resource asks for."""
        return digest(self.fields())

    def in_place(self, paths: Iterable[str]) -> bool:
        """Whether these fields change while it runs: all of a gateway's do."""
        del paths
        return True


_READ_AGAIN: Mapping[str, tuple[str, ...]] = {
    "prometheus": ("scrape_interval", "watched."),
    "alertmanager": ("secrets.",),
    "grafana": ("watched.",),
}
"""Fields that a monitor takes over while it runs, by its name: a path, or with a dot at its end all
below. What is rendered of anything else needs another process."""


@dataclass(frozen=True)
class MonitorResource:
    """One program of the stack's monitoring. Its files are rendered from this when it is started.

    ``port`` is where people and programs outside the stack reach it on ``host``; None: the target
    picks one, or shows it to nobody. ``peers`` are the monitors of the stack it is wired to, by
    name. ``secrets`` are references; drivers resolve them at the moment of start.
    """

    name: str
    host: str = "127.0.0.1"
    port: int | None = None
    image: str | None = None
    settings: tuple[tuple[str, Scalar], ...] = ()
    """Of this program alone, sorted by path. Seconds."""
    secrets: tuple[tuple[str, SecretRef], ...] = ()
    peers: tuple[str, ...] = ()
    watched: Watched | None = None
    """What rules and dashboards are about; None for a program that has neither."""
    pinned: tuple[str, ...] = ()
    """``image`` when the spec states it: then it is no choice."""

    @property
    def address(self) -> str:
        """``monitoring/prometheus``."""
        return addresses.monitor(self.name)

    def seconds(self, path: str) -> float:
        """The setting at ``path`` as a number. Raises KeyError when there is none."""
        value = dict(self.settings)[path]
        if isinstance(value, (int, float)):
            return float(value)
        raise KeyError(path)

    def fields(self) -> Fields:
        """Path and value pairs, sorted."""
        pairs: list[tuple[str, Scalar]] = [
            ("host", self.host),
            ("port", self.port),
            ("image", self.image),
            *self.settings,
        ]
        pairs += [(f"secrets.{name}", reference.describe()) for name, reference in self.secrets]
        pairs += [(f"peers.{name}", True) for name in self.peers]
        pairs += _watched(self.watched)
        return tuple(sorted((path, value) for path, value in pairs if value is not None))

    @property
    def digest(self) -> str:
        """Identity of the running program this resource asks for."""
        return digest(self.fields())

    def in_place(self, paths: Iterable[str]) -> bool:
        """Whether these fields change while it runs: its files are written anew and read again."""
        kept = _READ_AGAIN.get(self.name, ())
        return all(
            any(path.startswith(k) if k.endswith(".") else path == k for k in kept)
            for path in paths
        )


WATCHED = "watched."
"""How the paths of fields begin that follow from what is watched."""


def _watched(watched: Watched | None) -> Iterator[tuple[str, Scalar]]:
    """All of it, so that nothing rendered from it goes unnoticed. A service goes by its name."""
    for key, value in _mapping(plain(watched)).items():
        named = [_mapping(one) for one in value] if isinstance(value, list) else []
        for one in named:
            yield from _flat(f"{WATCHED}{one.pop('name')}", one)
        if not named:
            yield from _flat(f"{WATCHED}{key}", value)


def _flat(path: str, value: object) -> Iterator[tuple[str, Scalar]]:
    """Path and value pairs below ``path``. In a list, what has a name goes by it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    elif isinstance(value, list) and all(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(map(_mapping, value)):
            yield from _flat(f"{path}.{one.pop('name', number)}", one)
    elif isinstance(value, list):
        yield path, ", ".join(str(one) for one in value)
    elif value is None or isinstance(value, (str, int, float, bool)):
        yield path, value


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}


@dataclass(frozen=True)
class ReconcilerResource:
    """The stack's own reconciler, where the target runs one.

    ``variables`` are those of the environment that the stack reads secrets from, ``files`` and
    ``folders`` what else it reads besides its state: secrets, traces, certificates. Each sorted.
    """

    image: str
    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()

    def fields(self) -> Fields:
        """Path and value pairs, sorted."""
        pairs: list[tuple[str, Scalar]] = [("image", self.image)]
        pairs += [(f"variables.{name}", True) for name in self.variables]
        pairs += [(f"files.{path}", True) for path in self.files]
        pairs += [(f"folders.{path}", True) for path in self.folders]
        return tuple(sorted(pairs))

    @property
    def digest(self) -> str:
        """Identity of the running reconciler this resource asks for."""
        return digest(self.fields())

    def in_place(self, paths: Iterable[str]) -> bool:
        """Whether these fields change while it runs: none does."""
        del paths
        return False


@dataclass(frozen=True)
class Stack:
    """Everything that should run under one name. An empty stack is what ``destroy`` asks for."""

    name: str
    services: tuple[ServiceResource, ...] = ()
    gateway: GatewayResource | None = None
    monitors: tuple[MonitorResource, ...] = ()
    """Sorted by name."""
    reconciler: ReconcilerResource | None = None
    """None: nobody of the stack reconciles it."""
    labels: tuple[tuple[str, str], ...] = field(default=())

    def service(self, name: str) -> ServiceResource | None:
        """The service of that name."""
        return next((service for service in self.services if service.name == name), None)

    def monitor(self, name: str) -> MonitorResource | None:
        """The monitor of that name."""
        return next((monitor for monitor in self.monitors if monitor.name == name), None)
