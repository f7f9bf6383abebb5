"""PromQL for every signal, and the names it is built from: Envoy's counters, engines' families.

In: which signal, which services, the engine's metric families by version (``capacity.catalog``),
a window. Out: query texts that sources, dashboards and alerts share. Labels are those of
``stack.render.prometheus``. Nothing here asks anybody: it only writes the questions.

Arrivals are counted where they happen, at the gateway. Envoy has no counter for them, but each
attempt to reach an engine ends in exactly one of five counters, and each retry is counted too, so
first attempts are their difference. Completions are never used: long answers would hide a burst.

``rate()`` divides by the whole window also what it watched for a moment only, and so says too
little after every start. Arrivals are therefore the difference of two readings over the time
between them, and unknown until the counter is as old as the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from enova.capacity.catalog import engines
from enova.stack.render.prometheus import duration

SERVICE_LABEL = "service"
INSTANCE_LABEL = "instance"
"""The instance id, in place of Prometheus' own ``host:port``."""
CLUSTER_LABEL = "envoy_cluster_name"
"""Envoy's clusters are named like the services."""

ATTEMPTS = (
    "envoy_cluster_upstream_rq_total",
    "envoy_cluster_upstream_cx_none_healthy",
    "envoy_cluster_upstream_rq_pending_overflow",
    "envoy_cluster_upstream_rq_pending_failure_eject",
    "envoy_cluster_upstream_rq_cancelled",
)
"""Sent on a connection; no replica to send to; no room; connection failed; gave up waiting."""
RETRIES = "envoy_cluster_upstream_rq_retry"
COMPLETED = "envoy_cluster_upstream_rq_completed"
"""Final answers: what a retry replaced is counted elsewhere."""
BY_CLASS = "envoy_cluster_upstream_rq_xx"
CLASS_LABEL = "envoy_response_code_class"

Family = Literal[
    "running",
    "waiting",
    "kv_usage",
    "steps",
    "prompt_tokens",
    "generation_tokens",
    "ttft",
    "itl",
    "e2e",
]
GAUGES: tuple[Family, ...] = ("running", "waiting", "kv_usage")
COUNTERS: tuple[Family, ...] = ("prompt_tokens", "generation_tokens")
HISTOGRAMS: tuple[Family, ...] = ("ttft", "itl", "e2e")

IDLE_STEP_S = 30.0
"""Resolution at which Prometheus looks back for the last arrival."""


def families(engine: str, version: str | None) -> Mapping[Family, str]:
    """Metric families of an engine by what they measure. Raises ValueError on an unknown one."""
    known = engines.facts(engine, version).metrics
    wanted: tuple[Family, ...] = (*GAUGES, "steps", *COUNTERS, *HISTOGRAMS)
    return {what: known[what] for what in wanted if what in known}


def series(family: Family, name: str) -> str:
    """The series of a family that is read: the value, the total, the buckets, the step count."""
    if family in COUNTERS:
        return f"{name}_total"
    if family in HISTOGRAMS:
        return f"{name}_bucket"
    return f"{name}_count" if family == "steps" else name


def arrival_rate(services: Iterable[str], *, window_s: float) -> str:
    """Requests/s that arrived, by ``CLUSTER_LABEL``, over the window between two readings.

    Absent while that is not known: the service, its gateway or Prometheus began less than a window
    ago, counters began anew, or the readings are two windows apart.
    """
    select = _clusters(services)
    grown = [_growth(f"{name}{select}", window_s) for name in ATTEMPTS]
    retries = _growth(f"{RETRIES}{select}", window_s)
    newer = f"timestamp({ATTEMPTS[0]}{select})"
    older = f"timestamp({ATTEMPTS[0]}{select} offset {duration(window_s)})"
    # One page holds all counters: the time between is the same for each of them.
    between = f"max by ({CLUSTER_LABEL}) ({newer} - {older} < {2 * window_s:g})"
    return f"clamp_min(({' + '.join(grown)} - {retries}) / {between}, 0)"


