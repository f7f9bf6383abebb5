"""Every signal as a series of Prometheus: ``enova:ttft_p95``, by the name it has everywhere.

In: what is watched. Out: one ``Recorded`` a series, with its query. Dashboards, alerts and the
console ask for these names only, so what a number means is written once, whatever the engine and
its version call it. How many requests missed a goal is summed from what was recorded each
interval, so windows of days cost little and outlive the replicas they count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from enova.capacity.catalog import engines
from enova.policy.signals import LATENCIES, PERCENTILES
from enova.stack import queries
from enova.stack import queries_engine as engine
from enova.stack import queries_gateway as gateway
from enova.stack import queries_gpu as gpu
from enova.stack.watched import ATTAINMENT, SUCCESS_RATE, Limit, Watched, WatchedService

PREFIX = "enova:"
GOAL_LABEL = "goal"

RECONCILER_TICK = "enova_reconciler_last_tick_timestamp_seconds"
RECONCILER_WANTED = "enova_replicas_wanted"
RECONCILER_STARTING = "enova_replicas_starting"
"""What the reconciler's own page says (``services.reconciler.metrics``)."""

COUNT_WINDOW_S = 300.0
"""Requests and misses are counted over this; every longer window is a sum of it."""
WINDOWS: Mapping[str, float] = {
    "30m": 1800.0,
    "1h": 3600.0,
    "2h": 7200.0,
    "6h": 21600.0,
    "1d": 86400.0,
    "3d": 259200.0,
}
SHORTEST = "5m"
BUDGET_WINDOW = "3d"
PREDICTED_AT_RATE = f"{PREFIX}predicted_at_rate"
"""Requests/s of a replica for which the plan predicted, by service."""
PREDICTED_AT_MOST = f"{PREFIX}goal_predicted_at_most"
"""Seconds beyond which the prediction was wrong, by service and goal."""
LONG = ("1h", "6h", "1d", "3d")
"""Windows in which requests are counted too: a few say nothing about a share."""

_LEAST_INTERVAL_S = 30.0


@dataclass(frozen=True)
class Recorded:
    """One series: its name, its query, labels it is given."""

    name: str
    query: str
    labels: Mapping[str, str] = field(default_factory=dict)


def series(signal: str) -> str:
    """The series of a signal of ``policy.signals.MEANINGS``."""
    return f"{PREFIX}{signal}"


def miss_share(window: str) -> str:
    """The series of the share of requests that missed a goal within a window."""
    return f"{PREFIX}goal_miss_share:{window}"


def requests_in(window: str) -> str:
    """The series of how many requests a goal was set against within a window."""
    return f"{PREFIX}goal_requests:{window}"


def rate_window_s(watched: Watched) -> float:
    """Over how long rates are taken: a minute, or four scrapes."""
    return max(60.0, 4 * watched.scrape_interval_s)


def goal_interval_s(watched: Watched) -> float:
    """How often misses are counted."""
    return max(_LEAST_INTERVAL_S, watched.scrape_interval_s)


def now(watched: Watched) -> tuple[Recorded, ...]:
    """Signals of services, replicas, GPUs and the reconciler, as often as targets are read."""
    return tuple(_now(watched))


def goals(watched: Watched) -> tuple[Recorded, ...]:
    """What is asked, what is measured, and what is left of each goal's error budget."""
    return tuple(_goals(watched))


def _now(watched: Watched) -> Iterator[Recorded]:
    names, window = watched.names, rate_window_s(watched)
    if not names:
        return
    arrivals = gateway.by_service(queries.arrival_rate(names, window_s=window))
    yield _signal("arrival_rate", arrivals)
    recently = queries.arrival_rate(names, window_s=max(10.0, 2 * watched.scrape_interval_s))
    yield _signal("recent_arrival_rate", gateway.by_service(recently))
    yield _signal("completed_rate", gateway.completed_rate(names, window_s=window))
    yield _signal("succeeded_rate", gateway.succeeded_rate(names, window_s=window))
    successes = gateway.by_service(queries.success_rate(names, window_s=window))
    yield _signal("success_rate", successes)
    yield _signal("in_progress", gateway.in_progress(names))
    yield _signal("execution_time", gateway.execution_time(names, window_s=window))
    yield _signal("request_size", gateway.request_size(names, window_s=window))
    yield _signal("response_size", gateway.response_size(names, window_s=window))
    yield _signal("request_bytes_rate", gateway.request_bytes_rate(names, window_s=window))
    yield _signal("response_bytes_rate", gateway.response_bytes_rate(names, window_s=window))
    yield _signal("replicas_serving", gateway.serving(names))
    for families, same in _by_families(watched):
        yield from _engines(families, same, window)
    yield _signal("replicas_wanted", f"sum by (service) ({RECONCILER_WANTED})")
    yield _signal("replicas_starting", f"sum by (service) ({RECONCILER_STARTING})")
    yield _signal("reconciler_silence", f"time() - max({RECONCILER_TICK})")
    yield from _cost(watched)
    if watched.gpus:
        for name, text in gpu.expressions().items():
            yield _signal(name, text)


