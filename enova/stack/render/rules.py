"""Prometheus' rule file as data: every signal as a series, and what somebody is told of.

In: ``Watched``. Out: the document of ``rules.yml``, which the caller dumps as JSON (which is YAML
too). Pages are for what users feel and nothing mends by itself: burning error budgets and a closed
door. Everything else is a ticket: it says why, or what to mend before it is felt.
``docs/alerts.md`` has one section an alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from enova.stack import recording
from enova.stack.recording import Recorded, miss_share, requests_in, series
from enova.stack.render.prometheus import ENGINES, GATEWAY, RECONCILER, duration
from enova.stack.watched import Watched

Document = dict[str, object]
Severity = Literal["page", "ticket"]

RUNBOOK = "docs/alerts.md"

MOST_MISSES = 0.9
"""A budget of 10 % and more cannot burn 14.4 times as fast: from this share on it is an alert."""
FEWEST_REQUESTS = 10
"""Of fewer requests a share says nothing."""
HANG_S = 60.0
SILENT_S = 60.0
"""Added to twelve intervals: a first look simulates what replicas carry."""
NEVER_UP_S = 1800.0
KV_FULL = 0.95
SLOWER_THAN_PEERS = 1.5
THERMAL_SHARE = 0.01
POWER_SHARE = 0.5
APPLICATION_XIDS = (13, 31, 43, 45)
"""Errors of programs, not of the device: dashboards show them."""


@dataclass(frozen=True)
class Burn:
    """Both windows at ``times`` the rate that would just use up the budget.

    Of a budget for 30 days: 2 % in an hour, 5 % in 6 hours, 10 % in 1 or in 3 days (The Site
    Reliability Workbook, chapter 5, table 5-8).
    """

    name: str
    times: float
    long: str
    short: str
    severity: Severity


BURNS = (
    Burn("GoalBurns1h", 14.4, "1h", "5m", "page"),
    Burn("GoalBurns6h", 6, "6h", "30m", "page"),
    Burn("GoalBurns1d", 3, "1d", "2h", "ticket"),
    Burn("GoalBurns3d", 1, "3d", "6h", "ticket"),
)


@dataclass(frozen=True)
class Alert:
    """One alert. ``address``, ``summary`` and ``description`` are Prometheus' templates."""

    name: str
    expr: str
    severity: Severity
    summary: str
    description: str
    wait_s: float = 0.0
    address: str = ""
    """What it is about; "" where its series carry the label ``address`` themselves."""


def rules(watched: Watched) -> Document:
    """The document of the rule file. The same value gives the same document."""
    often = duration(watched.scrape_interval_s)
    seldom = duration(recording.goal_interval_s(watched))
    groups = [
        _group("signals", often, [_recorded(one) for one in recording.now(watched)]),
        _group("goals", seldom, [_recorded(one) for one in recording.goals(watched)]),
        _group("alerts", often, [_alerting(one) for one in alerts(watched)]),
    ]
    return {"groups": [group for group in groups if group["rules"]]}


def alerts(watched: Watched) -> tuple[Alert, ...]:
    """Every alert, in the order of ``docs/alerts.md``."""
    found = [*_gateway(watched), *_reconciler(watched), *_targets(watched)]
    if watched.services:
        found = [*_goals(), *_replicas(watched), *found]
    if watched.gpus:
        found += _gpus()
    return tuple(found)


