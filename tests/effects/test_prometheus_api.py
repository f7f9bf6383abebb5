"""What Prometheus says of itself, as its pages are, and every way of not answering."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from enova.base.errors import Unreachable
from enova.effects.sources.prometheus_api import AlertNow, PrometheusApi, RefusedQuery, Value
from enova.stack.emptiness import Evaluated, Scraped
from tests.effects.pages_server import serving


@contextmanager
def answering(data: object = None, *, status: int = 200, text: str = "") -> Iterator[PrometheusApi]:
    body = text or json.dumps({"status": "success", "data": data})
    with (
        serving(lambda *_: (status, body)) as pages,
        PrometheusApi(f"http://{pages.endpoint}") as api,
    ):
        yield api


def vector(*values: str) -> dict[str, object]:
    result = [{"metric": {"service": "chat"}, "value": [1.0, value]} for value in values]
    return {"resultType": "vector", "result": result}


def test_a_query_is_sent_as_it_is_and_finds_finite_values() -> None:
    asked: list[str] = []

    def answer(path: str, form: dict[str, list[str]]) -> tuple[int, str]:
        asked.extend([path, *form["query"]])
        return 200, json.dumps({"status": "success", "data": vector("1.5", "NaN", "+Inf")})

    with serving(answer) as pages, PrometheusApi(f"http://{pages.endpoint}/") as api:
        assert api.query('up{job="engines"} + 1') == (Value({"service": "chat"}, 1.5),)
    assert asked == ["/api/v1/query", 'up{job="engines"} + 1']


def test_a_scalar_is_one_value() -> None:
    with answering({"resultType": "scalar", "result": [1.0, "7"]}) as api:
        assert api.query("7") == (Value({}, 7.0),)


def test_targets_are_up_down_or_not_read_yet() -> None:
    def target(health: str, error: str = "") -> dict[str, object]:
        labels = {"job": "engines", "instance": health, "address": "chat/replica/0"}
        return {"labels": labels, "scrapeUrl": "http://x", "health": health, "lastError": error}

    found = [target("up"), target("down", "refused"), target("unknown")]
    with answering({"activeTargets": found}) as api:
        assert api.targets() == (
            Scraped("engines", "down", "chat/replica/0", "http://x", False, "refused"),
            Scraped("engines", "unknown", "chat/replica/0", "http://x", None),
            Scraped("engines", "up", "chat/replica/0", "http://x", True),
        )


def test_rules_tell_whether_they_were_evaluated_and_how_it_went() -> None:
    rules = [
        {"name": "a", "lastEvaluation": "0001-01-01T00:00:00Z", "health": "unknown"},
        {"name": "b", "lastEvaluation": "2026-01-01T00:00:00Z", "lastError": "many to many"},
    ]
    with answering({"groups": [{"rules": rules}]}) as api:
        assert api.rules() == (Evaluated("a", False), Evaluated("b", True, "many to many"))


def test_alerts_fire_before_they_are_pending() -> None:
    def alert(state: str) -> dict[str, object]:
        labels = {"alertname": "GatewayDown", "severity": "page", "address": "gateway"}
        return {
            "labels": labels,
            "annotations": {"summary": "closed"},
            "state": state,
            "activeAt": "T",
        }

    with answering({"alerts": [alert("pending"), alert("firing")]}) as api:
        assert api.alerts() == (
            AlertNow("GatewayDown", "firing", "page", "gateway", "closed", "T"),
            AlertNow("GatewayDown", "pending", "page", "gateway", "closed", "T"),
        )


def test_a_query_it_does_not_take() -> None:
    text = json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error"})
    with answering(status=400, text=text) as api, pytest.raises(RefusedQuery, match="parse error"):
        api.query("sum by (")


@pytest.mark.parametrize(
    ("status", "text", "says"),
    [
        (200, "<html>", "no Prometheus"),
        (404, "[]", "no Prometheus"),
        (
            503,
            '{"status": "error", "errorType": "timeout", "error": "query timed out"}',
            "timed out",
        ),
    ],
)
@pytest.mark.parametrize("ask", [PrometheusApi.targets, PrometheusApi.rules, PrometheusApi.alerts])
def test_something_else_answers(
    ask: Callable[[PrometheusApi], object], status: int, text: str, says: str
) -> None:
    with answering(status=status, text=text) as api, pytest.raises(Unreachable, match=says):
        ask(api)


def test_nobody_answers() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        api = PrometheusApi(f"http://127.0.0.1:{closed.getsockname()[1]}")
    with api, pytest.raises(Unreachable, match="does not answer"):
        api.targets()
