"""The one name of a thing, the same in plans, events, logs, labels, metrics and errors.

``chat/replica/2`` is slot 2 of service ``chat``; ``gateway`` and ``monitoring/prometheus`` belong
to the stack. A slot may hold two instances for a while during a rollout: an *instance id* is the
slot plus the generation that started it, ``chat-replica-2.g7``.
"""

from __future__ import annotations

import re

NAME = re.compile(r"^[a-z][a-z0-9-]{0,39}$")
"""What a stack or service may be called: it ends up in paths, labels and URLs."""

GATEWAY = "gateway"
PROMETHEUS = "monitoring/prometheus"

_REPLICA = re.compile(r"^(?P<service>[a-z][a-z0-9-]{0,39})/replica/(?P<slot>[0-9]+)$")


def replica(service: str, slot: int) -> str:
    """The address of one replica slot."""
    return f"{service}/replica/{slot}"


def parse_replica(address: str) -> tuple[str, int] | None:
    """``(service, slot)`` of a replica address, None for any other address."""
    match = _REPLICA.match(address)
    return (match["service"], int(match["slot"])) if match else None


def instance_id(address: str, generation: int) -> str:
    """``chat/replica/2`` started by generation 7 is ``chat-replica-2.g7``."""
    return f"{address.replace('/', '-')}.g{generation}"
