"""Tempo's configuration as data.

In: ports, folder and how long traces are kept. Out: the document the caller dumps as JSON (which
is YAML too). One process with its blocks in a folder; spans come in over OTLP (gRPC), Grafana asks
over HTTP. What is counted of spans is the collector's (``otel``), so nothing is generated here.
"""

from __future__ import annotations

from dataclasses import dataclass

from enova.stack.render.prometheus import duration

Document = dict[str, object]


@dataclass(frozen=True)
class TempoPorts:
    """What Tempo listens on: its API and OTLP; and a port that its parts talk through."""

    http: int = 3200
    otlp: int = 4317
    internal: int = 9095


def tempo(ports: TempoPorts, *, host: str, folder: str, retention_s: float) -> Document:
    """Tempo's document. It listens on ``host`` and keeps traces below ``folder``."""
    return {
        "server": {
            "http_listen_address": host,
            "http_listen_port": ports.http,
            # Parts of one process among themselves.
            "grpc_listen_address": "127.0.0.1",
            "grpc_listen_port": ports.internal,
        },
        "distributor": {
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"{host}:{ports.otlp}"}}}}
        },
        "compactor": {"compaction": {"block_retention": duration(retention_s)}},
        "storage": {
            "trace": {
                "backend": "local",
                "local": {"path": f"{folder}/blocks"},
                "wal": {"path": f"{folder}/wal"},
            }
        },
        "usage_report": {"reporting_enabled": False},
    }
