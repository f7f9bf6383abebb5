"""The upstream side: one Envoy cluster per service, with its balance, health and retry limits.

In: one service and where its membership file lies. Out: the cluster as data. The numbers that
are policy (what counts as dead, how many may be ejected) are constants here, each with its why.
"""

from __future__ import annotations

from enova.stack.render.envoy_settings import GatewayService, GatewaySettings

Document = dict[str, object]

ENGINE_IDLE_S = 4.0
"""Close idle connections to an engine before it does (uvicorn: 5 s), else requests race with it."""

NOWHERE = "enova_nowhere"
"""A cluster without endpoints."""

OTLP = "enova_otlp"
"""The cluster of the collector that takes spans."""

_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TYPES = "type.googleapis.com/"
_POLICIES = "envoy.extensions.load_balancing_policies"


def seconds(value: float) -> str:
    """A protobuf duration in JSON."""
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


def file_source(path: str) -> Document:
    """A piece of configuration in a file: applied whenever a file is moved into its directory."""
    return {
        "resource_api_version": "V3",
        "path_config_source": {
            "path": path,
            "watched_directory": {"path": path.rpartition("/")[0] or "/"},
        },
    }


def service_cluster(service: GatewayService, settings: GatewaySettings) -> Document:
    """The cluster of one service, named like the service."""
    return {
        "name": service.name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": file_source(settings.members_path(service.name))},
        "connect_timeout": seconds(service.connect_timeout_s),
        "per_connection_buffer_limit_bytes": 256 * 1024,
        "load_balancing_policy": {"policies": [{"typed_extension_config": _balance(service)}]},
        # Panic (use all endpoints) only when none is healthy: active checks say who is dead, so
        # sending traffic to dead replicas at 40 % healthy would only cost retries; at 0 % a busy
        # event loop may have failed its checks, and trying beats refusing.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 1},
            # Health and drain reach the workers at once: the default gathers them for a second,
            # in which a drained replica would get new requests.
            "update_merge_window": "0s",
        },
        # Sizes of bodies, which Envoy does not measure by itself.
        "track_cluster_stats": {"request_response_sizes": True},
        # A removed member must not linger because its health check still passes.
        "ignore_health_on_host_removal": True,
        "health_checks": [
            {
                "interval": seconds(service.health_interval_s),
                "no_traffic_interval": seconds(service.health_interval_s),
                "unhealthy_interval": seconds(service.health_interval_s),
                "no_traffic_healthy_interval": seconds(service.health_interval_s),
                "timeout": seconds(service.health_timeout_s),
                # Three silences or refusals; an answer such as 503 counts at once.
                "unhealthy_threshold": 3,
                "healthy_threshold": 1,
                "http_health_check": {"path": service.health_path},
            }
        ],
        "outlier_detection": {
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_time": "60s",
            "max_ejection_percent": 50,
            "consecutive_5xx": 5,
            "enforcing_consecutive_5xx": 100,
            "consecutive_gateway_failure": 3,
            "enforcing_consecutive_gateway_failure": 100,
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_local_origin_failure": 100,
            # Success rates need many hosts and much traffic to mean anything.
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "enforcing_failure_percentage": 0,
            # An engine whose /health is well while its answers are not stays out.
            "successful_active_health_check_uneject_host": False,
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "priority": "DEFAULT",
                    # HTTP/1.1: one connection per open request.
                    "max_connections": service.max_requests + service.max_pending,
                    "max_pending_requests": service.max_pending,
                    "max_requests": service.max_requests,
                    # Half of all requests are retried at once when one of two replicas dies.
                    "retry_budget": {
                        "budget_percent": {"value": service.retry_budget_percent},
                        "min_retry_concurrency": service.retry_floor,
                    },
                    "track_remaining": True,
                }
            ]
        },
        "typed_extension_protocol_options": {
            _PROTOCOL: {
                "@type": _TYPES + _PROTOCOL,
                "common_http_protocol_options": {"idle_timeout": seconds(ENGINE_IDLE_S)},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _balance(service: GatewayService) -> Document:
    if service.routing == "prefix":
        return {
            "name": "envoy.load_balancing_policies.ring_hash",
            "typed_config": {
                "@type": f"{_TYPES}{_POLICIES}.ring_hash.v3.RingHash",
                "minimum_ring_size": 1024,
                "consistent_hashing_lb_config": {
                    "hash_balance_factor": service.hash_balance_percent
                },
            },
        }
    least_request: Document = {
        "@type": f"{_TYPES}{_POLICIES}.least_request.v3.LeastRequest",
        # The best of four random ones when weights are equal; with unequal ones the share is
        # weight / (open requests + 1). Looking at all would pick a dead replica, which has no
        # open requests, again and again when a request is to be retried elsewhere.
        "choice_count": 4,
        "active_request_bias": {
            "default_value": 1.0,
            "runtime_key": f"enova.{service.name}.active_request_bias",
        },
    }
    if service.slow_start_s > 0:
        least_request["slow_start_config"] = {
            "slow_start_window": seconds(service.slow_start_s),
            "min_weight_percent": {"value": 10},
        }
    return {"name": "envoy.load_balancing_policies.least_request", "typed_config": least_request}


def nowhere_cluster() -> Document:
    """The empty cluster."""
    return {"name": NOWHERE, "type": "STATIC", "connect_timeout": "1s"}


def admin_cluster(settings: GatewaySettings) -> Document:
    """The way from the metrics listener to Envoy's own admin interface."""
    address: Document = (
        {"pipe": {"path": settings.admin_path}}
        if settings.admin_path is not None
        else {"socket_address": {"address": "127.0.0.1", "port_value": settings.admin_port}}
    )
    return _fixed("enova_admin", address)


def otlp_cluster(host: str, port: int) -> Document:
    """Where spans go: OTLP over gRPC, so HTTP/2."""
    cluster = _fixed(OTLP, {"socket_address": {"address": host, "port_value": port}})
    protocol: Document = {
        "@type": _TYPES + _PROTOCOL,
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        **cluster,
        "type": "STRICT_DNS",
        "typed_extension_protocol_options": {_PROTOCOL: protocol},
    }


def _fixed(name: str, address: Document) -> Document:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
