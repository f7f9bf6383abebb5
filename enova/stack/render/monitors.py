"""The files of each monitor as texts, and its command: the one place every driver asks.

In: the resource, and where things are as the program itself sees them. Out: texts by path below
its folder. The same resource and places give the same texts; what only grows or shrinks with the
stack (replicas, other monitors) is in target files, which a driver keeps (``prometheus.targets``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from enova.base.errors import Bug
from enova.stack import monitoring
from enova.stack.render import alertmanager, dcgm, otel, prometheus, rules, tempo
from enova.stack.resources import MonitorResource

Texts = Mapping[str, str]

RULES = "rules.yml"


@dataclass(frozen=True)
class MonitorPlaces:
    """Where one monitor finds everything, in its own eyes (a container's are not the host's).

    ``config`` is the folder that holds ``files``, ``data`` one it may write, ``targets`` that of
    the target files, ``listen`` its own ``host:port``, ``peers`` those of other monitors by name.
    ``secrets`` are values; whatever has them in it is for one user's eyes.
    """

    stack: str
    config: str
    data: str
    targets: str
    listen: str
    peers: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """What a driver must know of one. ``ready``: the path that answers once it works.

    ``reloaded``: the start of two metrics of its page, ``..._successful`` and
    ``..._success_timestamp_seconds``, by which a reload on SIGHUP is known; None: it looks at its
    files by itself, or never again.
    """

    ready: str
    reloaded: str | None = None


PROGRAMS: Mapping[str, Program] = {
    monitoring.ALERTMANAGER: Program("/-/ready", "alertmanager_config_last_reload"),
    monitoring.DCGM_EXPORTER: Program("/health"),
    monitoring.GRAFANA: Program("/api/health"),
    monitoring.NODE_EXPORTER: Program("/"),
    monitoring.OTEL_COLLECTOR: Program("/"),
    monitoring.PROMETHEUS: Program("/-/ready", "prometheus_config_last_reload"),
    monitoring.TEMPO: Program("/ready"),
}


def files(resource: MonitorResource, places: MonitorPlaces) -> Texts:
    """The texts this monitor reads, by path below ``places.config``."""
    match resource.name:
        case monitoring.PROMETHEUS:
            return _prometheus(resource, places)
        case monitoring.ALERTMANAGER:
            webhook = places.secrets.get(monitoring.WEBHOOK)
            return {"alertmanager.yml": _json(alertmanager.config(webhook=webhook))}
        case monitoring.DCGM_EXPORTER:
            return {"counters.csv": dcgm.counter_file()}
        case monitoring.GRAFANA:
            return _grafana(places)
        case monitoring.OTEL_COLLECTOR:
            return {"collector.yaml": _json(_collector(places))}
        case monitoring.TEMPO:
            return {"tempo.yaml": _json(_tempo(resource, places))}
        case monitoring.NODE_EXPORTER:
            return {}
    raise Bug(f"nobody renders {resource.name}")


def command(resource: MonitorResource, program: str, places: MonitorPlaces) -> tuple[str, ...]:
    """The command that runs it where it has no image: ``monitoring.PROGRAMS``."""
    match resource.name:
        case monitoring.PROMETHEUS:
            return prometheus.command(
                program,
                config_path=f"{places.config}/prometheus.yml",
                data_dir=places.data,
                listen=places.listen,
                retention_s=resource.seconds("retention"),
            )
        case monitoring.ALERTMANAGER:
            return alertmanager.command(
                program,
                config_path=f"{places.config}/alertmanager.yml",
                data_dir=places.data,
                listen=places.listen,
            )
        case monitoring.NODE_EXPORTER:
            return (program, f"--web.listen-address={places.listen}", "--log.level=warn")
    raise Bug(f"nobody knows the command of {resource.name}")


def _prometheus(resource: MonitorResource, places: MonitorPlaces) -> Texts:
    texts = {}
    if resource.watched is not None:
        texts[RULES] = _json(rules.rules(resource.watched))
    texts["prometheus.yml"] = _json(
        prometheus.config(
            stack=places.stack,
            scrape_interval_s=resource.seconds("scrape_interval"),
            targets_dir=places.targets,
            rule_files=[f"{places.config}/{name}" for name in sorted(texts)],
        )
    )
    return texts


def _grafana(places: MonitorPlaces) -> Texts:
    # Heavy, and only needed when there is a Grafana.
    from enova.stack import dashboards
    from enova.stack.render import grafana

    urls = {name: f"http://{endpoint}" for name, endpoint in places.peers.items()}
    texts = {}
    if monitoring.PROMETHEUS in urls:
        provisioned = grafana.provisioning(
            prometheus_url=urls[monitoring.PROMETHEUS],
            tempo_url=urls.get(monitoring.TEMPO),
            alertmanager_url=urls.get(monitoring.ALERTMANAGER),
            dashboards_dir=f"{places.config}/dashboards",
        )
        shown = grafana.dashboard_files(dashboards.pages())
        texts = {f"provisioning/{name}": _json(file) for name, file in provisioned.items()}
        texts |= {f"dashboards/{name}": _json(file) for name, file in shown.items()}
    return texts


def _collector(places: MonitorPlaces) -> Mapping[str, object]:
    host = places.listen.rpartition(":")[0]
    spans_to = places.peers.get(monitoring.TEMPO)
    return otel.collector(
        otel.CollectorPorts(),
        host=host,
        tempo=f"{spans_to.rpartition(':')[0]}:{tempo.TempoPorts().otlp}" if spans_to else None,
    )


def _tempo(resource: MonitorResource, places: MonitorPlaces) -> Mapping[str, object]:
    return tempo.tempo(
        tempo.TempoPorts(),
        host=places.listen.rpartition(":")[0],
        folder=places.data,
        retention_s=resource.seconds("retention"),
    )


def _json(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
