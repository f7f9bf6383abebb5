"""``enova mon check``: is there something behind every panel, rule and alert, and if not, why?

In: one stack's site. Out: a finding for each query of the dashboards, each recording rule and each
alert, asked of the stack's running Prometheus. What is empty is traced down to the targets, rules
and requests it rests on. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from enova.base import address as addresses
from enova.base.errors import Refused, Unreachable
from enova.effects.sources.prometheus_api import PrometheusApi, RefusedQuery, Value
from enova.policy.signals import MEANINGS
from enova.stack import dashboards, emptiness, monitoring, recording
from enova.stack.emptiness import Known, Leaf, LeafNow, Scraped
from enova.stack.panels import everything
from enova.stack.render import rules
from enova.stack.render.prometheus import duration
from enova.stack.watched import Watched
from enova.workflows.mon import applied_stack, prometheus_url
from enova.workflows.wiring import Site, gather

Kind = Literal["panel", "rule", "alert"]
Verdict = Literal["data", "empty", "wrong"]
"""``empty`` for a good reason, which is said. Everything else that is not ``data`` is ``wrong``."""

QUIET = "nothing to warn of"
ROUNDING = 1e-3
"""A share may leave 0 to 1 by so much: rates are estimates between two readings."""
OVERDRAWN = frozenset({"error_budget_left"})
"""Shares that go below 0 when more was used than there was."""


@dataclass(frozen=True)
class Finding:
    """What became of one query. ``where`` is page, row and panel, or the rule's name."""

    kind: Kind
    where: str
    query: str
    verdict: Verdict
    series: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Checked:
    """All findings, in the order of dashboards, rules and alerts. ``silent``: targets that do not
    answer, which leaves panels with less than there is."""

    stack: str
    env: str
    findings: tuple[Finding, ...]
    silent: tuple[Scraped, ...] = ()

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not any(one.verdict == "wrong" for one in self.findings)


def mon_check(here: Site) -> Checked:
    """Check the dashboards, rules and alerts of a running stack.

    Raises Refused when nothing is applied or its Prometheus is stopped or not part of it,
    Unreachable when it should run and does not answer.
    """
    seen = gather(here)
    resource = applied_stack(here, seen).monitor(monitoring.PROMETHEUS)
    name = f"{here.state.stack} --env {here.state.env}" if here.state.env else here.state.stack
    if resource is None or resource.watched is None:
        raise Refused(f"{here.state.stack} runs without Prometheus: nothing is recorded")
    if seen.record.monitors_stopped:
        raise Refused(f"the monitoring is stopped. Start it with: enova mon start {name}")
    url = prometheus_url(seen.observed)
    if url is None:
        raise Unreachable(f"{addresses.PROMETHEUS} does not run. Start it with: enova apply")
    with PrometheusApi(url) as api:
        return check(api, resource.watched, stack=here.state.stack, env=here.state.env)


def check(api: PrometheusApi, watched: Watched, *, stack: str, env: str = "") -> Checked:
    """Check what is recorded and shown of ``watched`` against one Prometheus.

    Raises Unreachable when it does not answer.
    """
    recorded = [*recording.now(watched), *recording.goals(watched)]
    asked = _Asked(api)
    known = Known(emptiness.by_name(recorded), api.targets(), api.rules())
    found = frozenset(one.name for one in recorded if asked.values(one.query))
    judge = _Judge(asked, replace(known, found=found))
    return Checked(
        stack,
        env,
        (*_panels(judge), *_rules(judge, recorded), *_alerts(judge, rules.alerts(watched))),
        tuple(target for target in known.targets if target.up is False),
    )


def _panels(judge: _Judge) -> Iterator[Finding]:
    for page in dashboards.pages():
        for row, panel in page.panels():
            for signal, (query, _) in zip(panel.signals, panel.queries(), strict=True):
                where = f"{page.title} / {row.title} / {panel.title}"
                yield judge.finding("panel", where, everything(query), signal=signal)


def _rules(judge: _Judge, recorded: Iterable[recording.Recorded]) -> Iterator[Finding]:
    for one in recorded:
        labels = ", ".join(f'{name}="{value}"' for name, value in one.labels.items())
        where = f"{one.name}{{{labels}}}" if labels else one.name
        yield judge.finding(
            "rule", where, one.query, signal=one.name.removeprefix(recording.PREFIX)
        )


