"""Runs of one or more replicas: conservation, routing and percentiles."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enova.capacity.perf.point import LinearStepTime, ScaledStepTime
from enova.capacity.sim.replica import ReplicaLimits, SimRequest
from enova.capacity.sim.report import Goal, percentile_of, report, weighted_percentile
from enova.capacity.sim.run import Member, as_requests, run
from enova.capacity.workload import Lengths, Workload, sample

STEP = LinearStepTime(base=0.01, per_prefill_token=1e-5, per_decode=1e-4, per_context_token=1e-8)
LIMITS = ReplicaLimits(64, 2048, 4096, 4096)
WORK = Workload(10, 10, Lengths.fit(p50=200, p95=600), Lengths.fit(p50=150, p95=300))


def requests(rate: float, count: int, seed: int = 1) -> tuple[SimRequest, ...]:
    return as_requests(sample(WORK, rate, count=count, seed=seed), LIMITS)


def test_every_request_is_answered_in_full() -> None:
    asked = requests(20, 300)
    done = run(asked, [Member(STEP, LIMITS)] * 2)
    assert [o.id for o in done.outcomes] == [r.id for r in asked]
    assert all(0 < o.ttft_s <= o.e2e_s for o in done.outcomes)
    assert sum(n for _, n in done.gaps) == sum(o.output_tokens - 1 for o in done.outcomes)


def test_littles_law_holds() -> None:
    done = run(requests(10, 1500), [Member(STEP, LIMITS)])
    # Running sequences averaged over the steps against arrivals times residence. A request
    # waits for the step under way, a hundredth of its stay.
    in_steps = done.sequence_s / done.end_s
    by_stay = sum(o.e2e_s for o in done.outcomes) / done.end_s
    assert in_steps == pytest.approx(by_stay, rel=0.01)


def test_the_same_requests_give_the_same_run() -> None:
    members = [Member(STEP, LIMITS), Member(STEP, LIMITS)]
    assert run(requests(20, 200), members) == run(requests(20, 200), members)


def test_two_replicas_share_evenly_and_a_slow_one_gets_less() -> None:
    even = run(requests(30, 600), [Member(STEP, LIMITS)] * 2)
    counts = [sum(o.replica == r for o in even.outcomes) for r in (0, 1)]
    assert min(counts) > 250
    slow = Member(ScaledStepTime(STEP, 3.0), LIMITS)
    uneven = run(requests(30, 600), [Member(STEP, LIMITS), slow])
    assert sum(o.replica == 1 for o in uneven.outcomes) < 200


def test_weight_decides_the_share() -> None:
    heavy, light = Member(STEP, LIMITS, weight=300), Member(STEP, LIMITS, weight=100)
    done = run(requests(30, 600), [heavy, light])
    assert sum(o.replica == 0 for o in done.outcomes) > 400


def test_a_fleet_is_better_than_its_parts_alone() -> None:
    alone = report(run(requests(22, 800), [Member(STEP, LIMITS)]))
    together = report(run(requests(44, 1600), [Member(STEP, LIMITS)] * 2))
    assert together.percentile("ttft", 95) <= alone.percentile("ttft", 95) * 1.05


def test_shared_prefixes_are_found_again() -> None:
    work = Workload(10, 10, Lengths.fixed(800), Lengths.fixed(20), prefix_reuse=0.5)
    asked = as_requests(sample(work, 10, count=200, seed=3), LIMITS)
    done = run(asked, [Member(STEP, LIMITS)])
    assert 0.4 < done.prefix_hits / done.prefix_queries <= 0.5


def test_requests_are_cut_to_what_the_engine_accepts() -> None:
    work = Workload(1, 1, Lengths.fixed(100_000), Lengths.fixed(100_000))
    asked = as_requests(sample(work, 1, count=3, seed=1), LIMITS)
    assert {(r.prompt_tokens, r.output_tokens) for r in asked} == {(4095, 1)}


def test_attainment_counts_requests_within_every_goal() -> None:
    found = report(run(requests(5, 200), [Member(STEP, LIMITS)]))
    limit = found.percentile("ttft", 50)
    share = found.attainment([Goal("ttft", 95, limit), Goal("tpot", 95, 10.0)])
    assert share == pytest.approx(0.5, abs=0.01)
    assert found.attainment([Goal("e2e", 95, 0.0)]) == 0.0
    assert found.attainment([]) == 1.0
    assert found.attainment([Goal("ttft", 95, limit)], slower=lambda metric: 1e6) == 0.0


def test_attainment_takes_the_widest_limit_of_a_metric() -> None:
    found = report(run(requests(5, 200), [Member(STEP, LIMITS)]))
    median, most = (Goal("ttft", p, found.percentile("ttft", p)) for p in (50, 99))
    assert found.attainment([median, most]) == found.attainment([most])
    assert found.attainment([median]) < 0.6


def test_attainment_doubts_each_metric_by_its_own_factor() -> None:
    found = report(run(requests(5, 200), [Member(STEP, LIMITS)]))
    goals = [Goal("ttft", 95, found.percentile("ttft", 100)), Goal("e2e", 95, 1e6)]
    assert found.attainment(goals) == 1.0
    assert found.attainment(goals, slower=lambda metric: 2.0 if metric == "e2e" else 1.0) == 1.0
    assert found.attainment(goals, slower=lambda metric: 2.0 if metric == "ttft" else 1.0) < 1.0


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rates=st.lists(st.floats(0.5, 40), min_size=2, max_size=4),
    replicas=st.integers(1, 3),
    ttft=st.floats(0.03, 0.5),
    tpot=st.floats(0.012, 0.03),
)
def test_attainment_never_rises_with_load(
    rates: list[float], replicas: int, ttft: float, tpot: float
) -> None:
    goals = [Goal("ttft", 95, ttft), Goal("tpot", 95, tpot)]
    shares = []
    for rate in sorted(rates):
        asked = as_requests(sample(WORK, replicas * rate, count=400, seed=7), LIMITS)
        found = report(run(asked, [Member(STEP, LIMITS)] * replicas))
        shares.append(found.attainment(goals))
    # A request may meet another step by chance at a higher rate: 2 % of them, 8 of 400.
    assert all(later <= earlier + 0.02 for earlier, later in itertools.pairwise(shares))


def test_percentiles() -> None:
    assert percentile_of([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert percentile_of([], 50) == 0.0
    assert weighted_percentile([(1.0, 98), (5.0, 2)], 95) == 1.0
    assert weighted_percentile([(1.0, 98), (5.0, 2)], 99) == 5.0
