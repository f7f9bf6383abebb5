"""The arithmetic of windows: increases over restarts, quantiles as Prometheus computes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enova.effects.sources.samples import (
    EngineSample,
    HistogramCounts,
    histogram_increase,
    in_window,
    increase,
    mean,
    merge,
    quantile,
    rate,
    total,
)

INF = math.inf


def hist(*pairs: tuple[float, float]) -> HistogramCounts:
    return HistogramCounts(tuple(e for e, _ in pairs), tuple(c for _, c in pairs))


def test_increase_counts_a_restart_from_zero() -> None:
    assert increase([10, 15, 3, 8]) == 5 + 3 + 5
    assert increase([10]) is None
    assert increase([None, 10, None]) is None
    assert increase([1, None, 4]) == 3


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=20))
def test_an_increase_is_never_negative(values: list[float]) -> None:
    grown = increase(values)
    assert grown is not None
    assert grown >= 0


def test_quantiles_interpolate_inside_the_bucket() -> None:
    # The examples of Prometheus' own test data: 0.25 of 4 in (0, .1], half in (.1, .2].
    counts = hist((0.1, 1), (0.2, 3), (INF, 4))
    assert quantile(counts, 0.5) == pytest.approx(0.15)
    assert quantile(counts, 0.125) == pytest.approx(0.05)
    assert quantile(counts, 0.95) == 0.2, "beyond the last finite edge only that edge is known"


def test_a_histogram_without_observations_or_an_infinite_edge_has_no_quantile() -> None:
    assert quantile(hist((0.1, 0), (INF, 0)), 0.95) is None
    assert quantile(hist((0.1, 3), (0.2, 4)), 0.95) is None
    assert quantile(hist((INF, 4)), 0.95) is None


def test_counts_that_fall_between_edges_are_lifted() -> None:
    assert quantile(hist((0.1, 2), (0.2, 1), (0.4, 4), (INF, 4)), 0.75) == pytest.approx(0.3)


@given(
    st.lists(st.integers(0, 50), min_size=3, max_size=12),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_quantiles_rise_with_the_share(inside: list[int], one: float, other: float) -> None:
    edges = (*(float(i + 1) for i in range(len(inside) - 1)), INF)
    counts = tuple(float(sum(inside[: i + 1])) for i in range(len(inside)))
    low, high = (quantile(HistogramCounts(edges, counts), q) for q in sorted((one, other)))
    assert (low is None) == (high is None) == (counts[-1] == 0)
    if low is not None and high is not None:
        assert 0 <= low <= high <= edges[-2]


def test_only_observations_of_the_window_count() -> None:
    before, after = hist((0.1, 5), (INF, 5)), hist((0.1, 5), (INF, 9))
    assert histogram_increase([before, after]) == hist((0.1, 0), (INF, 4))
    assert histogram_increase([after]) is None


def test_a_restarted_engine_counts_from_zero() -> None:
    before, after = hist((0.1, 50), (INF, 60)), hist((0.1, 2), (INF, 3))
    assert histogram_increase([before, after]) == after


def test_histograms_of_replicas_are_added_edge_by_edge() -> None:
    assert merge([hist((0.1, 1), (INF, 2)), hist((0.1, 3), (INF, 3))]) == hist((0.1, 4), (INF, 5))
    assert merge([]) is None


def sample(at: float, tokens: float | None = 0.0) -> EngineSample:
    return EngineSample(at_s=at, generation_tokens=tokens)


def chosen(times: list[float], now: float) -> list[float]:
    found = in_window([sample(t) for t in times], now=now, window_s=30, least_s=4, longest_s=600)
    return [s.at_s for s in found]


def test_the_window_takes_what_is_inside_it() -> None:
    assert chosen([0, 5, 60, 70, 80, 90], now=90) == [60, 70, 80, 90]


def test_the_last_sample_must_be_from_now() -> None:
    assert chosen([60, 70, 80], now=90) == []
    assert chosen([], now=90) == []


def test_rare_looks_reach_back_one_sample_and_not_too_far() -> None:
    assert chosen([0, 10, 300], now=300) == [10, 300]
    assert chosen([0, 700], now=700) == []


def test_two_samples_too_close_carry_no_rate() -> None:
    assert chosen([89, 90], now=90) == []
    assert chosen([80, 89, 90], now=90) == [80, 89, 90]


def test_samples_of_the_future_are_left_out() -> None:
    assert chosen([80, 90, 4000], now=90) == [80, 90]


def test_a_rate_is_over_the_time_its_own_values_span() -> None:
    grown = [sample(0, None), sample(10, 100.0), sample(20, 150.0)]
    assert rate(grown, lambda s: s.generation_tokens) == 5.0
    assert rate(grown[:2], lambda s: s.generation_tokens) is None


def test_a_sum_with_a_part_unknown_is_unknown() -> None:
    assert total([1.0, None]) is None
    assert total([]) == 0
    assert total([1.0, 2.0]) == 3.0
    assert mean([]) is None
    assert mean([1.0, None]) is None
    assert mean([0.2, 0.4]) == pytest.approx(0.3)
