"""Prometheus' configuration and target files as data.

In: the resource, paths and what is there to scrape. Out: documents the caller dumps as JSON (which
is YAML too). Replicas come and go through the target files, which Prometheus watches; the
configuration itself changes only with the resource.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from enova.stack.resources import PrometheusResource

Document = dict[str, object]

ENGINES = "engines"
GATEWAY = "gateway"
JOBS = (ENGINES, GATEWAY)
"""One job, one target file each: ``targets/engines.json``, ``targets/gateway.json``."""


@dataclass(frozen=True)
class Target:
    """One thing to scrape at ``http://endpoint/metrics``."""

    endpoint: str
    instance: str
    address: str
    service: str = ""


def config(prometheus: PrometheusResource, *, stack: str, targets_dir: str) -> Document:
    """The document of ``prometheus.yml``. Every series carries ``stack``."""
    interval = duration(prometheus.scrape_interval_s)
    return {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": duration(min(prometheus.scrape_interval_s, 10.0)),
            "evaluation_interval": interval,
            "external_labels": {"stack": stack},
        },
        "scrape_configs": [
            {
                "job_name": job,
                "file_sd_configs": [
                    {"files": [f"{targets_dir}/{job}.json"], "refresh_interval": "30s"}
                ],
            }
            for job in JOBS
        ],
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
    program: str, *, config_path: str, data_dir: str, port: int, retention_s: float
) -> tuple[str, ...]:
    """The command of one Prometheus on loopback, without its administration interface."""
    return (
        program,
        f"--config.file={config_path}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={duration(retention_s)}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )


def duration(seconds: float) -> str:
    """Seconds in Prometheus' spelling, to the millisecond: ``5s``, ``500ms``."""
    milliseconds = max(1, round(seconds * 1000))
    whole, rest = divmod(milliseconds, 1000)
    return f"{milliseconds}ms" if rest else f"{whole}s"
