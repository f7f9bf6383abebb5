"""What `mon check` makes of Prometheus' answers, over a page that answers as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from enova.effects.sources.prometheus_api import PrometheusApi
from enova.stack import recording
from enova.stack.render import rules
from enova.workflows.mon_check import QUIET, Checked, Finding, check
from tests.effects.pages_server import serving
from tests.stack.render.rule_cases import WATCHED

RECORDED = (*recording.now(WATCHED), *recording.goals(WATCHED))
ALERTS = rules.alerts(WATCHED)
NAMES = [*(one.name for one in RECORDED), *(alert.name for alert in ALERTS)]
JOBS = ("engines", "gateway", "enova", "dcgm-exporter")
SHARES = ("Fleet / Now / KV cache in use", "enova:kv_usage")

Answer = Callable[[str], "float | str | None"]
"""A value, nothing, or the text of a refusal, by query."""


def asked(answer: Answer, *, loaded: list[str] | None = None, failing: str = "") -> Checked:
    """`check` against a Prometheus that reads everything and answers so."""

    def page(path: str, form: dict[str, list[str]]) -> tuple[int, str]:
        if path == "/api/v1/targets":
            found = [
                {
                    "labels": {"job": job, "instance": job, "address": job},
                    "scrapeUrl": "http://x",
                    "health": "up",
                    "lastError": "",
                }
                for job in JOBS
            ]
            return well({"activeTargets": found})
        if path == "/api/v1/rules":
            names = NAMES if loaded is None else loaded
            error = {failing: "many to many"}
            made = [
                {"name": n, "lastEvaluation": "2026", "lastError": error.get(n, "")} for n in names
            ]
            return well({"groups": [{"rules": made}]})
        value = answer(form["query"][0])
        if isinstance(value, str):
            text = {"status": "error", "errorType": "bad_data", "error": value}
            return 400, json.dumps(text)
        found = [] if value is None else [{"metric": {}, "value": [0, str(value)]}]
        return well({"resultType": "vector", "result": found})

    with serving(page) as pages, PrometheusApi(f"http://{pages.endpoint}") as api:
        return check(api, WATCHED, stack="demo")


def well(data: object) -> tuple[int, str]:
    return 200, json.dumps({"status": "success", "data": data})


def quiet(query: str) -> float | None:
    """All is well: everything has a value that may be, and no alert sees anything."""
    if query.startswith(("count(", "max(count_over_time(", "sum(increase(")):
        return 5.0  # of the raw series below: there, read often, and grown
    return None if query in {alert.expr for alert in ALERTS} else 0.5


def but(name: str, value: float | str | None) -> Answer:
    """All is well but for queries that ask for a series, and its rule."""
    own = {one.query for one in RECORDED if one.name == name}

    def answer(query: str) -> float | str | None:
        return value if query.startswith(f"{name}{{") or query in own else quiet(query)

    return answer


def wrong(found: Checked) -> list[Finding]:
    return [one for one in found.findings if one.verdict == "wrong"]


def test_all_is_well() -> None:
    found = asked(quiet)
    assert found.well
    assert {(f.kind, f.verdict) for f in found.findings} == {
        ("panel", "data"),
        ("rule", "data"),
        ("alert", "empty"),
    }
    assert {f.reason for f in found.findings if f.kind == "alert"} == {QUIET}
    assert {f.where for f in found.findings if f.kind == "rule"} >= {o.name for o in RECORDED[:9]}


@pytest.mark.parametrize("value", [45.7, 1.01, -0.2])
def test_a_share_beyond_0_to_1_is_wrong(value: float) -> None:
    found = asked(but("enova:kv_usage", value))
    assert not found.well
    assert {f.where for f in wrong(found)} >= set(SHARES)
    assert {f.reason for f in wrong(found)} == {f"{value:g} is no share: it should be 0 to 1"}


def test_what_is_estimated_may_be_a_little_off() -> None:
    assert asked(but("enova:kv_usage", 1.0004)).well


def test_an_overdrawn_budget_is_no_mistake_and_more_than_all_of_it_is() -> None:
    assert asked(but("enova:error_budget_left", -3.0)).well
    assert not asked(but("enova:error_budget_left", 1.5)).well


def test_a_refused_query_is_wrong_with_prometheus_own_words() -> None:
    found = asked(but("enova:kv_usage", "1:2: parse error"))
    assert {f.reason for f in wrong(found)} == {"refused: 1:2: parse error"}
    assert {f.where for f in wrong(found)} >= set(SHARES)


def test_a_refused_alert_is_wrong() -> None:
    (alert, *_) = ALERTS
    found = asked(lambda query: "no" if query == alert.expr else quiet(query))
    assert [(f.kind, f.where, f.reason) for f in wrong(found)] == [
        ("alert", alert.name, "refused: no")
    ]


def test_an_alert_that_sees_something_is_not_a_mistake() -> None:
    found = asked(lambda query: 1.0 if query == ALERTS[0].expr else quiet(query))
    assert found.well
    seen = [f for f in found.findings if f.kind == "alert" and f.verdict == "data"]
    assert [f.where for f in seen] == [ALERTS[0].name]


def test_rules_that_prometheus_does_not_have_or_cannot_evaluate() -> None:
    missing = [name for name in NAMES if name not in ("enova:kv_usage", "GatewayDown")]
    assert {f.where for f in wrong(asked(quiet, loaded=missing))} == {
        "enova:kv_usage",
        "GatewayDown",
    }
    (failed,) = wrong(asked(quiet, failing="enova:kv_usage"))
    assert (failed.where, failed.reason) == ("enova:kv_usage", "it fails: many to many")


def test_what_is_empty_though_all_is_there_is_wrong() -> None:
    found = asked(but("enova:kv_usage", None))
    assert {f.where for f in wrong(found)} >= set(SHARES)
    assert all("nothing all the same" in f.reason for f in wrong(found))


def test_without_a_request_latencies_are_empty_for_a_reason() -> None:
    def answer(query: str) -> float | None:
        if query.startswith("sum(increase("):
            return 0.0
        return None if query.startswith("enova:e2e_") or query in e2e else quiet(query)

    e2e = {one.query for one in RECORDED if one.name.startswith("enova:e2e_")}

    found = asked(answer)
    assert found.well
    (panel,) = {f.reason for f in found.findings if f.where == "Service / Latency / End to end"}
    assert panel == "no request to measure in the last 1m"