def _goals() -> Iterator[Alert]:
    budget = series("goal_budget")
    asked = _looked_up(series("goal_target"), "humanizePercentage")
    for burn in BURNS:
        limit = f"clamp_max({burn.times:g} * {budget}, {MOST_MISSES:g})"
        yield Alert(
            name=burn.name,
            expr=f"{miss_share(burn.long)} > {limit} and {miss_share(burn.short)} > {limit} "
            f"and {requests_in(burn.long)} >= {FEWEST_REQUESTS}",
            severity=burn.severity,
            address="{{ $labels.service }}",
            summary="{{ $labels.service }} misses its goal {{ $labels.goal }}",
            description=f"{{{{ $value | humanizePercentage }}}} of the requests of the last "
            f"{burn.long} missed it, and so it goes on in the last {burn.short}. {asked} must meet "
            f"it: the error budget burns at {burn.times:g} times the rate that it stands.",
        )
    yield Alert(
        name="GoalUnmeasured",
        expr=f"{series('goal_target')} unless on (service, goal) {miss_share(recording.SHORTEST)} "
        f"and on (service) {series('succeeded_rate')} > 0",
        severity="ticket",
        wait_s=300.0,
        address="{{ $labels.service }}",
        summary="nothing measures {{ $labels.goal }} of {{ $labels.service }}",
        description="Requests are answered, but there is no data for the goal "
        "{{ $labels.goal }} (target {{ $value | humanizePercentage }}).",
    )
    measured, predicted = series("goal_measured"), recording.PREDICTED_AT_MOST
    promised = f"{recording.PREDICTED_AT_RATE} * on (service) "
    yield Alert(
        name="ForecastMissed",
        expr=f"avg_over_time({measured}[30m]) > {predicted} and on (service) "
        f"avg_over_time({series('arrival_rate')}[30m]) <= on (service) "
        f"{promised}avg_over_time({series('replicas_serving')}[30m]) "
        f"and {requests_in('1h')} >= {FEWEST_REQUESTS}",
        severity="ticket",
        wait_s=600.0,
        address="{{ $labels.service }}",
        summary="{{ $labels.service }} is slower than its plan predicted",
        description="{{ $labels.goal }} was {{ $value | humanizeDuration }} in the last 30 min, "
        f"the plan predicted {_looked_up(series('goal_predicted'), 'humanizeDuration')}, and no "
        "more requests arrive than it was made for.",
    )


def _replicas(watched: Watched) -> Iterator[Alert]:
    up = f'up{{job="{ENGINES}"}}'
    yield Alert(
        name="ReplicaDown",
        expr=f"{up} == 0 and on (instance) max_over_time({up}[1h]) == 1",
        severity="ticket",
        wait_s=_few_scrapes(watched),
        summary="{{ $labels.address }} does not answer",
        description="{{ $labels.instance }} answered within the last hour and does not any more.",
    )
    running, steps = series("replica_running"), series("replica_steps")
    window = duration(max(HANG_S, 4 * watched.scrape_interval_s))
    yield Alert(
        name="ReplicaHangs",
        expr=f"changes({steps}[{window}]) == 0 and min_over_time({running}[{window}]) > 0 "
        f"and {running} > 0",
        severity="ticket",
        wait_s=HANG_S,
        summary="{{ $labels.address }} hangs",
        description="{{ $labels.instance }} has made no engine step for two minutes and has "
        f"{_looked_up(running, 'humanize', by='instance')} requests in its batch.",
    )
    latency = series("replica_itl_mean")
    yield Alert(
        name="ReplicaSlow",
        expr=f"{latency} > on (service) group_left () {SLOWER_THAN_PEERS:g} * "
        f"quantile by (service) (0.5, {latency}) and on (service) "
        f"count by (service) ({latency}) > 1",
        severity="ticket",
        wait_s=300.0,
        summary="{{ $labels.address }} is slower than its peers",
        description="{{ $labels.instance }} takes {{ $value | humanizeDuration }} a token, more "
        f"than {SLOWER_THAN_PEERS:g} times the median of {{{{ $labels.service }}}}.",
    )
    yield Alert(
        name="ReplicasMissing",
        expr=f"{series('replicas_serving')} < {series('replicas_wanted')}",
        severity="ticket",
        wait_s=1200.0,
        address="{{ $labels.service }}",
        summary="{{ $labels.service }} has fewer replicas than ordered",
        description="{{ $value }} serve, "
        f"{_looked_up(series('replicas_wanted'), 'humanize', by='service')} are ordered, for 20 "
        "min now.",
    )
    waiting, put_back = series("replica_waiting"), series("replica_preemption_rate")
    yield Alert(
        name="KvCacheExhausted",
        expr=f"{series('replica_kv_usage')} > {KV_FULL:g} and ({waiting} > 0 or {put_back} > 0)",
        severity="ticket",
        wait_s=120.0,
        summary="{{ $labels.address }} has no KV cache left",
        description="{{ $value | humanizePercentage }} of the cache of {{ $labels.instance }} is "
        "taken, and requests wait for it or are put back.",
    )


def _gateway(watched: Watched) -> Iterator[Alert]:
    up = f'up{{job="{GATEWAY}"}}'
    yield Alert(
        name="GatewayDown",
        expr=f"{up} == 0 or absent({up})",
        severity="page",
        wait_s=_few_scrapes(watched),
        address="gateway",
        summary="the gateway does not answer",
        description="Nothing reads {{ with $labels.instance }}{{ . }}{{ else }}a gateway{{ end }}: "
        "no request reaches any service.",
    )


