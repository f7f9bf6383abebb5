"""The whole gateway of a stack as Envoy's configuration, rendered from one settings value.

In: ``GatewaySettings`` and the text of ``templates/gateway.lua``. Out: data that the caller dumps
as JSON. Pure: the same settings give the same bytes. Gateways run on ``render_files``: listeners,
routes and clusters are files that Envoy watches, so that services, limits and even the port
change while requests flow (``effects.gateway.apply_files``). ``render_bootstrap`` holds the same
in one document, for Envoy's own check before anything is changed. Replicas come and go through
the membership files (``envoy_members``).
"""

from __future__ import annotations

from enova.base.digest import digest
from enova.stack.render.envoy_clusters import (
    admin_cluster,
    file_source,
    nowhere_cluster,
    otlp_cluster,
    service_cluster,
)
from enova.stack.render.envoy_listener import client_listener, metrics_listener
from enova.stack.render.envoy_routes import route_table
from enova.stack.render.envoy_settings import GatewaySettings

Document = dict[str, object]

_MONITORS = "type.googleapis.com/envoy.extensions.resource_monitors"


BOOTSTRAP = "bootstrap.json"
CLUSTERS = "clusters.json"
ROUTES = "routes.json"
LISTENERS = "listeners.json"

_RESOURCES = "type.googleapis.com/envoy.config"


def render_bootstrap(settings: GatewaySettings, lua_source: str) -> Document:
    """Everything in one document: what ``effects.gateway.validate`` has Envoy check."""
    routes: Document = {"route_config": route_table(settings)}
    return {
        **_process(settings),
        "static_resources": {
            "listeners": _listeners(settings, lua_source, routes),
            "clusters": _clusters(settings),
        },
    }


def render_files(settings: GatewaySettings, lua_source: str) -> dict[str, Document]:
    """The files of a gateway, by name in ``settings.config_dir``.

    Nothing of the stack's gateway is in ``BOOTSTRAP``, which a process reads once; any other file
    may change while it runs.
    """
    directory = settings.config_dir
    routes: Document = {
        "rds": {
            "route_config_name": settings.stack,
            "config_source": file_source(f"{directory}/{ROUTES}"),
        }
    }
    return {
        BOOTSTRAP: {
            **_process(settings),
            "dynamic_resources": {
                "lds_config": file_source(f"{directory}/{LISTENERS}"),
                "cds_config": file_source(f"{directory}/{CLUSTERS}"),
            },
        },
        CLUSTERS: _resources("cluster.v3.Cluster", _clusters(settings)),
        LISTENERS: _resources("listener.v3.Listener", _listeners(settings, lua_source, routes)),
        ROUTES: _resources("route.v3.RouteConfiguration", [route_table(settings)]),
    }


def _resources(kind: str, items: list[Document]) -> Document:
    typed: list[Document] = [{"@type": f"{_RESOURCES}.{kind}", **item} for item in items]
    return {"version_info": digest(typed), "resources": typed}


def _listeners(settings: GatewaySettings, lua_source: str, routes: Document) -> list[Document]:
    hosts = (settings.listen_host, *sorted(settings.kept_hosts))
    listeners = [client_listener(settings, host, lua_source, routes) for host in hosts]
    if settings.metrics_port is not None:
        listeners.append(metrics_listener(settings.metrics_host, settings.metrics_port))
    return listeners


def _clusters(settings: GatewaySettings) -> list[Document]:
    clusters = [
        service_cluster(service, settings)
        for service in sorted(settings.services, key=lambda service: service.name)
    ]
    clusters.append(nowhere_cluster())
    if settings.metrics_port is not None:
        clusters.append(admin_cluster(settings))
    if settings.otlp_endpoint is not None:
        clusters.append(otlp_cluster(*settings.otlp_endpoint))
    return clusters


def _process(settings: GatewaySettings) -> Document:
    """What one process keeps for its life."""
    return {
        "node": {"id": f"{settings.stack}-gateway", "cluster": settings.stack},
        "admin": {"address": _admin_address(settings)},
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
