"""From the stack's gateway to what Envoy is told, given where its files and ports are.

In: the resource and the places a target chose. Out: ``GatewaySettings``, from which Envoy's files
are rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from enova.stack.render.envoy_settings import GatewayService, GatewaySettings, RateLimit, Tls
from enova.stack.resources import GatewayResource


@dataclass(frozen=True)
class GatewayPlaces:
    """Paths and ports of one gateway process. Exactly one of ``admin_path`` and ``admin_port``."""

    config_dir: str
    members_dir: str
    access_log: str
    keys: str
    certificate: str
    metrics_port: int | None
    admin_path: str | None = None
    admin_port: int | None = None
    kept_hosts: tuple[str, ...] = ()


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
        listen_host=resource.host,
        kept_hosts=places.kept_hosts,
        port=resource.port,
        admin_path=places.admin_path,
        admin_port=places.admin_port,
        metrics_port=places.metrics_port,
        max_body_bytes=resource.max_body_bytes,
        keys_path=places.keys if resource.keys else None,
        rate_limit=_limit(resource.rate) if resource.rate is not None else None,
        key_rates=tuple(
            (key.name, _limit(key.rate)) for key in resource.keys if key.rate is not None
        ),
        tls=tls,
        tls_path=places.certificate if tls else None,
    )


def _limit(rate: float) -> RateLimit:
    """A rate with as much burst as one second brings."""
    return RateLimit(rate, max(1, ceil(rate)))
