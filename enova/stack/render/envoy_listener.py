"""The client side: the listener, its filters in order, TLS and the access log.

In: settings and the text of the script. Out: listeners as data. Order of a request: internal
headers stripped, API key, rate limits, script (reads the body), router. Nothing in here touches
the body of an answer, so streams pass as they come.
"""

from __future__ import annotations

from enova.stack.render.envoy_clusters import OTLP, file_source, seconds
from enova.stack.render.envoy_errors import error_table
from enova.stack.render.envoy_secrets import (
    API_KEY_TYPE,
    API_KEYS,
    CERTIFICATE,
    CLIENT_METADATA,
)
from enova.stack.render.envoy_settings import GatewaySettings, RateLimit

Document = dict[str, object]

ACCESS_LOG_FIELDS: dict[str, str] = {
    "start": "%START_TIME(%s.%3f)%",
    "service": "%UPSTREAM_CLUSTER%",
    "route": "%ROUTE_NAME%",
    "instance": "%UPSTREAM_METADATA(enova:instance)%",
    "upstream": "%UPSTREAM_HOST%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:PATH)%",
    "status": "%RESPONSE_CODE%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "duration_ms": "%DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "model": "%DYNAMIC_METADATA(enova:model)%",
    "stream": "%DYNAMIC_METADATA(enova:stream)%",
    "client": f"%DYNAMIC_METADATA({':'.join(CLIENT_METADATA)})%",
}
"""One JSON line per finished request; ``effects.access_log`` reads it back."""

_TYPES = "type.googleapis.com/envoy.extensions."
_HCM = f"{_TYPES}filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER: Document = {
    "name": "envoy.filters.http.router",
    "typed_config": {
        "@type": f"{_TYPES}filters.http.router.v3.Router",
        "suppress_envoy_headers": True,
    },
}


def client_listener(
    settings: GatewaySettings, host: str, lua_source: str, routes: Document
) -> Document:
    """The listener that clients use. ``routes`` is the table itself or where it is found.

    Settings change its filter chain alone: Envoy then keeps the sockets and lets connections
    that are open end on the chain they came by. Another address is another listener.
    """
    chain: Document = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(settings, lua_source, routes),
            }
        ]
    }
    if settings.tls_path is not None:
        chain["transport_socket"] = _tls(settings.tls_path)
    return {
        "name": f"gateway-{host}-{settings.port}",
        "address": _address(host, settings.port),
        # A slow reader holds at most this much of an answer. Request bodies have their own,
        # larger limit on the virtual host, because they are kept for another try.
        "per_connection_buffer_limit_bytes": 256 * 1024,
        "enable_reuse_port": True,
        "filter_chains": [chain],
    }


def metrics_listener(host: str, port: int) -> Document:
    """``/metrics`` for Prometheus: the admin interface's counters and no more."""
    routes: list[Document] = [
        {
            "match": {"path": "/metrics"},
            "route": {"cluster": "enova_admin", "prefix_rewrite": "/stats/prometheus"},
        }
    ]
    manager: Document = {
        "@type": _HCM,
        "stat_prefix": "metrics",
        "route_config": {"virtual_hosts": [{"name": "m", "domains": ["*"], "routes": routes}]},
        "http_filters": [_ROUTER],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": "metrics",
        "address": _address(host, port),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}


def _connection_manager(settings: GatewaySettings, lua_source: str, routes: Document) -> Document:
    manager: Document = {
        "@type": _HCM,
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "server_name": "enova",
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        # Slow senders are cut; silence between is bounded by each route's idle timeout.
        "request_headers_timeout": "15s",
        "request_timeout": "120s",
        "stream_idle_timeout": "300s",
        "drain_timeout": "5s",
        "common_http_protocol_options": {
            "idle_timeout": "75s",
            "headers_with_underscores_action": "DROP_HEADER",
        },
        "early_header_mutation_extensions": [_strip_internal_headers()],
        "local_reply_config": error_table(),
        **routes,
        "http_filters": [
            *_key_filters(settings.keys_path),
            *_limit_filters(settings),
            _script(settings, lua_source),
            _ROUTER,
        ],
        "access_log": [_access_log(settings.access_log_path)],
    }
    if settings.otlp_endpoint is not None:
        manager["tracing"] = _tracing(settings)
    return manager


