"""What was read from one page of metrics at one moment, and what follows from several such reads.

In: samples of counters and histograms, oldest first. Out: increases, rates and quantiles with the
arithmetic of Prometheus, so both sources mean the same: a counter that falls began anew at zero, a
quantile is interpolated inside its bucket. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar


@dataclass(frozen=True)
class HistogramCounts:
    """Observations at or below each upper edge, cumulative, edges rising, the last one infinite."""

    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True)
class EngineSample:
    """One engine's page. Values of several ranks are joined; what the page lacked is None."""

    at_s: float
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    steps: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    ttft: HistogramCounts | None = None
    itl: HistogramCounts | None = None
    e2e: HistogramCounts | None = None


@dataclass(frozen=True)
class GatewaySample:
    """One service's counters at the gateway: attempts and retries, final answers, 5xx ones.

    ``origin`` tells one gateway process from the next: counters begin at zero in each.
    """

    at_s: float
    attempts: float
    retries: float
    completed: float
    failed: float
    origin: str = ""


S = TypeVar("S", EngineSample, GatewaySample)


def in_window(
    samples: Sequence[S], *, now: float, window_s: float, least_s: float, longest_s: float
) -> Sequence[S]:
    """The samples a rate is made of, oldest first; none when they cannot carry one.

    The last must be from ``now``: an older one would be a guess. They span at least ``least_s``;
    where looks are rarer than the window, one older sample helps, up to ``longest_s`` ago.
    """
    known = [s for s in samples if s.at_s <= now]
    if not known or known[-1].at_s != now:
        return ()
    start = next(i for i, s in enumerate(known) if s.at_s >= now - window_s)
    if now - known[start].at_s < least_s and start > 0:
        start -= 1
    chosen = known[start:]
    span = now - chosen[0].at_s
    return chosen if len(chosen) > 1 and least_s <= span <= longest_s else ()


def increase(values: Iterable[float | None]) -> float | None:
    """How much a counter grew over consecutive reads; None with fewer than two.

    A fall is a restart from zero. Growth between the last read and the restart is lost.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return sum(later - earlier if later >= earlier else later for earlier, later in pairwise(known))


def histogram_increase(values: Iterable[HistogramCounts | None]) -> HistogramCounts | None:
    """The observations made between the first and the last read; None with fewer than two."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    edges = known[-1].edges
    total = [0.0] * len(edges)
    for earlier, later in pairwise(known):
        began_anew = earlier.edges != later.edges or later.counts[-1] < earlier.counts[-1]
        if later.edges != edges:
            continue
        before = (0.0,) * len(edges) if began_anew else earlier.counts
        total = [
            t + max(new - old, 0.0) for t, new, old in zip(total, later.counts, before, strict=True)
        ]
    return HistogramCounts(edges, tuple(total))


def merge(histograms: Iterable[HistogramCounts]) -> HistogramCounts | None:
    """One histogram of all, edge by edge; None of none."""
    by_edge: dict[float, float] = {}
    for histogram in histograms:
        for edge, count in zip(histogram.edges, histogram.counts, strict=True):
            by_edge[edge] = by_edge.get(edge, 0.0) + count
    if not by_edge:
        return None
    edges = tuple(sorted(by_edge))
    return HistogramCounts(edges, tuple(by_edge[edge] for edge in edges))


def quantile(histogram: HistogramCounts, share: float) -> float | None:
    """What ``share`` of the observations do not exceed; None without an observation.

    Linear inside the bucket, from 0 in the first. Beyond the last finite edge only that edge is
    known. The same as Prometheus' ``histogram_quantile`` for shares in 0..1.
    """
    edges, counts = histogram.edges, _rising(histogram.counts)
    if len(edges) < 2 or edges[-1] != math.inf or counts[-1] <= 0:
        return None
    rank = share * counts[-1]
    found = next((i for i, count in enumerate(counts[:-1]) if count >= rank), len(edges) - 1)
    if found == len(edges) - 1:
        return edges[-2]
    if found == 0 and edges[0] <= 0:
        return edges[0]
    start, below = (edges[found - 1], counts[found - 1]) if found > 0 else (0.0, 0.0)
    inside = counts[found] - below
    return start + (edges[found] - start) * ((rank - below) / inside) if inside else edges[found]


def _rising(counts: Sequence[float]) -> list[float]:
    """Counts as they must be: one that is lower than its left neighbour is lifted."""
    highest = 0.0
    lifted = []
    for count in counts:
        highest = max(highest, count)
        lifted.append(highest)
    return lifted


def rate(samples: Sequence[S], value: Callable[[S], float | None]) -> float | None:
    """Growth per second of one counter over samples chosen by ``in_window``."""
    known = [(sample.at_s, value(sample)) for sample in samples]
    known = [(at, number) for at, number in known if number is not None]
    grown = increase(number for _, number in known)
    return None if grown is None else grown / (known[-1][0] - known[0][0])


def total(values: Sequence[float | None]) -> float | None:
    """The sum over replicas, known only when each is known; of no replica it is 0."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean over replicas, known only when each is known and there is one."""
    whole = total(values)
    return whole / len(values) if whole is not None and values else None
