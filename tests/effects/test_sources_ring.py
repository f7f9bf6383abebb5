"""The ring of samples: bounded, kept over processes, honest about gaps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from enova.effects.sources.ring import MOST_SAMPLES, Arrivals, SampleRing
from enova.effects.sources.samples import EngineSample, GatewaySample, HistogramCounts


def counters(at: float, attempts: float = 0.0) -> GatewaySample:
    return GatewaySample(at, attempts, 0.0, 0.0, 0.0)


def ring(path: Path | None = None) -> SampleRing:
    return SampleRing(path, window_s=30.0, keep_s=600.0)


def test_the_window_and_one_sample_before_it_are_kept() -> None:
    held = ring()
    for at in range(0, 200, 10):
        held.add_engine("i", EngineSample(at_s=float(at)))
    assert [s.at_s for s in held.engines["i"]] == [150, 160, 170, 180, 190]


def test_the_number_of_samples_is_bounded() -> None:
    held = ring()
    for at in range(1000):
        held.add_engine("i", EngineSample(at_s=at / 100))
    assert len(held.engines["i"]) == MOST_SAMPLES


def test_what_is_too_old_or_from_the_future_goes() -> None:
    held = ring()
    held.add_engine("i", EngineSample(at_s=1000.0))
    held.add_engine("i", EngineSample(at_s=100.0))
    assert [s.at_s for s in held.engines["i"]] == [100.0]
    held.add_engine("i", EngineSample(at_s=701.0))
    assert [s.at_s for s in held.engines["i"]] == [701.0]


def test_another_process_goes_on_with_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "samples.json"
    first = ring(path)
    histogram = HistogramCounts((0.1, math.inf), (1.0, 2.0))
    first.add_engine("i", EngineSample(at_s=1.0, running=2.0, ttft=histogram))
    first.add_gateway("chat", counters(1.0, 5.0))
    first.save()
    second = ring(path)
    assert second.engines == first.engines
    assert second.gateway == first.gateway
    assert second.arrivals == first.arrivals
    assert [p.name for p in path.parent.iterdir()] == ["samples.json"]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"version": 99}', '{"version": 1}'])
def test_a_damaged_file_holds_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "samples.json"
    path.write_text(text)
    assert ring(path).engines == {}


def test_the_last_arrival_is_noted() -> None:
    held = ring()
    for at, attempts in ((0, 5), (10, 5), (20, 7), (30, 7)):
        held.add_gateway("chat", counters(float(at), float(attempts)))
    assert held.arrivals["chat"] == Arrivals(watched_since_s=0.0, last_s=20.0)


def test_a_gateway_that_began_anew_counts_as_an_arrival() -> None:
    held = ring()
    held.add_gateway("chat", counters(0.0, 5.0))
    held.add_gateway("chat", counters(10.0, 2.0))
    assert held.arrivals["chat"].last_s == 10.0


def test_idle_time_starts_over_after_a_gap() -> None:
    held = ring()
    held.add_gateway("chat", counters(0.0, 5.0))
    held.add_gateway("chat", counters(700.0, 5.0))
    assert held.arrivals["chat"] == Arrivals(700.0, 700.0)


def test_targets_that_are_gone_are_forgotten() -> None:
    held = ring()
    held.add_engine("a", EngineSample(at_s=1.0))
    held.add_engine("b", EngineSample(at_s=1.0))
    held.add_gateway("chat", counters(1.0))
    held.keep_only({"b"}, set())
    assert set(held.engines) == {"b"}
    assert held.gateway == {}
    assert held.arrivals == {}
