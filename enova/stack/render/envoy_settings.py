"""What the gateway is told: one frozen value, from which Envoy's bootstrap is rendered.

In: the stack's gateway section and its services, already resolved to paths and numbers. No
secret is in here: API keys are values of a file that is written at execution (see
``envoy_secrets``), so this value and the bootstrap may be printed, stored and reviewed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from enova.base.address import NAME

Routing = Literal["least-request", "prefix"]

MIB = 1024 * 1024


@dataclass(frozen=True)
class RateLimit:
    """Requests per second, and how many may come at once."""

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.burst < 1:
            raise ValueError("a rate limit needs a positive rate and a burst of at least 1")


@dataclass(frozen=True)
class Tls:
    """Paths of the certificate chain and key the gateway shows its clients."""

    certificate: str
    key: str


@dataclass(frozen=True)
class GatewayService:
    """One model behind ``/<name>/v1/...`` and, by its served model names, behind ``/v1/...``.

    ``idle_timeout_s`` is the longest silence of one request: it must exceed the longest answer
    that is not streamed. There is no limit on the whole time of a request. With ``slow_start_s``
    a new replica gets its share of requests gradually over that time; it is off by default,
    because Envoy then chooses by a schedule of weights, also long after the start, which follows
    the open requests less closely. ``retries`` is how many replicas may die together, as with
    their host, without a request failing: one that meets only dead ones has that many to meet.
    """

    name: str
    models: tuple[str, ...]
    routing: Routing = "least-request"
    idle_timeout_s: float = 900.0
    connect_timeout_s: float = 2.0
    max_pending: int = 1024
    max_requests: int = 4096
    retries: int = 5
    retry_budget_percent: float = 75.0
    retry_floor: int = 64
    slow_start_s: float = 0.0
    hash_balance_percent: int = 125
    health_path: str = "/health"
    health_interval_s: float = 1.0
    health_timeout_s: float = 2.0

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise ValueError(f'"{self.name}" is not a service name')
        if self.name == "v1":
            raise ValueError('a service may not be called "v1": /v1 is the way by model')
        if not self.models:
            raise ValueError(f"service {self.name} serves no model")


@dataclass(frozen=True)
class GatewaySettings:
    """One gateway of one stack. Exactly one of ``admin_path`` and ``admin_port`` is set.

    ``config_dir`` holds the bootstrap and the watched listeners, routes and clusters.
    ``members_dir`` is watched too: it holds one membership file per service (``members_path``).
    ``keys_path`` is where the API keys will be, empty when the gateway asks for none; a client
    without an entry in ``key_rates`` is bound by ``rate_limit`` alone, which is for all together.
    ``kept_hosts`` are addresses that ``listen_host`` covers and that had a listener before it:
    closing theirs would reset the connections waiting there.
    ``metrics_port`` serves ``/metrics`` for Prometheus on ``metrics_host``, without the rest of the
    admin interface. ``max_body_bytes`` bounds what one request may hold in memory; a body that
    fits can also be sent again to another replica. Spans of the share ``trace_sampling`` of
    requests go to ``otlp_endpoint`` (gRPC), without those whose ``traceparent`` forbids it; where
    there is no endpoint the header passes as it came.
    """

    stack: str
    services: tuple[GatewayService, ...]
    config_dir: str
    members_dir: str
    access_log_path: str
    listen_host: str = "127.0.0.1"
    kept_hosts: tuple[str, ...] = ()
    port: int = 9199
    admin_path: str | None = None
    admin_port: int | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    max_body_bytes: int = 8 * MIB
    head_bytes: int = 512
    keys_path: str | None = None
    rate_limit: RateLimit | None = None
    key_rates: tuple[tuple[str, RateLimit], ...] = ()
    tls: Tls | None = None
    tls_path: str | None = None
    otlp_endpoint: tuple[str, int] | None = None
    trace_sampling: float = 1.0
    max_connections: int = 20_000
    max_heap_bytes: int = 2048 * MIB
    labels: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if (self.admin_path is None) == (self.admin_port is None):
            raise ValueError("the gateway needs either an admin socket or an admin port")
        if self.admin_port is not None and self.keys_path is not None:
            raise ValueError("API keys need the admin socket: a port would show them to any user")
        if (self.tls is None) != (self.tls_path is None):
            raise ValueError("TLS needs both the certificate and the path of its secret file")
        if self.key_rates and self.keys_path is None:
            raise ValueError("a rate limit per key needs API keys")
        names = [service.name for service in self.services]
        if len(set(names)) != len(names):
            raise ValueError("two services have the same name")
        models = [model for service in self.services for model in service.models]
        twice = sorted({model for model in models if models.count(model) > 1})
        if twice:
            raise ValueError(f"two services serve the same model name: {', '.join(twice)}")

    def members_path(self, service: str) -> str:
        """The membership file of one service."""
        return f"{self.members_dir}/{service}.json"
