"""Traffic: laws with the stated figures, arrivals at the stated rate, traces."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enova.capacity.workload import (
    Arrivals,
    Lengths,
    Trace,
    TraceRequest,
    Workload,
    sample,
    workload_of,
)


@given(st.floats(10, 2000), st.floats(1.05, 8))
def test_a_law_has_the_figures_it_was_made_from(p50: float, factor: float) -> None:
    by_tail = Lengths.fit(p50=p50, p95=p50 * factor)
    assert by_tail.quantile(0.5) == pytest.approx(p50)
    assert by_tail.quantile(0.95) == pytest.approx(p50 * factor)
    by_mean = Lengths.fit(mean=p50 * factor**0.3, p50=p50)
    assert by_mean.mean() == pytest.approx(p50 * factor**0.3)
    both = Lengths.fit(mean=by_tail.mean(), p95=p50 * factor)
    assert both.quantile(0.95) == pytest.approx(p50 * factor, rel=1e-6)


def test_one_figure_gets_a_usual_spread() -> None:
    law = Lengths.fit(mean=512)
    assert law.mean() == pytest.approx(512)
    assert law.quantile(0.95) > 800
    assert Lengths.fit(p95=512).quantile(0.95) == pytest.approx(512)


@pytest.mark.parametrize(
    "figures",
    [{}, {"mean": 0.0}, {"p50": 100.0, "p95": 50.0}, {"mean": 50.0, "p50": 100.0}],
)
def test_figures_that_no_traffic_has_are_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"token lengths|must not be below"):
        Lengths.fit(**figures)
    with pytest.raises(ValueError, match="no log-normal law"):
        Lengths.fit(mean=10.0, p95=1000.0)


def test_recorded_lengths_are_drawn_as_they_are() -> None:
    law = Lengths.empirical([5, 7, 7])
    source = random.Random(1)
    assert {law.draw(source) for _ in range(50)} == {5, 7}
    assert law.mean() == pytest.approx(19 / 3)


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals(20, "poisson"),
        Arrivals(20, "constant"),
        Arrivals(20, "gamma", burstiness=2.0),
        Arrivals(20, "trace", times=(0.0, 1.0, 1.5, 9.0)),
    ],
)
def test_arrivals_keep_their_rate(arrivals: Arrivals) -> None:
    gaps = arrivals.gaps(random.Random(7))
    total = sum(next(gaps) for _ in range(4000))
    assert 4000 / total == pytest.approx(20, rel=0.1)


def test_common_random_numbers_give_the_same_lengths_at_every_rate() -> None:
    work = Workload(10, 5, Lengths.fit(mean=100), Lengths.fit(mean=20), prefix_reuse=0.3)
    slow, fast = (sample(work, rate, count=50, seed=3) for rate in (1.0, 10.0))
    assert [r.prompt_tokens for r in slow] == [r.prompt_tokens for r in fast]
    assert slow[-1].arrival_s == pytest.approx(10 * fast[-1].arrival_s)
    assert sample(work, 1.0, count=50, seed=4) != slow


def test_a_workload_that_contradicts_itself_is_refused() -> None:
    law = Lengths.fixed(10)
    with pytest.raises(ValueError, match="must not exceed the peak"):
        Workload(1, 2, law, law)
    with pytest.raises(ValueError, match="prefix reuse"):
        Workload(2, 1, law, law, prefix_reuse=1.0)


def request(at: float, service: str = "chat", prompt: int | None = 10) -> TraceRequest:
    return TraceRequest(at, service, f"{service}/replica/0", prompt, 4, 0.1, 0.5, 200)


def test_a_trace_knows_its_rates_and_becomes_a_workload() -> None:
    trace = Trace(tuple(request(i * 0.5) for i in range(100)))
    assert trace.rate_per_s(10, end_s=40) == pytest.approx(2.0)
    assert trace.peak_per_s(10) == pytest.approx(2.1)
    assert len(trace.between(1, 2).requests) == 2
    work = workload_of(trace)
    assert work.mean_per_s == pytest.approx(100 / 49.5)
    assert work.input.mean() == 10
    with pytest.raises(ValueError, match="no request with known"):
        workload_of(Trace((request(0, prompt=None),)))


def test_a_trace_of_several_services_is_told_apart() -> None:
    trace = Trace((request(0), request(1, "code")))
    assert [r.service for r in trace.of_service("code").requests] == ["code"]
