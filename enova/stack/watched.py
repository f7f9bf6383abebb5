"""What recording rules and alerts are about: the services with their goals, and how often we look.

In: a spec and its choices. Out: ``Watched``, a value ``stack.recording`` and
``stack.render.rules`` make Prometheus' rules of. Goals are taken apart here: each percentile is one
goal, so are the share within all limits at once and the share answered without a 5xx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enova.capacity.catalog import engines
from enova.capacity.catalog.engines import EngineFacts
from enova.capacity.perf.point import Figure
from enova.capacity.sim.report import Objectives
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.from_spec import goals_of
from enova.spec.model import Service, Spec
from enova.stack import edges
from enova.stack.cost import per_replica

ATTAINMENT = "attainment"
SUCCESS_RATE = "success_rate"


@dataclass(frozen=True)
class Limit:
    """A latency limit and the histogram edges to count it at, the exact one first."""

    metric: str
    limit_s: float
    edges: tuple[float, ...]


@dataclass(frozen=True)
class LatencyGoal:
    """``target`` (a share) of the requests must be within ``limit``; ``ttft_p95`` is 0.95.

    ``predicted_s``: what the plan said of it; ``at_most_s``: beyond that it was wrong.
    """

    name: str
    limit: Limit
    target: float
    predicted_s: float | None = None
    at_most_s: float | None = None


@dataclass(frozen=True)
class WatchedService:
    """One service. ``all_limits``: what the share ``attainment`` of requests must be within."""

    name: str
    engine: str
    engine_version: str
    success_rate: float
    goals: tuple[LatencyGoal, ...] = ()
    attainment: float | None = None
    all_limits: tuple[Limit, ...] = ()
    predicted_at_rate: float | None = None
    """Requests/s of a replica up to which the prediction was made."""
    usd_per_replica_hour: float | None = None


@dataclass(frozen=True)
class Watched:
    """A stack's services, sorted by name. Intervals in seconds.

    ``gpus``: DCGM's exporter is scraped. ``reconcile_interval_s`` None: nobody reconciles.
    """

    services: tuple[WatchedService, ...]
    scrape_interval_s: float
    reconcile_interval_s: float | None = None
    gpus: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The services' names."""
        return tuple(service.name for service in self.services)


FORECAST_FACTOR = 1.5
"""A latency may be this multiple of its prediction; or the prediction's own upper end, if higher:
the first is noise between windows, the second was said beforehand."""


def watched(
    spec: Spec,
    choices: Mapping[str, Choice],
    *,
    reconcile_interval_s: float | None,
    gpus: bool,
) -> Watched:
    """What is watched of a stack."""
    return Watched(
        services=tuple(
            _service(name, spec.services[name], choices[name]) for name in sorted(spec.services)
        ),
        scrape_interval_s=spec.monitoring.scrape_interval,
        reconcile_interval_s=reconcile_interval_s,
        gpus=gpus,
    )


def _service(name: str, service: Service, choice: Choice) -> WatchedService:
    facts = engines.facts(choice.engine, choice.engine_version)
    own = edges.stated(facts, service.engine.args)
    objectives = goals_of(service.goals)
    goals = []
    for goal in objectives.goals:
        limit = _limit(facts, goal.metric, goal.limit_s, own)
        predicted = choice.prediction.latencies.get(goal.key)
        if limit is None:
            continue
        goals.append(
            LatencyGoal(
                name=goal.key,
                limit=limit,
                target=goal.percentile / 100,
                predicted_s=predicted.value if predicted else None,
                at_most_s=_at_most(facts, goal.metric, predicted, own) if predicted else None,
            )
        )
    limits = _all_limits(facts, objectives, own) if objectives.attainment is not None else ()
    return WatchedService(
        name=name,
        engine=choice.engine,
        engine_version=choice.engine_version,
        success_rate=service.goals.success_rate,
        goals=tuple(goals),
        attainment=objectives.attainment if limits else None,
        all_limits=limits,
        predicted_at_rate=choice.prediction.rate_per_s,
        usd_per_replica_hour=per_replica(choice),
    )


def _at_most(
    facts: EngineFacts,
    metric: str,
    predicted: Figure,
    own: Mapping[str, tuple[float, ...]],
) -> float:
    """Seconds beyond which a prediction was wrong. Between two edges a histogram knows nothing, so
    what is measured may be as much as the next one."""
    most = max(FORECAST_FACTOR * predicted.value, predicted.high)
    return edges.counted_at(facts, metric, most, own=own) or most


def _all_limits(
    facts: EngineFacts, objectives: Objectives, own: Mapping[str, tuple[float, ...]]
) -> tuple[Limit, ...]:
    """Each metric's limit at its highest percentile; ITL is meant of a request's mean, TPOT."""
    widest: dict[str, tuple[int, float]] = {}
    for goal in objectives.goals:
        metric = "tpot" if goal.metric == "itl" else goal.metric
        widest[metric] = max(
            widest.get(metric, (0, 0.0)), (goal.percentile, goal.limit_s), key=lambda w: w[0]
        )
    found = (_limit(facts, metric, limit, own) for metric, (_, limit) in sorted(widest.items()))
    return tuple(limit for limit in found if limit is not None)


def _limit(
    facts: EngineFacts, metric: str, limit_s: float, own: Mapping[str, tuple[float, ...]]
) -> Limit | None:
    """Where a limit is counted; None where this engine has no histogram of it."""
    if metric not in facts.metrics:
        return None
    everywhere = edges.counted_at(facts, metric, limit_s, own=own)
    exact = edges.FLAG in facts.flags and not own.get(facts.bucket_families.get(metric, ""))
    at = [limit_s] if exact else []
    if everywhere is not None and everywhere not in at:
        at.append(everywhere)
    return Limit(metric, limit_s, tuple(at)) if at else None
