"""The reconciler's page: what Prometheus reads of it, and that it is gone after a clean end."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from enova.policy.scaling import Decision
from enova.services.reconciler.loop import Report
from enova.services.reconciler.metrics import Page, serving, target
from enova.stack import recording
from enova.stack.render.prometheus import targets
from tests.stack.worlds import asked, planned, running, world

INPUTS = (("starting", 1.0), ("serving", 2.0), ("arrival_rate", None))
DECIDED = {"chat": Decision(3, "more requests", INPUTS)}


def read(endpoint: str) -> dict[tuple[str, tuple[str, ...]], float]:
    text = httpx.get(f"http://{endpoint}/metrics", trust_env=False, timeout=10).text
    return {
        (sample.name, tuple(sorted(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_it_says_when_it_ticked_and_what_it_wants() -> None:
    page = Page(started_s=100.0, interval_s=5.0)
    with serving(page, host="127.0.0.1") as endpoint:
        assert read(endpoint)[recording.RECONCILER_TICK, ()] == 100.0
        page.ticked(Report(DECIDED), now=105.0)
        known = read(endpoint)
    assert known[recording.RECONCILER_TICK, ()] == 105.0
    assert known[recording.RECONCILER_WANTED, ("chat",)] == 3
    assert known[recording.RECONCILER_STARTING, ("chat",)] == 1
    assert known["enova_replicas_serving", ("chat",)] == 2
    assert known["enova_reconciler_ticks_total", ("quiet",)] == 1
    assert known["enova_reconciler_problem", ()] == 0


def test_a_tick_that_failed_still_ticks_and_keeps_what_was_wanted() -> None:
    page = Page(started_s=100.0, interval_s=5.0)
    page.ticked(Report(DECIDED), now=105.0)
    page.ticked(Report(problem="the host does not answer"), now=110.0)
    with serving(page, host="127.0.0.1") as endpoint:
        known = read(endpoint)
    assert known[recording.RECONCILER_TICK, ()] == 110.0
    assert known[recording.RECONCILER_WANTED, ("chat",)] == 3
    assert known["enova_reconciler_ticks_total", ("failed",)] == 1
    assert known["enova_reconciler_problem", ()] == 1


def test_changes_count_when_they_begin_by_service_and_reason() -> None:
    ask = asked()
    made = planned(ask, world(ask, *running(ask, 0)))
    page = Page(started_s=100.0, interval_s=5.0)
    page.ticked(Report(DECIDED, made, begun=False), now=105.0)
    page.ticked(Report(DECIDED, made, begun=True), now=110.0)
    page.ticked(Report(DECIDED, made, begun=True), now=115.0)
    with serving(page, host="127.0.0.1") as endpoint:
        known = read(endpoint)
    (change,) = made.changes
    assert known["enova_changes_total", tuple(sorted(("chat", change.reason.value)))] == 2


def test_the_page_goes_with_the_reconciler() -> None:
    with serving(Page(started_s=0.0, interval_s=5.0), host="127.0.0.1") as endpoint:
        assert read(endpoint)
    with pytest.raises(httpx.ConnectError):
        read(endpoint)


def test_its_target_is_named_as_its_alert_names_it() -> None:
    (document,) = targets("demo", [target("127.0.0.1:1")])
    assert document["labels"] == {
        "stack": "demo",
        "instance": "reconciler",
        "address": "reconciler",
    }
