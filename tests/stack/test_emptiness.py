"""Why a query finds nothing: each reason in its own case, and no reason where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enova.policy.signals import MEANINGS
from enova.stack import dashboards, recording
from enova.stack.emptiness import (
    Evaluated,
    Known,
    Leaf,
    LeafNow,
    Reason,
    Scraped,
    by_name,
    rests_on,
    why,
)
from enova.stack.panels import everything
from tests.stack.render.rule_cases import WATCHED

RECORDED = by_name([*recording.now(WATCHED), *recording.goals(WATCHED)])
JOBS = ("engines", "gateway", "enova", "dcgm-exporter")
UP = tuple(Scraped(job, f"{job}-1", job, "http://x/metrics", True) for job in JOBS)
WELL = Known(RECORDED, UP, tuple(Evaluated(name, True) for name in RECORDED))

ARRIVALS = recording.series("arrival_rate")
TTFT = recording.series("ttft_p95")
RUNNING = recording.series("running")
ATTAINMENT = recording.series("goal_attainment")


def read(query: str, now: LeafNow) -> Known:
    """All is well, and each raw series the query rests on is like ``now``."""
    return replace(WELL, leaves=dict.fromkeys(rests_on(query, RECORDED)[1], now))


def without(job: str) -> Known:
    return replace(WELL, targets=tuple(target for target in UP if target.job != job))


def down(job: str) -> Known:
    error = 'Get "http://x/metrics": dial tcp 127.0.0.1:1: connect: connection refused'
    return replace(
        WELL, targets=tuple(replace(t, up=False, error=error) if t.job == job else t for t in UP)
    )


def test_a_panel_rests_on_the_pages_that_it_says_it_needs() -> None:
    jobs = {
        "engines": "engines",
        "gateway": "gateway",
        "gpus": "dcgm-exporter",
        "reconciler": "enova",
    }
    for page in dashboards.pages():
        for _, panel in page.panels():
            queries = [everything(query) for query, _ in panel.queries()]
            leaves = [leaf for query in queries for leaf in rests_on(query, RECORDED)[1]]
            constant = all(MEANINGS[s].of == "goal" for s in panel.signals) and not leaves
            assert constant or jobs[panel.needs] in {leaf.job for leaf in leaves}, panel.title


def test_only_series_are_taken_for_series() -> None:
    for one in (*recording.now(WATCHED), *recording.goals(WATCHED)):
        for leaf in rests_on(one.query, RECORDED)[1]:
            assert leaf.name.startswith(("vllm:", "envoy_cluster_", "DCGM_FI_", "enova_", "up"))
            assert leaf.name not in ("envoy_cluster_name", "envoy_response_code_class")


def test_what_looks_back_is_known_to() -> None:
    _, leaves = rests_on(ARRIVALS, RECORDED)
    total = [leaf for leaf in leaves if leaf.name == "envoy_cluster_upstream_rq_total"]
    assert {(leaf.window_s, leaf.offset_s) for leaf in total} == {
        (None, None),
        (None, 60.0),
        (120.0, None),
    }


@pytest.mark.parametrize(
    ("query", "known", "expected"),
    [
        (
            recording.series("usd_per_hour"),
            replace(WELL, recorded={}),
            Reason("the devices have no price (pool.prices)"),
        ),
        (
            recording.series("gpu_power"),
            replace(WELL, recorded={}),
            Reason("no DCGM exporter is part of this stack, so nothing is known of GPUs"),
        ),
        (
            recording.series("goal_limit"),
            replace(WELL, recorded={}),
            Reason("no service has a latency goal"),
        ),
        (
            recording.series("tpot_p95"),
            replace(WELL, recorded={}),
            Reason("this version of the engine does not report it"),
        ),
        (
            RUNNING,
            replace(WELL, rules=()),
            Reason(f"Prometheus has not loaded the rule of {RUNNING}", wrong=True),
        ),
        (
            RUNNING,
            replace(WELL, rules=(Evaluated(RUNNING, True, "found duplicate series"),)),
            Reason(f"the rule of {RUNNING} fails: found duplicate series", wrong=True),
        ),
        (
            RUNNING,
            replace(WELL, rules=(Evaluated(RUNNING, False),)),
            Reason("a recording rule below it has not been evaluated yet"),
        ),
        (RUNNING, without("engines"), Reason("no replica is there to be read")),
        (
            RUNNING,
            down("engines"),
            Reason("engines does not answer: connection refused", wrong=True),
        ),
        (ARRIVALS, without("gateway"), Reason("no gateway is there to be read", wrong=True)),
        (
            recording.series("replicas_wanted"),
            without("enova"),
            Reason("the reconciler does not run"),
        ),
        (
            recording.series("replicas_wanted"),
            read(recording.series("replicas_wanted"), LeafNow(0)),
            Reason("the reconciler has not decided anything yet"),
        ),
        (
            recording.series("gpu_sm_active"),
            read(recording.series("gpu_sm_active"), LeafNow(0)),
            Reason("these GPUs do not report DCGM_FI_PROF_SM_ACTIVE"),
        ),
        (
            ARRIVALS,
            read(ARRIVALS, LeafNow(1, enough=False)),
            Reason("too few readings of gateway yet to look back 2m"),
        ),
        (
            TTFT,
            read(TTFT, LeafNow(3, growth=0.0)),
            Reason("no request to measure in the last 1m"),
        ),
        (
            ATTAINMENT,
            replace(read(ATTAINMENT, LeafNow(3, growth=2.0)), found=frozenset({ATTAINMENT})),
            Reason("what its recording rules find since their last evaluation comes next"),
        ),
        (
            RUNNING,
            read(RUNNING, LeafNow(0)),
            Reason("nothing that is read reports vllm:num_requests_running", wrong=True),
        ),
        (RUNNING, read(RUNNING, LeafNow(2)), None),
        (TTFT, read(TTFT, LeafNow(2, growth=7.0)), None),
    ],
)
def test_why(query: str, known: Known, expected: Reason | None) -> None:
    assert why(query, known) == expected


def test_one_of_two_that_answers_is_enough_to_show_something() -> None:
    second = replace(UP[0], instance="engines-2", up=False, error="refused")
    known = replace(read(RUNNING, LeafNow(1)), targets=(*UP, second))
    assert why(RUNNING, known) is None


def test_nothing_read_at_all_is_wrong() -> None:
    found = why(RUNNING, replace(WELL, targets=()))
    assert found is not None and found.wrong


def test_a_number_that_stands_in_a_rule_needs_nobody() -> None:
    assert rests_on(recording.series("goal_target"), RECORDED)[1] == ()
    assert why(recording.series("goal_target"), replace(WELL, targets=())) is None


def test_a_leaf_knows_whose_page_it_is_on() -> None:
    assert Leaf("up", '{job="gateway"}').job == "gateway"
    assert Leaf("vllm:num_requests_running").job == "engines"