def _reconciler(watched: Watched) -> Iterator[Alert]:
    if watched.reconcile_interval_s is None:
        return
    longest = SILENT_S + 12 * watched.reconcile_interval_s
    yield Alert(
        name="ReconcilerSilent",
        expr=f'{series("reconciler_silence")} > {longest:g} or up{{job="{RECONCILER}"}} == 0',
        severity="ticket",
        wait_s=60.0,
        address="reconciler",
        summary="the reconciler does not tick",
        description="Nothing is scaled or healed: "
        "{{ with $labels.instance }}{{ . }} does not answer{{ else }}its last tick was "
        "{{ $value | humanizeDuration }} ago{{ end }}.",
    )


def _targets(watched: Watched) -> Iterator[Alert]:
    engines = f'up{{job="{ENGINES}"}}'
    others = f'up{{job!~"{ENGINES}|{GATEWAY}|{RECONCILER}"}}'
    never = duration(NEVER_UP_S)
    yield Alert(
        name="TargetSilent",
        expr=f"{others} == 0 or ({engines} == 0 and max_over_time({engines}[{never}]) == 0 "
        f"and on (instance) {engines} offset {never} == 0)",
        severity="ticket",
        wait_s=max(120.0, _few_scrapes(watched)),
        summary="no data of {{ $labels.instance }}",
        description="{{ $labels.address }} (job {{ $labels.job }}) is to be read and does not "
        "answer; what it would say is missing in dashboards and alerts.",
    )


def _gpus() -> Iterator[Alert]:
    device = "GPU {{ $labels.gpu }} of {{ $labels.Hostname }}"
    xid = series("gpu_xid")
    known = " ".join(f"!= {code}" for code in APPLICATION_XIDS)
    yield Alert(
        name="GpuXid",
        expr=f"{xid} > 0 {known}",
        severity="ticket",
        summary=f"{device} reports XID {{{{ $value }}}}",
        description=f"The driver's last error of {device} is XID {{{{ $value }}}}, one of the "
        "device and not of a program.",
    )
    yield Alert(
        name="GpuDoubleBitError",
        expr=f"{series('gpu_ecc_double_bit')} > 0",
        severity="ticket",
        summary=f"{device} has memory errors it cannot correct",
        description=f"{{{{ $value }}}} double-bit errors of {device} since its driver started.",
    )
    yield Alert(
        name="GpuTooHot",
        expr=f"{series('gpu_thermal_violation')} > {THERMAL_SHARE:g}",
        severity="ticket",
        wait_s=300.0,
        summary=f"{device} is slowed by heat",
        description=f"Heat held back the clocks of {device} "
        "{{ $value | humanizePercentage }} of the last 5 min.",
    )
    yield Alert(
        name="GpuShortOfPower",
        expr=f"{series('gpu_power_violation')} > {POWER_SHARE:g}",
        severity="ticket",
        wait_s=900.0,
        summary=f"{device} is slowed by its power limit",
        description=f"Power held back the clocks of {device} "
        "{{ $value | humanizePercentage }} of the last 5 min, for 15 min now.",
    )


def _few_scrapes(watched: Watched) -> float:
    """So long that one missed reading is no alert."""
    return max(15.0, 3 * watched.scrape_interval_s)


def _looked_up(name: str, form: str, *, by: str = "goal") -> str:
    """A template that shows another series of the same goal, service or instance."""
    labels = {"goal": ("service", "goal"), "service": ("service",), "instance": ("instance",)}[by]
    select = ", ".join(f"{label}='%s'" for label in labels)
    given = " ".join(f"$labels.{label}" for label in labels)
    return (
        f'{{{{ with printf "{name}{{{select}}}" {given} | query }}}}'
        f"{{{{ . | first | value | {form} }}}}{{{{ end }}}}"
    )


def _group(name: str, interval: str, content: list[Document]) -> Document:
    return {"name": f"enova-{name}", "interval": interval, "rules": content}


def _recorded(one: Recorded) -> Document:
    labels = {"labels": dict(one.labels)} if one.labels else {}
    return {"record": one.name, "expr": one.query, **labels}


def _alerting(one: Alert) -> Document:
    address = {"address": one.address} if one.address else {}
    return {
        "alert": one.name,
        "expr": one.expr,
        **({"for": duration(one.wait_s)} if one.wait_s else {}),
        "labels": {"severity": one.severity, **address},
        "annotations": {
            "summary": one.summary,
            "description": one.description,
            "runbook": f"{RUNBOOK}#{one.name.lower()}",
        },
    }
