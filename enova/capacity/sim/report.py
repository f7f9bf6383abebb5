"""What a run means to its users: percentiles of the four latencies, and the share within goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from enova.capacity.sim.run import Outcome, Run

Metric = Literal["ttft", "tpot", "itl", "e2e"]

METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, order=True)
class Goal:
    """One service-level objective: a percentile (0..100) of a metric stays within seconds."""

    metric: Metric
    percentile: int
    limit_s: float

    @property
    def key(self) -> str:
        """``ttft_p95``, as in predictions."""
        return f"{self.metric}_p{self.percentile}"


@dataclass(frozen=True)
class Objectives:
    """All latency goals of a service.

    ``attainment`` is the least share of requests (0..1) that must be within all of them at once,
    None when only the percentiles count.
    """

    goals: tuple[Goal, ...] = ()
    attainment: float | None = None


def _as_simulated(metric: Metric) -> float:
    return 1.0


@dataclass(frozen=True)
class Report:
    """One run, its warm-up left out. Latencies in seconds; ``extra_ttft_s`` is in them already."""

    outcomes: tuple[Outcome, ...]
    gaps: tuple[tuple[float, int], ...]
    extra_ttft_s: float
    tokens_per_s: float
    running: float

    def percentile(self, metric: Metric, percentile: float) -> float:
        """The value that ``percentile`` percent of requests (of gaps, for itl) do not exceed."""
        if metric == "itl":
            return weighted_percentile(self.gaps, percentile)
        return percentile_of([self.value(o, metric) for o in self.outcomes], percentile)

    def value(self, outcome: Outcome, metric: Metric) -> float:
        """One request's figure; for itl its mean gap."""
        if metric == "ttft":
            return outcome.ttft_s + self.extra_ttft_s
        if metric == "e2e":
            return outcome.e2e_s + self.extra_ttft_s
        return outcome.tpot_s

    def attainment(
        self, goals: Iterable[Goal], *, slower: Callable[[Metric], float] = _as_simulated
    ) -> float:
        """Share of requests within the goals of every metric at once.

        A metric with several percentiles counts by its widest limit: the others are meant for
        fewer requests. ``slower`` says how many times as long each metric's latencies are taken.
        """
        limits: dict[Metric, float] = {}
        for goal in goals:
            limits[goal.metric] = max(goal.limit_s, limits.get(goal.metric, 0.0))
        bounds = [(metric, limit / slower(metric)) for metric, limit in sorted(limits.items())]
        good = sum(
            all(self.value(o, metric) <= bound for metric, bound in bounds) for o in self.outcomes
        )
        return good / len(self.outcomes) if self.outcomes else 1.0


def report(run: Run, *, warm_up_s: float = 0.0, extra_ttft_s: float = 0.0) -> Report:
    """The report over requests that arrived after the warm-up."""
    outcomes = tuple(o for o in run.outcomes if o.arrival_s >= warm_up_s) or run.outcomes
    seconds = max(run.end_s, 1e-9)
    tokens = sum(o.output_tokens for o in run.outcomes)
    return Report(
        outcomes=outcomes,
        gaps=run.gaps,
        extra_ttft_s=extra_ttft_s,
        tokens_per_s=tokens / seconds,
        running=run.sequence_s / seconds,
    )


def percentile_of(values: Sequence[float], percentile: float) -> float:
    """Linear interpolation between the two nearest ranks; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * percentile / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def weighted_percentile(values: Sequence[tuple[float, int]], percentile: float) -> float:
    """The smallest value that ``percentile`` percent of the weight do not exceed; 0 for none."""
    total = sum(weight for _, weight in values)
    seen = 0
    for value, weight in values:
        seen += weight
        if seen >= total * percentile / 100:
            return value
    return 0.0