def _alerts(judge: _Judge, alerts: Iterable[rules.Alert]) -> Iterator[Finding]:
    for alert in alerts:
        yield judge.alert(alert)


class _Asked:
    """Answers by query, each asked once. None: refused, for the reason in ``refusals``."""

    def __init__(self, api: PrometheusApi) -> None:
        self._api = api
        self._answers: dict[str, tuple[Value, ...] | None] = {}
        self.refusals: dict[str, str] = {}

    def values(self, query: str) -> tuple[Value, ...] | None:
        if query not in self._answers:
            try:
                self._answers[query] = self._api.query(query)
            except RefusedQuery as refused:
                self._answers[query] = None
                self.refusals[query] = str(refused)
        return self._answers[query]

    def number(self, query: str) -> float | None:
        """The one value of a query; None when there is none."""
        values = self.values(query)
        return values[0].value if values else None

    def leaf(self, leaf: Leaf) -> LeafNow:
        series = int(self.number(f"count({leaf.selector})") or 0)
        if leaf.window_s is not None:
            window = f"{leaf.selector}[{duration(leaf.window_s)}]"
            readings = self.number(f"max(count_over_time({window}))") or 0
            growth = (self.number(f"sum(increase({window}))") or 0.0) if leaf.counts else None
            return LeafNow(series, readings > 1, growth)
        if leaf.offset_s is not None:
            before = self.number(f"count({leaf.selector} offset {duration(leaf.offset_s)})")
            return LeafNow(series, before is not None)
        return LeafNow(series)


class _Judge:
    """Judges queries by what is known of one Prometheus."""

    def __init__(self, asked: _Asked, known: Known) -> None:
        self._asked = asked
        self._known = known

    def finding(self, kind: Kind, where: str, query: str, *, signal: str) -> Finding:
        values = self._asked.values(query)
        made = Finding(kind, where, query, "wrong")
        if values is None:
            return replace(made, reason=f"refused: {self._asked.refusals[query]}")
        if kind == "rule" and (problem := self._problem(where.partition("{")[0])):
            return replace(made, reason=problem)
        if not values:
            return self._empty(made)
        made = replace(made, series=len(values))
        reason = _out_of_range(signal, values)
        return replace(made, reason=reason) if reason else replace(made, verdict="data")

    def alert(self, alert: rules.Alert) -> Finding:
        """An alert finds nothing as long as all is well."""
        values = self._asked.values(alert.expr)
        made = Finding("alert", alert.name, alert.expr, "wrong")
        if values is None:
            return replace(made, reason=f"refused: {self._asked.refusals[alert.expr]}")
        if problem := self._problem(alert.name):
            return replace(made, reason=problem)
        if values:
            return replace(made, verdict="data", series=len(values), reason="it sees something")
        return replace(made, verdict="empty", reason=QUIET)

    def _problem(self, rule: str) -> str:
        """What is wrong with a rule as Prometheus has it, "" when nothing is."""
        loaded = [one for one in self._known.rules if one.name == rule]
        if not loaded:
            return "Prometheus has not loaded it"
        error = next((one.error for one in loaded if one.error), "")
        return f"it fails: {error}" if error else ""

    def _empty(self, made: Finding) -> Finding:
        known = self._known
        _, leaves = emptiness.rests_on(made.query, known.recorded)
        now = {leaf: self._asked.leaf(leaf) for leaf in leaves}
        reason = emptiness.why(made.query, replace(known, leaves=now))
        if reason is None:
            text = "all that it rests on is read and counted, and it finds nothing all the same"
            return replace(made, reason=text)
        return replace(made, verdict="wrong" if reason.wrong else "empty", reason=reason.text)


def _out_of_range(signal: str, values: Iterable[Value]) -> str:
    """What is not a share though it should be; "" when all is well."""
    meaning = MEANINGS.get(signal)
    if meaning is None or meaning.unit != "share":
        return ""
    for one in values:
        low = one.value < -ROUNDING and signal not in OVERDRAWN
        if low or one.value > 1 + ROUNDING:
            return f"{one.value:g} is no share: it should be 0 to 1"
    return ""
