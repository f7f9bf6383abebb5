"""Facts of engine releases: flags, defaults and metric names by version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from enova.capacity.catalog import data

_MAPS = ("flags", "metrics", "bucket_families", "buckets")
"""Parts of an entry whose keys are replaced one by one."""


@dataclass(frozen=True)
class EngineFacts:
    """One engine at one version.

    ``flags`` maps fields of a ``Choice`` to the engine's argument without dashes. ``metrics`` maps
    what is measured to the metric family; counters get ``_total`` in the text format, histograms
    ``_bucket``, ``_sum`` and ``_count``. A missing key means that this version has no such thing.
    ``buckets`` holds the default upper edges of histograms by bucket family, ``bucket_families``
    which of them the histogram of a latency (ttft, itl, tpot, e2e) has.
    """

    name: str
    version: str
    command: tuple[str, ...]
    health_path: str
    metrics_path: str
    block_size: int
    default_gpu_memory_utilization: float
    shutdown_timeout: bool
    flags: Mapping[str, str]
    metrics: Mapping[str, str]
    bucket_families: Mapping[str, str]
    buckets: Mapping[str, tuple[float, ...]]


@cache
def facts(name: str, version: str | None = None) -> EngineFacts:
    """The facts of an engine; None asks for the newest version known.

    A version newer than the newest known one gets the newest facts. Raises ValueError, with what
    is known in its sentence, for an unknown engine, a text that is no version, and a version older
    than the oldest known one.
    """
    catalog = data.read("engines")
    if name not in catalog["engines"]:
        known = ", ".join(sorted(catalog["engines"]))
        raise ValueError(f'engine "{name}" is not known; known engines are {known}')
    wanted = version or catalog["newest"][name]
    entries = catalog["engines"][name]
    merged: dict[str, Any] = {part: {} for part in _MAPS}
    for entry in entries:
        if _order(entry["since"]) <= _order(wanted):
            _merge(merged, entry)
    if "command" not in merged:
        raise ValueError(
            f"{name} {wanted} is older than the oldest known version {entries[0]['since']}"
        )
    return EngineFacts(
        name=name,
        version=wanted,
        command=tuple(merged["command"]),
        health_path=merged["health_path"],
        metrics_path=merged["metrics_path"],
        block_size=merged["block_size"],
        default_gpu_memory_utilization=merged["default_gpu_memory_utilization"],
        shutdown_timeout=merged["shutdown_timeout"],
        flags=dict(sorted(merged["flags"].items())),
        metrics=dict(sorted(merged["metrics"].items())),
        bucket_families=dict(sorted(merged["bucket_families"].items())),
        buckets={key: tuple(edges) for key, edges in sorted(merged["buckets"].items())},
    )


def newest(name: str) -> str:
    """The newest version known of an engine."""
    return facts(name).version


def _merge(merged: dict[str, Any], entry: Mapping[str, Any]) -> None:
    if "like" in entry:
        other, version = entry["like"]
        base = facts(other, version)
        merged.update({key: getattr(base, key) for key in base.__dataclass_fields__})
        merged.update({part: dict(merged[part]) for part in _MAPS})
    for key, value in entry.items():
        if key in _MAPS:
            merged[key].update(value)
        elif key not in ("since", "like"):
            merged[key] = value


def _order(version: str) -> tuple[int, ...]:
    """``0.11.0rc1`` and ``0.11.0+cpu`` sort as 0.11.0. Raises ValueError on anything else."""
    digits = version.split("+")[0].split("rc")[0].lstrip("v").split(".")
    try:
        return tuple(int(part) for part in digits if part and not part.startswith("post"))
    except ValueError:
        raise ValueError(f'"{version}" is not an engine version such as 0.32.0') from None
