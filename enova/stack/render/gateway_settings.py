"""From the stack's gateway to what Envoy is told, given where its files and ports are.

In: the resource and the places a target chose. Out: ``GatewaySettings``, from which Envoy's files
are rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from urllib.parse import urlsplit

from enova.stack.render.envoy_settings import GatewayService, GatewaySettings, RateLimit, Tls
from enova.stack.resources import GatewayResource


@dataclass(frozen=True)
class GatewayPlaces:
    """Paths and ports of one gateway process. Exactly one of ``admin_path`` and ``admin_port``.

    ``listen_host`` is where clients are heard when that is not the resource's own ``host``, as in
    a container, whose port is published there.
    """

    config_dir: str
    members_dir: str
    access_log: str
    keys: str
    certificate: str
    metrics_port: int | None
    admin_path: str | None = None
    admin_port: int | None = None
    kept_hosts: tuple[str, ...] = ()
    listen_host: str | None = None
    metrics_host: str = "127.0.0.1"


def settings_of(resource: GatewayResource, *, stack: str, places: GatewayPlaces) -> GatewaySettings:
    """The settings of one gateway process."""
    tls = None
    if resource.tls_certificate is not None and resource.tls_key is not None:
        tls = Tls(resource.tls_certificate, resource.tls_key)
    return GatewaySettings(
        stack=stack,
        services=tuple(
            GatewayService(
                name=service,
                models=tuple(r.served_name for r in resource.routes if r.service == service),
                routing="prefix" if resource.routing == "prefix" else "least-request",
                idle_timeout_s=resource.idle_timeout_s,
                max_pending=resource.max_pending,
                max_requests=resource.max_requests,
            )
            for service in sorted({route.service for route in resource.routes})
        ),
        config_dir=places.config_dir,
        members_dir=places.members_dir,
        access_log_path=places.access_log,
        listen_host=places.listen_host or resource.host,
        kept_hosts=places.kept_hosts,
        port=resource.port,
        admin_path=places.admin_path,
        admin_port=places.admin_port,
        metrics_port=places.metrics_port,
        metrics_host=places.metrics_host,
        max_body_bytes=resource.max_body_bytes,
        keys_path=places.keys if resource.keys else None,
        rate_limit=_limit(resource.rate) if resource.rate is not None else None,
        key_rates=tuple(
            (key.name, _limit(key.rate)) for key in resource.keys if key.rate is not None
        ),
        tls=tls,
        tls_path=places.certificate if tls else None,
        otlp_endpoint=otlp_address(resource.traces.endpoint) if resource.traces else None,
        trace_sampling=resource.traces.sampling if resource.traces else 1.0,
    )


def otlp_address(endpoint: str) -> tuple[str, int]:
    """Host and port of ``http://host:4317``. Raises ValueError for anything else."""
    parts = urlsplit(endpoint)
    if parts.scheme != "http" or not parts.hostname or parts.port is None:
        raise ValueError(f'"{endpoint}" is no endpoint for spans: write http://host:4317')
    return parts.hostname, parts.port


def _limit(rate: float) -> RateLimit:
    """A rate with as much burst as one second brings."""
    return RateLimit(rate, max(1, ceil(rate)))