def success_rate(services: Iterable[str], *, window_s: float) -> str:
    """Share of final answers below 500, by ``CLUSTER_LABEL``; absent without an answer."""
    names, window = list(services), duration(window_s)
    done = f"sum by ({CLUSTER_LABEL}) (rate({COMPLETED}{_clusters(names)}[{window}]))"
    select = _clusters(names, f'{CLASS_LABEL}="5"')
    failed = f"sum by ({CLUSTER_LABEL}) (rate({BY_CLASS}{select}[{window}]))"
    # Envoy makes the 5xx counter with its first 5xx: until then it is absent and means none.
    return f"1 - ({failed} or 0 * {done}) / ({done} > 0)"


def gateway_age(services: Iterable[str]) -> str:
    """Seconds since Prometheus last read the gateway, by ``CLUSTER_LABEL``."""
    newest = f"max by ({CLUSTER_LABEL}) (timestamp({ATTEMPTS[0]}{_clusters(services)}))"
    return f"time() - {newest}"


def seconds_since_arrival(services: Iterable[str], *, lookback_s: float) -> str:
    """Seconds since the last arrival, by ``CLUSTER_LABEL``; at most ``lookback_s``.

    Without an arrival: how long Prometheus has watched. Never more than is known.
    """
    select = _clusters(services)
    span = f"[{duration(lookback_s)}:{duration(IDLE_STEP_S)}]"
    begun = f"timestamp({ATTEMPTS[0]}{select})"
    # A series that begins says nothing about before: its first sample counts as an arrival. One
    # younger than a step has no sample on the grid of the look back: it counts as of now.
    latest = [f"min_over_time({begun}{span})", f"({begun} unless min_over_time({begun}{span}))"]
    for name in ATTEMPTS[:2]:
        moved = f"changes({name}{select}[{duration(2 * IDLE_STEP_S)}]) > 0"
        now = f"(timestamp({name}{select}) and {moved})"
        latest += [f"max_over_time({now}{span})", now]
    # Numbered, because ``or`` keeps only the first of two series with the same labels.
    numbered = " or ".join(
        f'label_replace({text}, "from", "{number}", "", "")' for number, text in enumerate(latest)
    )
    return f"time() - max by ({CLUSTER_LABEL}) ({numbered})"


def replica_value(family: Family, name: str, services: Iterable[str], *, stale_s: float) -> str:
    """A gauge or the step count now, by service and instance; absent when older than ``stale_s``.

    Prometheus itself would show a value for five minutes after its last scrape.
    """
    selected = f"{series(family, name)}{_services(services)}"
    by = f"{SERVICE_LABEL}, {INSTANCE_LABEL}"
    join = "avg" if family == "kv_usage" else "sum"
    return (
        f"{join} by ({by}) ({selected}) and "
        f"(time() - max by ({by}) (timestamp({selected})) < {stale_s:g})"
    )


def token_rate(family: Family, name: str, services: Iterable[str], *, window_s: float) -> str:
    """Tokens/s over all replicas, by service."""
    selected = f"{series(family, name)}{_services(services)}[{duration(window_s)}]"
    return f"sum by ({SERVICE_LABEL}) (rate({selected}))"


def latency_quantile(
    family: Family, name: str, services: Iterable[str], *, share: float, window_s: float
) -> str:
    """Seconds that ``share`` of the observations in the window do not exceed, by service."""
    selected = f"{series(family, name)}{_services(services)}[{duration(window_s)}]"
    return f"histogram_quantile({share:g}, sum by (le, {SERVICE_LABEL}) (rate({selected})))"


def _growth(counter: str, window_s: float) -> str:
    """How much a counter grew between its reading now and the one a window ago.

    Each gateway has series of its own, so the next one has no reading of a window ago.
    """
    then, longest = f"{counter} offset {duration(window_s)}", duration(2 * window_s)
    return f"sum by ({CLUSTER_LABEL}) ({counter} - {then} and resets({counter}[{longest}]) == 0)"


def _clusters(services: Iterable[str], also: str = "") -> str:
    return _matchers(CLUSTER_LABEL, services, also)


def _services(services: Iterable[str]) -> str:
    return _matchers(SERVICE_LABEL, services, "")


def _matchers(label: str, services: Iterable[str], also: str) -> str:
    # Service names are lower-case letters, digits and dashes: nothing to escape.
    names = "|".join(sorted(services))
    return "{" + ", ".join(filter(None, (f'{label}=~"{names}"', also))) + "}"
