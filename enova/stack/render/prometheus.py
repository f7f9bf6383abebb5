"""Prometheus' configuration and target files as data.

In: paths, times and what is there to scrape. Out: documents the caller dumps as JSON (which is YAML
too). Replicas and monitors come and go through the target files, which Prometheus watches; the
configuration itself changes only with the spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Document = dict[str, object]

ENGINES = "engines"
GATEWAY = "gateway"
RECONCILER = "enova"
ALERTMANAGER = "alertmanager"
JOBS = (
    ENGINES,
    GATEWAY,
    RECONCILER,
    ALERTMANAGER,
    "dcgm-exporter",
    "grafana",
    "node-exporter",
    "otel-collector",
    "prometheus",
    "tempo",
)
"""One job, one target file each: ``targets/engines.json``. Those of monitors have their names."""


@dataclass(frozen=True)
class Target:
    """One thing to scrape at ``http://endpoint/metrics``."""

    endpoint: str
    instance: str
    address: str
    service: str = ""


def config(
    *, stack: str, scrape_interval_s: float, targets_dir: str, rule_files: Sequence[str] = ()
) -> Document:
    """The document of ``prometheus.yml``. Every series carries ``stack``.

    Alerts go to the Alertmanager of the stack, whenever its target file names one.
    """
    interval = duration(scrape_interval_s)

    def found(job: str) -> list[Document]:
        return [{"files": [f"{targets_dir}/{job}.json"], "refresh_interval": "30s"}]

    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": duration(min(scrape_interval_s, 10.0)),
            "evaluation_interval": interval,
            "external_labels": {"stack": stack},
        },
        "rule_files": list(rule_files),
        "alerting": {"alertmanagers": [{"file_sd_configs": found(ALERTMANAGER)}]},
        "scrape_configs": [{"job_name": job, "file_sd_configs": found(job)} for job in JOBS],
    }


def targets(stack: str, found: Iterable[Target]) -> list[Document]:
    """The document of one target file, sorted by instance.

    ``instance`` is the instance id, ``address`` the slot, as everywhere else.
    """
    return [
        {
            "targets": [target.endpoint],
            "labels": {
                "stack": stack,
                "instance": target.instance,
                "address": target.address,
                **({"service": target.service} if target.service else {}),
            },
        }
        for target in sorted(found, key=lambda t: (t.instance, t.endpoint))
    ]


def command(
    program: str, *, config_path: str, data_dir: str, listen: str, retention_s: float
) -> tuple[str, ...]:
    """The command of one Prometheus, without its administration interface."""
    return (
        program,
        f"--config.file={config_path}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={duration(retention_s)}",
        f"--web.listen-address={listen}",
        "--log.level=warn",
    )


def duration(seconds: float) -> str:
    """Seconds in Prometheus' spelling, to the millisecond: ``5s``, ``500ms``."""
    milliseconds = max(1, round(seconds * 1000))
    whole, rest = divmod(milliseconds, 1000)
    return f"{milliseconds}ms" if rest else f"{whole}s"
