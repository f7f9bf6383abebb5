"""PromQL over the gateway's page: what passes the one door, by service.

In: services and a window. Out: query texts whose series carry ``service`` and nothing else.
Arrivals and successes are in ``stack.queries``; here is the rest of what Envoy counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from enova.stack.queries import (
    BY_CLASS,
    CLASS_LABEL,
    CLUSTER_LABEL,
    COMPLETED,
    SERVICE_LABEL,
)
from enova.stack.render.prometheus import duration

TIME = "envoy_cluster_upstream_rq_time"
"""Milliseconds from the whole request in to the whole answer out."""
REQUEST_BODY = "envoy_cluster_upstream_rq_body_size"
RESPONSE_BODY = "envoy_cluster_upstream_rs_body_size"
ACTIVE = "envoy_cluster_upstream_rq_active"
PENDING = "envoy_cluster_upstream_rq_pending_active"
HEALTHY = "envoy_cluster_membership_healthy"


def by_service(text: str) -> str:
    """A query whose series carry the cluster's name, by ``service`` instead."""
    named = f'label_replace({text}, "{SERVICE_LABEL}", "$1", "{CLUSTER_LABEL}", "(.+)")'
    return f"sum by ({SERVICE_LABEL}) ({named})"


def completed_rate(services: Iterable[str], *, window_s: float) -> str:
    """Requests/s answered to their end, also those the gateway answered itself."""
    return by_service(_rate(COMPLETED, services, window_s))


def succeeded_rate(services: Iterable[str], *, window_s: float) -> str:
    """Requests/s answered with a 2xx; 0 before the first."""
    names = list(services)
    return _of_class("2", names, window_s)


def failed_rate(services: Iterable[str], *, window_s: float) -> str:
    """Requests/s answered with a 5xx; 0 before the first."""
    return _of_class("5", list(services), window_s)


def in_progress(services: Iterable[str]) -> str:
    """Requests open now: sent to a replica, or waiting for one."""
    select = _select(services)
    return by_service(f"({ACTIVE}{select} + {PENDING}{select})")


def execution_time(services: Iterable[str], *, window_s: float) -> str:
    """Mean seconds of the requests that ended."""
    return f"{_mean(TIME, list(services), window_s)} / 1000"


def request_size(services: Iterable[str], *, window_s: float) -> str:
    """Mean bytes of a request's body."""
    return _mean(REQUEST_BODY, list(services), window_s)


def response_size(services: Iterable[str], *, window_s: float) -> str:
    """Mean bytes of an answer's body."""
    return _mean(RESPONSE_BODY, list(services), window_s)


def request_bytes_rate(services: Iterable[str], *, window_s: float) -> str:
    """Bytes/s of requests' bodies."""
    return by_service(_rate(f"{REQUEST_BODY}_sum", services, window_s))


def response_bytes_rate(services: Iterable[str], *, window_s: float) -> str:
    """Bytes/s of answers' bodies."""
    return by_service(_rate(f"{RESPONSE_BODY}_sum", services, window_s))


def serving(services: Iterable[str]) -> str:
    """Members that get new requests."""
    return by_service(f"{HEALTHY}{_select(services)}")


def _of_class(name: str, services: list[str], window_s: float) -> str:
    matched = _rate(BY_CLASS, services, window_s, also=f', {CLASS_LABEL}="{name}"')
    # Envoy makes each class's counter with the first answer of it: until then it means none.
    return f"{by_service(matched)} or 0 * {completed_rate(services, window_s=window_s)}"


def _mean(histogram: str, services: list[str], window_s: float) -> str:
    total = by_service(_rate(f"{histogram}_sum", services, window_s))
    count = by_service(_rate(f"{histogram}_count", services, window_s))
    return f"{total} / ({count} > 0)"


def _rate(name: str, services: Iterable[str], window_s: float, also: str = "") -> str:
    return f"rate({name}{_select(services, also)}[{duration(window_s)}])"


def _select(services: Iterable[str], also: str = "") -> str:
    return f'{{{CLUSTER_LABEL}=~"{"|".join(sorted(services))}"{also}}}'
