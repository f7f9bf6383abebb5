"""Metrics pages as samples: an engine's page and the gateway's, in Prometheus' text format.

In: the text and the names to look for. Out: ``EngineSample`` and ``GatewaySample`` values. Only
lines that begin with a wanted name are parsed, because pages hold hundreds of others. A value that
is not a finite number counts as not there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

from enova.effects.sources.samples import EngineSample, GatewaySample, HistogramCounts
from enova.stack import queries
from enova.stack.queries import Family

_Labels = Mapping[str, str]


def engine_sample(text: str, families: Mapping[Family, str], *, at_s: float) -> EngineSample:
    """What one engine says. Counts of several ranks are added, the KV share is their mean.

    Raises ValueError when the text is not a metrics page.
    """
    wanted = {queries.series(what, name): what for what, name in families.items()}
    values: dict[Family, list[float]] = {}
    buckets: dict[Family, dict[float, float]] = {}
    for name, labels, value in _read(text, wanted):
        what = wanted[name]
        if what in queries.HISTOGRAMS:
            edges = buckets.setdefault(what, {})
            edge = float(labels["le"])
            edges[edge] = edges.get(edge, 0.0) + value
        else:
            values.setdefault(what, []).append(value)
    sums: dict[Family, float] = {what: sum(numbers) for what, numbers in values.items()}
    shares = values.get("kv_usage")
    return EngineSample(
        at_s=at_s,
        running=sums.get("running"),
        waiting=sums.get("waiting"),
        kv_usage=sum(shares) / len(shares) if shares else None,
        steps=sums.get("steps"),
        prompt_tokens=sums.get("prompt_tokens"),
        generation_tokens=sums.get("generation_tokens"),
        ttft=_histogram(buckets.get("ttft")),
        itl=_histogram(buckets.get("itl")),
        e2e=_histogram(buckets.get("e2e")),
    )


def gateway_samples(
    text: str, services: Collection[str], *, at_s: float, origin: str = ""
) -> dict[str, GatewaySample]:
    """What the gateway counted, by service; a service it does not know is left out.

    Raises ValueError when the text is not a metrics page.
    """
    wanted = {*queries.ATTEMPTS, queries.RETRIES, queries.COMPLETED, queries.BY_CLASS}
    sums: dict[str, dict[str, float]] = {}
    for name, labels, value in _read(text, wanted):
        service = labels.get(queries.CLUSTER_LABEL, "")
        if service not in services:
            continue
        if name == queries.BY_CLASS and labels.get(queries.CLASS_LABEL) != "5":
            continue
        counts = sums.setdefault(service, {})
        counts[name] = counts.get(name, 0.0) + value
    # The 5xx counter, alone of all, appears with its first 5xx.
    expected = {*queries.ATTEMPTS, queries.RETRIES}
    return {
        service: GatewaySample(
            at_s=at_s,
            attempts=sum(counts[name] for name in queries.ATTEMPTS),
            retries=counts[queries.RETRIES],
            completed=counts.get(queries.COMPLETED, 0.0),
            failed=counts.get(queries.BY_CLASS, 0.0),
            origin=origin,
        )
        for service, counts in sorted(sums.items())
        if expected <= counts.keys()
    }


def _read(text: str, wanted: Collection[str]) -> Iterator[tuple[str, _Labels, float]]:
    names = tuple(wanted)
    lines = "\n".join(line for line in text.splitlines() if line.startswith(names))
    for family in text_string_to_metric_families(lines + "\n"):
        for sample in family.samples:
            if sample.name in wanted and math.isfinite(sample.value):
                yield sample.name, sample.labels, float(sample.value)


def _histogram(buckets: Mapping[float, float] | None) -> HistogramCounts | None:
    if not buckets or math.inf not in buckets:
        return None
    edges = tuple(sorted(buckets))
    return HistogramCounts(edges, tuple(buckets[edge] for edge in edges))
