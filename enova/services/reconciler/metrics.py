"""The reconciler's own page for Prometheus: that it ticks, what it wants, what it changed and why.

In: a report after each tick. Out: ``/metrics`` on an address of this machine, in the names that
``stack.recording`` and the alert ``ReconcilerSilent`` ask for. A clean end takes the page and its
target away, so only a reconciler that died or hangs is missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from enova.base import address as addresses
from enova.stack.recording import RECONCILER_STARTING, RECONCILER_TICK, RECONCILER_WANTED
from enova.stack.render.prometheus import Target

if TYPE_CHECKING:
    from prometheus_client import Metric

    from enova.services.reconciler.loop import Report

ADDRESS = "reconciler"
CHANGES = "enova_changes"


@dataclass(frozen=True)
class _Known:
    """What the page shows. A new value after each tick, so that a reading is never of two."""

    ticked_s: float
    problem: bool = False
    ticks: Mapping[str, int] = field(default_factory=dict)
    replicas: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By metric, by service."""
    changes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By service (or address) and reason, begun since the start."""


class Page(Collector):
    """What one reconciler says of itself. ``ticked`` is called by the loop, readings come from the
    server's threads."""

    def __init__(self, *, started_s: float, interval_s: float) -> None:
        """``started_s``: now, in seconds since the epoch."""
        self._interval_s = interval_s
        self._known = _Known(ticked_s=started_s)

    def ticked(self, report: Report, *, now: float) -> None:
        """A tick ended. ``now`` in seconds since the epoch."""
        before = self._known
        result = "failed" if report.problem else "begun" if report.begun else "quiet"
        changes = Counter(before.changes)
        if report.begun and report.plan is not None:
            changes.update((_of(c.address), c.reason.value) for c in report.plan.changes)
        self._known = _Known(
            ticked_s=now,
            problem=bool(report.problem),
            ticks={**before.ticks, result: before.ticks.get(result, 0) + 1},
            # A tick that failed decided nothing: what was wanted before still is.
            replicas=_replicas(report) if report.decisions else before.replicas,
            changes=changes,
        )

    def collect(self) -> Iterable[Metric]:
        """The page's families, for one reading."""
        known = self._known
        yield GaugeMetricFamily(
            RECONCILER_TICK, "When the last tick ended, in seconds since 1970.", known.ticked_s
        )
        yield GaugeMetricFamily(
            "enova_reconciler_interval_seconds", "Time between two ticks.", self._interval_s
        )
        yield GaugeMetricFamily(
            "enova_reconciler_problem", "1 when the last tick met a problem.", known.problem
        )
        ticks = CounterMetricFamily(
            "enova_reconciler_ticks", "Ticks by what became of them.", labels=["result"]
        )
        for result, count in sorted(known.ticks.items()):
            ticks.add_metric([result], count)
        yield ticks
        for name, text in _REPLICAS.items():
            gauge = GaugeMetricFamily(name, text, labels=["service"])
            for service, value in sorted(known.replicas.get(name, {}).items()):
                gauge.add_metric([service], value)
            yield gauge
        changes = CounterMetricFamily(
            CHANGES, "Changes begun, by what they are of and why.", labels=["service", "reason"]
        )
        for (service, reason), count in sorted(known.changes.items()):
            changes.add_metric([service, reason], count)
        yield changes


@contextmanager
def serving(page: Page, *, host: str, port: int = 0) -> Iterator[str]:
    """Serve the page while inside; gives ``host:port``. ``port`` 0 takes a free one.

    Raises OSError when it cannot listen there.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(page)
    server, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def target(endpoint: str) -> Target:
    """The page as a target of the job ``enova``."""
    return Target(endpoint, instance=ADDRESS, address=ADDRESS)


_REPLICAS: Mapping[str, str] = {
    RECONCILER_WANTED: "Replicas decided on.",
    RECONCILER_STARTING: "Replicas on the way at the last tick.",
    "enova_replicas_serving": "Replicas that served at the last tick.",
}


def _replicas(report: Report) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {name: {} for name in _REPLICAS}
    for service, decision in report.decisions.items():
        inputs = dict(decision.inputs)
        found[RECONCILER_WANTED][service] = float(decision.replicas)
        for name, key in ((RECONCILER_STARTING, "starting"), ("enova_replicas_serving", "serving")):
            value = inputs.get(key)
            if value is not None:
                found[name][service] = value
    return found


def _of(address: str) -> str:
    replica = addresses.parse_replica(address)
    return replica[0] if replica else address