def _strip_internal_headers() -> Document:
    """A client must not steer routing, retries or time limits, nor name itself."""
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": f"{_TYPES}http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [
                {"remove_on_match": {"key_matcher": {"prefix": prefix}}}
                for prefix in ("x-enova-", "x-envoy-")
            ],
        },
    }


def _key_filters(path: str | None) -> list[Document]:
    """The check of the key, which then goes no further: engines must not see it."""
    if path is None:
        return []
    source = {"config_source": file_source(path), "type_urls": [API_KEY_TYPE]}
    removed: Document = {
        "name": "envoy.filters.http.header_mutation",
        "typed_config": {
            "@type": f"{_TYPES}filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"remove": "authorization"}]},
        },
    }
    return [{"name": API_KEYS, "config_discovery": source}, removed]


def _limit_filters(settings: GatewaySettings) -> list[Document]:
    name = "envoy.filters.http.local_ratelimit"
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    common: Document = {
        "@type": f"{_TYPES}filters.http.local_ratelimit.v3.LocalRateLimit",
        "filter_enabled": {**everything, "runtime_key": "enova.limit.enabled"},
        "filter_enforced": {**everything, "runtime_key": "enova.limit.enforced"},
    }
    filters: list[Document] = []
    if settings.key_rates:
        per_key: Document = {
            **common,
            "stat_prefix": "per_key",
            "rate_limits": [
                {
                    "actions": [
                        {
                            "metadata": {
                                "descriptor_key": "client",
                                "metadata_key": {
                                    "key": CLIENT_METADATA[0],
                                    "path": [{"key": CLIENT_METADATA[1]}],
                                },
                                "source": "DYNAMIC",
                            }
                        }
                    ]
                }
            ],
            "descriptors": [
                {
                    "entries": [{"key": "client", "value": client}],
                    "token_bucket": _bucket(limit),
                }
                for client, limit in sorted(settings.key_rates)
            ],
            # Without a default bucket, clients that none of these names are not limited here.
        }
        filters.append({"name": f"{name}.per_key", "typed_config": per_key})
    if settings.rate_limit is not None:
        whole: Document = {
            **common,
            "stat_prefix": "all",
            "token_bucket": _bucket(settings.rate_limit),
        }
        filters.append({"name": f"{name}.all", "typed_config": whole})
    return filters


def _bucket(limit: RateLimit) -> Document:
    """Envoy fills continuously at tokens per interval; an interval may not be under 50 ms."""
    tokens = max(1, round(limit.per_second))
    return {
        "max_tokens": limit.burst,
        "tokens_per_fill": tokens,
        "fill_interval": seconds(max(0.05, tokens / limit.per_second)),
    }


def _script(settings: GatewaySettings, lua_source: str) -> Document:
    affinity = any(service.routing == "prefix" for service in settings.services)
    constants = f"local AFFINITY, HEAD_BYTES = {str(affinity).lower()}, {settings.head_bytes}\n"
    return {
        "name": "envoy.filters.http.lua",
        "typed_config": {
            "@type": f"{_TYPES}filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": constants + lua_source},
        },
    }


def _access_log(path: str) -> Document:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPES}access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": dict(ACCESS_LOG_FIELDS)},
        },
    }


def _tls(secret_path: str) -> Document:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [
                    {"name": CERTIFICATE, "sds_config": file_source(secret_path)}
                ],
            },
        },
    }


def _tracing(settings: GatewaySettings) -> Document:
    """A span for the request and one for each try, sent to the collector.

    The tracer goes on with a client's ``traceparent`` or starts one, and hands it to the engine.
    Spans know paths, sizes, status and replica, never a body.
    """
    return {
        "random_sampling": {"value": 100 * settings.trace_sampling},
        "spawn_upstream_span": True,
        "custom_tags": [
            {
                "tag": "enova.instance",
                "metadata": {
                    "kind": {"host": {}},
                    "metadata_key": {"key": "enova", "path": [{"key": "instance"}]},
                },
            }
        ],
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": f"enova-{settings.stack}-gateway",
                "grpc_service": {"envoy_grpc": {"cluster_name": OTLP}, "timeout": "5s"},
            },
        },
    }
