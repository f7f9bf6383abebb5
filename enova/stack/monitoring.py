"""The programs of a stack's monitoring: which should run, and which the target cannot run.

In: the spec, its choices, and the names of what the target can run. Out: a ``MonitorResource``
each. ``auto`` is what the target can; ``on`` what it must.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from enova.base.secret import SecretRef
from enova.capacity.inventory import CPU
from enova.capacity.sizing.choice import Choice
from enova.spec.model import Monitor, Monitoring, Spec
from enova.stack.references import secret_ref
from enova.stack.resources import MonitorResource
from enova.stack.watched import watched

ALERTMANAGER = "alertmanager"
DCGM_EXPORTER = "dcgm-exporter"
GRAFANA = "grafana"
NODE_EXPORTER = "node-exporter"
OTEL_COLLECTOR = "otel-collector"
PROMETHEUS = "prometheus"
TEMPO = "tempo"

KEYS: Mapping[str, str] = {
    ALERTMANAGER: "alertmanager",
    DCGM_EXPORTER: "dcgm",
    GRAFANA: "grafana",
    NODE_EXPORTER: "node",
    OTEL_COLLECTOR: "otel",
    PROMETHEUS: "prometheus",
    TEMPO: "tempo",
}
"""Every monitor by its name, and its key below ``monitoring`` in the spec."""

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    ALERTMANAGER: ("alertmanager", "prometheus-alertmanager"),
    NODE_EXPORTER: ("node_exporter", "prometheus-node-exporter"),
    PROMETHEUS: ("prometheus",),
}
"""Those that run without a container, by the names their programs have: upstream's, Debian's."""

PORTS: Mapping[str, Mapping[str, int]] = {
    "compose": {PROMETHEUS: 32826, GRAFANA: 32827, OTEL_COLLECTOR: 32893}
}
"""Where each is reached on a target whose spec says nothing."""

RECONCILE_INTERVAL_S = 5.0
"""How often the reconciler looks unless told otherwise; alerts allow for some more."""

_PEERS: Mapping[str, tuple[str, ...]] = {
    GRAFANA: (ALERTMANAGER, PROMETHEUS, TEMPO),
    OTEL_COLLECTOR: (TEMPO,),
}
"""Whom a monitor's files name. Prometheus finds its own by target files, so it needs none."""

WEBHOOK = "webhook"
PASSWORD = "password"  # noqa: S105


def monitors(
    spec: Spec, choices: Mapping[str, Choice], *, runs: Collection[str]
) -> tuple[MonitorResource, ...]:
    """Those that should run, sorted by name. ``runs``: what the target can run."""
    monitoring = spec.monitoring
    there = tuple(
        name
        for name in sorted(KEYS)
        if _can_run(spec, name, runs) and _is_wanted(part(monitoring, name), name, choices)
    )
    ports = PORTS.get(spec.pool.target, {})
    found = []
    for name in there:
        asked = part(monitoring, name)
        port = monitoring.port if name == PROMETHEUS and asked.port is None else asked.port
        resource = MonitorResource(
            name=name,
            host=asked.host,
            port=ports.get(name) if port is None else port,
            image=asked.image,
            pinned=("image",) if asked.image is not None else (),
            peers=tuple(peer for peer in _PEERS.get(name, ()) if peer in there),
            secrets=_secrets(monitoring, name),
        )
        if name == PROMETHEUS:
            resource = replace(
                resource,
                settings=(
                    ("retention", monitoring.retention),
                    ("scrape_interval", monitoring.scrape_interval),
                ),
                watched=watched(
                    spec,
                    choices,
                    reconcile_interval_s=RECONCILE_INTERVAL_S,
                    gpus=DCGM_EXPORTER in there,
                ),
            )
        elif name == TEMPO:
            resource = replace(resource, settings=(("retention", monitoring.retention),))
        found.append(resource)
    return tuple(found)


def part(monitoring: Monitoring, name: str) -> Monitor:
    """What the spec says of the monitor of that name."""
    found = getattr(monitoring, KEYS[name])
    assert isinstance(found, Monitor)
    return found


def missing(spec: Spec, *, runs: Collection[str]) -> tuple[str, ...]:
    """Names of the monitors that are ``on`` and that the target cannot run, sorted."""
    return _without(spec, "on", runs)


def left_out(spec: Spec, *, runs: Collection[str]) -> tuple[str, ...]:
    """Names of the monitors that are ``auto`` and that the target cannot run, sorted."""
    return _without(spec, "auto", runs)


def _without(spec: Spec, enabled: str, runs: Collection[str]) -> tuple[str, ...]:
    return tuple(
        name
        for name in sorted(KEYS)
        if not _can_run(spec, name, runs) and part(spec.monitoring, name).enabled == enabled
    )


def _is_wanted(asked: Monitor, name: str, choices: Mapping[str, Choice]) -> bool:
    """``auto`` leaves out what would have nothing to read: without a GPU there is no DCGM."""
    if name == DCGM_EXPORTER and asked.enabled == "auto":
        return any(c.device != CPU and not c.emulated for c in choices.values())
    return asked.enabled != "off"


def _can_run(spec: Spec, name: str, runs: Collection[str]) -> bool:
    """Whether the target runs it; of an image the spec names itself only the start can tell."""
    named = spec.pool.target != "process" and part(spec.monitoring, name).image is not None
    return named or name in runs


def _secrets(monitoring: Monitoring, name: str) -> tuple[tuple[str, SecretRef], ...]:
    references = {
        ALERTMANAGER: (WEBHOOK, monitoring.alertmanager.webhook),
        GRAFANA: (PASSWORD, monitoring.grafana.password),
    }
    key, reference = references.get(name, ("", None))
    return ((key, secret_ref(reference)),) if reference is not None else ()
