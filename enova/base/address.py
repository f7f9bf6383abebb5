"""The one name of a thing, the same in plans, events, logs, labels, metrics and errors.

``chat/replica/2`` is slot 2 of service ``chat``; ``gateway`` and ``monitoring/prometheus`` belong
to the stack, the second to its monitoring. A slot may hold two instances for a while during a
rollout: an *instance id* is the slot plus the generation that started it, ``chat-replica-2.g7``.
"""

from __future__ import annotations

import re

NAME = re.compile(r"^[a-z][a-z0-9-]{0,39}$")
"""What a stack or service may be called: it ends up in paths, labels and URLs."""

GATEWAY = "gateway"
RECONCILER = "reconciler"
STACK = "stack"
"""The whole of it: what is noted about it, and the files it has."""

_MONITORING = "monitoring/"
PROMETHEUS = f"{_MONITORING}prometheus"
ALERTMANAGER = f"{_MONITORING}alertmanager"
GRAFANA = f"{_MONITORING}grafana"
TEMPO = f"{_MONITORING}tempo"
OTEL_COLLECTOR = f"{_MONITORING}otel-collector"
DCGM_EXPORTER = f"{_MONITORING}dcgm-exporter"
NODE_EXPORTER = f"{_MONITORING}node-exporter"

_REPLICA = re.compile(r"^(?P<service>[a-z][a-z0-9-]{0,39})/replica/(?P<slot>[0-9]+)$")


def replica(service: str, slot: int) -> str:
    """The address of one replica slot."""
    return f"{service}/replica/{slot}"


def parse_replica(address: str) -> tuple[str, int] | None:
    """``(service, slot)`` of a replica address, None for any other address."""
    match = _REPLICA.match(address)
    return (match["service"], int(match["slot"])) if match else None


def monitor(name: str) -> str:
    """The address of the monitor of that name: ``monitoring/prometheus``."""
    return f"{_MONITORING}{name}"


def parse_monitor(address: str) -> str | None:
    """The name of the monitor at an address, None for any other address."""
    return address.removeprefix(_MONITORING) if address.startswith(_MONITORING) else None


def instance_id(address: str, generation: int) -> str:
    """``chat/replica/2`` started by generation 7 is ``chat-replica-2.g7``."""
    return f"{address.replace('/', '-')}.g{generation}"