def _engines(
    known: Mapping[str, str], services: Sequence[str], window: float
) -> Iterator[Recorded]:
    """Signals of services whose engines share metric names, as far as those exist."""
    of = engine.REPLICA

    def has(*families: str) -> bool:
        return all(family in known for family in families)

    for family in ("running", "waiting"):
        if has(family):
            yield _signal(family, engine.total(known[family], services))
            yield _signal(f"replica_{family}", engine.total(known[family], services, by=of))
    if has("kv_usage"):
        yield _signal("kv_usage", engine.average(known["kv_usage"], services))
        yield _signal("replica_kv_usage", engine.average(known["kv_usage"], services, by=of))
    for metric in LATENCIES:
        if has(metric):
            for percentile in PERCENTILES:
                text = engine.quantile(
                    known[metric], services, share=percentile / 100, window_s=window
                )
                yield _signal(f"{metric}_p{percentile}", text)
            mean = engine.mean(known[metric], services, window_s=window)
            yield _signal(f"{metric}_mean", mean)
    if has("itl"):
        mean = engine.mean(known["itl"], services, window_s=window, by=of)
        yield _signal("replica_itl_mean", mean)
    for family in ("prompt_tokens", "generation_tokens"):
        if has(family):
            text = engine.rate(f"{known[family]}_total", services, window_s=window)
            yield _signal(f"{family}_rate", text)
    if has("generation_tokens"):
        counter = f"{known['generation_tokens']}_total"
        text = engine.rate(counter, services, window_s=window, by=of)
        yield _signal("replica_generation_tokens_rate", text)
    if has("prefix_hits", "prefix_queries"):
        hits, asked = f"{known['prefix_hits']}_total", f"{known['prefix_queries']}_total"
        text = engine.share_of(hits, asked, services, window_s=window)
        yield _signal("prefix_hit_share", text)
    if has("preemptions"):
        counter = f"{known['preemptions']}_total"
        yield _signal("preemption_rate", engine.rate(counter, services, window_s=window))
        text = engine.rate(counter, services, window_s=window, by=of)
        yield _signal("replica_preemption_rate", text)
    if has("steps"):
        counter = f"{known['steps']}_count"
        yield _signal("step_rate", engine.rate(counter, services, window_s=window))
        yield _signal("replica_steps", engine.total(counter, services, by=of))
        text = engine.rate(counter, services, window_s=window, by=of)
        yield _signal("replica_step_rate", text)


def _cost(watched: Watched) -> Iterator[Recorded]:
    """What runs, starting ones too, at the price of one; nothing where there is no price."""
    prices = {s.name: s.usd_per_replica_hour for s in watched.services}
    priced = {name: usd for name, usd in prices.items() if usd is not None}
    for name, usd in priced.items():
        there = f'count by (service) (up{{job="engines", service="{name}"}})'
        yield _signal("usd_per_hour", f"{there} * {_number(usd)}")
    if not priced:
        return
    hourly, prompt, output = map(
        series, ("usd_per_hour", "prompt_tokens_rate", "generation_tokens_rate")
    )
    per_million = f"{hourly} / (({prompt} + {output}) * 3600 > 0) * 1e6"
    yield _signal("usd_per_million_tokens", per_million)
    per_million = f"{hourly} / ({output} * 3600 > 0) * 1e6"
    yield _signal("usd_per_million_output_tokens", per_million)


