"""The OpenTelemetry collector's configuration as data.

In: ports, and where Tempo is. Out: the document the caller dumps as JSON (which is YAML too).
Spans of gateway and engines come in over OTLP; they go on to Tempo, and Prometheus scrapes what is
counted of them: calls, errors and durations a service, and who calls whom. For the contrib build,
0.93 and later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Document = dict[str, object]

SPAN_METRICS = "traces.span.metrics"
"""Names of what is counted begin so: ``traces_span_metrics_calls_total`` in Prometheus."""

_CONTENT = r"^(gen_ai\.(prompt|completion|(input|output)\.messages|system_instructions)(\..*)?)$"
"""Attributes in which some libraries put what was said. Counts (``gen_ai.usage.*``) stay."""

_EDGES_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)


@dataclass(frozen=True)
class CollectorPorts:
    """What the collector listens on: OTLP over gRPC and HTTP, span metrics, its own, health."""

    grpc: int = 4317
    http: int = 4318
    span_metrics: int = 8889
    own_metrics: int = 8888
    health: int = 13133


def endpoint(host: str, ports: CollectorPorts = CollectorPorts()) -> str:
    """Where gateway and engines send their spans."""
    return f"http://{host}:{ports.grpc}"


def collector(
    ports: CollectorPorts,
    *,
    host: str,
    tempo: str | None,
    memory_mib: int = 512,
    dimensions: Sequence[str] = ("enova.address",),
) -> Document:
    """The collector's document. It listens on ``host``; ``tempo`` is ``host:port``, OTLP over gRPC.

    Without Tempo, spans are counted and then dropped. ``memory_mib`` is what the collector may
    take: beyond four fifths of it, spans are refused. ``dimensions`` are attributes of spans or
    their resource that become labels.
    """
    exporters: Document = {"prometheus": {"endpoint": f"{host}:{ports.span_metrics}"}}
    counters = ["spanmetrics", "servicegraph"]
    to = list(counters)
    if tempo is not None:
        exporters["otlp/tempo"] = {"endpoint": tempo, "tls": {"insecure": True}}
        to.append("otlp/tempo")
    bounds = [f"{edge:g}s" for edge in _EDGES_S]
    return {
        "extensions": {"health_check": {"endpoint": f"{host}:{ports.health}"}},
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"{host}:{ports.grpc}"},
                    "http": {"endpoint": f"{host}:{ports.http}"},
                }
            }
        },
        "processors": {
            "memory_limiter": {
                "check_interval": "1s",
                "limit_mib": memory_mib * 4 // 5,
                "spike_limit_mib": memory_mib // 5,
            },
            "attributes/no_content": {"actions": [{"pattern": _CONTENT, "action": "delete"}]},
            "batch": {},
        },
        "connectors": {
            "spanmetrics": {
                "namespace": SPAN_METRICS,
                "histogram": {"explicit": {"buckets": bounds}},
                "dimensions": [{"name": name} for name in dimensions],
                "metrics_flush_interval": "15s",
            },
            "servicegraph": {"store": {"ttl": "10s", "max_items": 10_000}},
        },
        "exporters": exporters,
        "service": {
            "extensions": ["health_check"],
            "telemetry": {"metrics": {"address": f"{host}:{ports.own_metrics}"}},
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    # Refusing comes first: what is refused must not have cost memory.
                    "processors": ["memory_limiter", "attributes/no_content", "batch"],
                    "exporters": to,
                },
                "metrics": {"receivers": counters, "exporters": ["prometheus"]},
            },
        },
    }
