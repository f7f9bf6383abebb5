"""Envoy's bootstrap as data: the whole gateway of a stack, rendered from one settings value.

In: ``GatewaySettings`` and the text of ``templates/gateway.lua``. Out: a dictionary that the
caller dumps as JSON or YAML. Pure: the same settings give the same bytes. Services come and go
through the bootstrap (a new gateway process takes over the port, see ``effects.gateway``);
replicas come and go through the membership files (``envoy_members``) without any of that.
"""

from __future__ import annotations

from enova.stack.render.envoy_clusters import (
    admin_cluster,
    nowhere_cluster,
    otlp_cluster,
    service_cluster,
)
from enova.stack.render.envoy_listener import client_listener, metrics_listener
from enova.stack.render.envoy_settings import GatewaySettings

Document = dict[str, object]

_MONITORS = "type.googleapis.com/envoy.extensions.resource_monitors"


def render_bootstrap(settings: GatewaySettings, lua_source: str) -> Document:
    """The bootstrap of one gateway process."""
    listeners = [client_listener(settings, lua_source)]
    clusters = [
        *(
            service_cluster(service, settings)
            for service in sorted(settings.services, key=lambda service: service.name)
        ),
        nowhere_cluster(),
    ]
    if settings.metrics_port is not None:
        listeners.append(metrics_listener(settings.metrics_port))
        clusters.append(admin_cluster(settings))
    if settings.otlp_endpoint is not None:
        clusters.append(otlp_cluster(*settings.otlp_endpoint))
    return {
        "stats_flush_interval": "1s",
        "node": {"id": f"{settings.stack}-gateway", "cluster": settings.stack},
        "admin": {"address": _admin_address(settings)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "stats_config": {
            "stats_tags": [{"tag_name": name, "fixed_value": v} for name, v in settings.labels]
        },
        "overload_manager": _overload(settings),
    }


def _admin_address(settings: GatewaySettings) -> Document:
    if settings.admin_path is not None:
        return {"pipe": {"path": settings.admin_path, "mode": 0o600}}
    return {"socket_address": {"address": "127.0.0.1", "port_value": settings.admin_port}}


def _overload(settings: GatewaySettings) -> Document:
    """Shed new requests before memory ends: bodies of all open requests are kept for retries."""
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"

    def action(name: str, threshold: float) -> Document:
        trigger: Document = {"name": heap, "threshold": {"value": threshold}}
        return {"name": f"envoy.overload_actions.{name}", "triggers": [trigger]}

    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": f"{_MONITORS}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": settings.max_heap_bytes,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": f"{_MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": settings.max_connections,
                },
            },
        ],
        "actions": [action("shrink_heap", 0.9), action("stop_accepting_requests", 0.95)],
    }