def _goals(watched: Watched) -> Iterator[Recorded]:
    for service in watched.services:
        yield from _goals_of(service)
    if not watched.services:
        return
    budget, requests, misses = series("goal_budget"), _counted("requests"), _counted("misses")
    yield Recorded(miss_share(SHORTEST), f"{misses} / ({requests} > 0)")
    for window in WINDOWS:
        missed, asked = (f"sum_over_time({name}[{window}])" for name in (misses, requests))
        yield Recorded(miss_share(window), f"{missed} / ({asked} > 0)")
    for window in LONG:
        times = f"{goal_interval_s(watched):g}"
        yield Recorded(requests_in(window), f"sum_over_time({requests}[{window}]) * {times}")
    yield _signal("goal_attainment", f"1 - {miss_share('1h')}")
    yield _signal("burn_rate", f"{miss_share('1h')} / ({budget} > 0)")
    yield _signal("error_budget_left", f"1 - {miss_share(BUDGET_WINDOW)} / ({budget} > 0)")


def _goals_of(service: WatchedService) -> Iterator[Recorded]:
    known = _families(service)
    select = [service.name]
    for goal in service.goals:
        name, limit = goal.name, goal.limit
        yield from _asked(service, name, goal.target)
        yield _constant("goal_limit", limit.limit_s, service, name)
        histogram = known[limit.metric]
        yield from _counts(
            name,
            requests=engine.rate(f"{histogram}_count", select, window_s=COUNT_WINDOW_S),
            misses=_over(known, limit, service),
        )
        measured = engine.quantile(histogram, select, share=goal.target, window_s=COUNT_WINDOW_S)
        yield Recorded(series("goal_measured"), measured, {GOAL_LABEL: name})
        if goal.predicted_s is not None and goal.at_most_s is not None:
            yield _constant("goal_predicted", goal.predicted_s, service, name)
            yield Recorded(
                PREDICTED_AT_MOST,
                f"vector({_number(goal.at_most_s)})",
                {queries.SERVICE_LABEL: service.name, GOAL_LABEL: name},
            )
    if service.attainment is not None:
        yield from _asked(service, ATTAINMENT, service.attainment)
        # Which request missed which limit is not known: as many missed one as missed the worst.
        worst = " or ".join(
            f'label_replace({_over(known, limit, service)}, "of", "{limit.metric}", "", "")'
            for limit in service.all_limits
        )
        yield from _counts(
            ATTAINMENT,
            requests=engine.rate(f"{known['e2e']}_count", select, window_s=COUNT_WINDOW_S),
            misses=f"max by (service) ({worst})",
        )
    yield from _asked(service, SUCCESS_RATE, service.success_rate)
    yield from _counts(
        SUCCESS_RATE,
        requests=gateway.completed_rate(select, window_s=COUNT_WINDOW_S),
        misses=gateway.failed_rate(select, window_s=COUNT_WINDOW_S),
    )
    if service.predicted_at_rate is not None:
        text = f"vector({_number(service.predicted_at_rate)})"
        yield Recorded(PREDICTED_AT_RATE, text, {queries.SERVICE_LABEL: service.name})


def _families(service: WatchedService) -> Mapping[str, str]:
    """Metric families of a service's engine, by what they measure."""
    return engines.facts(service.engine, service.engine_version).metrics


def _by_families(watched: Watched) -> list[tuple[Mapping[str, str], list[str]]]:
    """Services that share metric names together: they share series."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for service in watched.services:
        groups.setdefault(tuple(_families(service).items()), []).append(service.name)
    return [(dict(families), names) for families, names in sorted(groups.items())]


def _over(known: Mapping[str, str], limit: Limit, service: WatchedService) -> str:
    return engine.over(
        known[limit.metric], service.name, edges=limit.edges, window_s=COUNT_WINDOW_S
    )


def _asked(service: WatchedService, goal: str, target: float) -> Iterator[Recorded]:
    yield _constant("goal_target", target, service, goal)
    yield _constant("goal_budget", round(1 - target, 12), service, goal)


def _counts(goal: str, *, requests: str, misses: str) -> Iterator[Recorded]:
    labels = {GOAL_LABEL: goal}
    yield Recorded(_counted("requests"), requests, labels)
    yield Recorded(_counted("misses"), misses, labels)


def _counted(what: str) -> str:
    return f"{PREFIX}goal_{what}:rate{SHORTEST}"


def _constant(signal: str, value: float, service: WatchedService, goal: str) -> Recorded:
    labels = {queries.SERVICE_LABEL: service.name, GOAL_LABEL: goal}
    return Recorded(series(signal), f"vector({_number(value)})", labels)


def _signal(name: str, query: str) -> Recorded:
    return Recorded(series(name), query)


def _number(value: float) -> str:
    return f"{value:.12g}"
