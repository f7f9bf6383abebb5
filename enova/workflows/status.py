"""``enova status``: what runs, how it does, who may change it and what was decided last.

In: one stack's site. Out: a value the views print. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from enova.effects.sources.base import ServiceTargets
from enova.effects.state.journal import Entry
from enova.effects.state.keeper import Keeper, read_keeper
from enova.effects.state.lease import LeaseStatus
from enova.policy.signals import READ, Signals
from enova.spec.model import Goals
from enova.stack.observed import Observed, State
from enova.stack.plan import Ask
from enova.stack.record import Record
from enova.workflows.wiring import Site, gather

Verdict = Literal["met", "missed", "not known", "not measured"]
"""``not known``: no number now. ``not measured``: none of the signals read here says it, ever."""

METRICS = ("ttft", "tpot", "itl", "e2e")
NO_SIGNAL = {
    "tpot": "the reconciler reads the gaps between tokens (ITL); dashboards and alerts have it",
    "attainment": "engines report each latency by itself, not which requests are within all",
}


@dataclass(frozen=True)
class GoalNow:
    """One goal against what is measured.

    ``goal`` is ``ttft_p95``, ``attainment`` or ``success_rate``; ``asked`` and ``measured`` are
    seconds or a share, as ``unit`` says. ``why`` says what keeps it from being measured.
    """

    goal: str
    unit: Literal["seconds", "share"]
    asked: float
    measured: float | None
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Status:
    """One stack now. ``signals`` and ``goals`` by service; ``recent`` are journal lines, newest
    last."""

    record: Record
    applied: Ask | None
    observed: Observed
    signals: Mapping[str, Signals]
    goals: Mapping[str, tuple[GoalNow, ...]]
    lease: LeaseStatus
    recent: tuple[Entry, ...]
    keeper: Keeper | None = None
    """Who reconciles it; None when nobody does."""
    at: float = 0.0
    """When this was read, in seconds since 1970."""


class ReadSignals(Protocol):
    """How the signals of what was applied are read."""

    def __call__(self, applied: Ask, observed: Observed) -> Mapping[str, Signals]:
        """Signals by service."""
        ...


def status(here: Site, read_signals: ReadSignals, *, recent: int = 5) -> Status:
    """The status of a stack now."""
    seen = gather(here)
    signals = read_signals(seen.recorded, seen.observed) if seen.recorded is not None else {}
    return Status(
        record=seen.record,
        applied=seen.recorded,
        observed=seen.observed,
        signals=signals,
        goals={
            name: goals_now(service.goals, signals.get(name))
            for name, service in sorted(seen.recorded.spec.services.items())
        }
        if seen.recorded is not None
        else {},
        lease=here.lease("enova status").status(),
        recent=here.journal.tail(recent),
        keeper=read_keeper(here.state),
        at=here.clock.now(),
    )


def goals_now(goals: Goals, signals: Signals | None) -> tuple[GoalNow, ...]:
    """Each goal of a service against its signal: latencies first, then the shares of requests.

    A latency is judged only at the percentile that is measured: a p99 cannot be told from a p95.
    """
    found = [
        _against(f"{metric}_{percentile}", limit, signals)
        for metric in METRICS
        for percentile, limit in sorted((getattr(goals, metric) or {}).items())
    ]
    if goals.attainment is not None:
        why = NO_SIGNAL["attainment"]
        found.append(GoalNow("attainment", "share", goals.attainment, None, "not measured", why))
    measured = signals.success_rate if signals is not None else None
    verdict: Verdict = "not known"
    if measured is not None:
        verdict = "met" if measured >= goals.success_rate else "missed"
    found.append(GoalNow("success_rate", "share", goals.success_rate, measured, verdict))
    return tuple(found)


def _against(goal: str, limit: float, signals: Signals | None) -> GoalNow:
    """One latency goal: the signal of its name, if there is such a one, must not exceed it."""
    if goal not in READ:
        metric = goal.partition("_")[0]
        elsewhere = ", ".join(_percentiles(metric))
        why = f"measured at {elsewhere} only" if elsewhere else NO_SIGNAL[metric]
        return GoalNow(goal, "seconds", limit, None, "not measured", why)
    measured: float | None = getattr(signals, goal) if signals is not None else None
    if measured is None:
        return GoalNow(goal, "seconds", limit, None, "not known")
    return GoalNow(goal, "seconds", limit, measured, "met" if measured <= limit else "missed")


def _percentiles(metric: str) -> Iterator[str]:
    """The percentiles at which a signal measures a latency."""
    for name in sorted(READ):
        start, _, percentile = name.partition("_p")
        if start == metric and percentile.isdigit():
            yield f"p{percentile}"


def targets(applied: Ask, observed: Observed) -> Sequence[ServiceTargets]:
    """What a signal source reads: every instance that serves or did and still runs."""
    return [
        ServiceTargets(
            service=name,
            instances=tuple(
                (i.id, i.endpoint)
                for i in observed.of_service(name)
                if i.endpoint is not None and i.state in (State.SERVING, State.UNHEALTHY)
            ),
            engine=choice.engine,
            engine_version=choice.engine_version,
        )
        for name, choice in sorted(applied.choices.items())
    ]
