"""The resources of a stack as values: what should run, independent of where it happens to run.

A service is one template and a count; a replica is the template in a slot. ``fields`` flattens a
resource into path and value pairs, and the digest of those pairs is the identity that drivers keep
with what they start. Count, slot, host, ports and devices are not part of it: they belong to the
scaler, to placement and to the engine, so moving or scaling never looks like a changed resource.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from enova.base.digest import digest
from enova.base.secret import SecretRef

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
    """Those of ``args`` the spec states itself: what they are is no choice."""

    def fields(self) -> Fields:
        """Path and value pairs, sorted, of everything that makes a running engine this one."""
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
        pairs += [(f"args.{flag}", value) for flag, value in self.args]
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
        ]
        pairs += [(f"routes.{route.service}", route.served_name) for route in self.routes]
        for key in self.keys:
            pairs.append((f"keys.{key.name}", key.secret.describe()))
            pairs.append((f"keys.{key.name}.rate", key.rate))
        return tuple(sorted((path, value) for path, value in pairs if value is not None))

    @property
    def digest(self) -> str:
        """Identity of the running gateway this resource asks for."""
        return digest(self.fields())


@dataclass(frozen=True)
class PrometheusResource:
    """Prometheus of the stack. ``port`` None lets the driver pick a free one."""

    port: int | None
    scrape_interval_s: float
    retention_s: float

    def fields(self) -> Fields:
        """Path and value pairs, sorted."""
        pairs: list[tuple[str, Scalar]] = [
            ("port", self.port),
            ("scrape_interval", self.scrape_interval_s),
            ("retention", self.retention_s),
        ]
        return tuple(sorted((path, value) for path, value in pairs if value is not None))

    @property
    def digest(self) -> str:
        """Identity of the running Prometheus this resource asks for."""
        return digest(self.fields())


@dataclass(frozen=True)
class Stack:
    """Everything that should run under one name. An empty stack is what ``destroy`` asks for."""

    name: str
    services: tuple[ServiceResource, ...] = ()
    gateway: GatewayResource | None = None
    prometheus: PrometheusResource | None = None
    labels: tuple[tuple[str, str], ...] = field(default=())

    def service(self, name: str) -> ServiceResource | None:
        """The service of that name."""
        return next((service for service in self.services if service.name == name), None)
