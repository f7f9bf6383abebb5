"""The exposition parses, has vLLM's families and edges, and counts as Prometheus means it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from enova.services.emulator.exposition import EngineState, render
from enova.services.emulator.faults import Faults
from enova.services.emulator.lengths import OutputLengths
from enova.services.emulator.meter import Histogram, Meter

STATE = EngineState(
    running=2, waiting=3, kv_usage=0.5, prefix_queries=9, prefix_hits=4, preemptions=1, lag_s=0.0
)

# Names as vLLM 0.32.0 answered them, apart from what needs parts that are not emulated.
FAMILIES = [
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:engine_sleep_state",
    "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits",
    "vllm:external_prefix_cache_queries",
    "vllm:external_prefix_cache_hits",
    "vllm:mm_cache_queries",
    "vllm:mm_cache_hits",
    "vllm:num_preemptions",
    "vllm:prompt_tokens",
    "vllm:prompt_tokens_by_source",
    "vllm:prompt_tokens_cached",
    "vllm:prompt_tokens_cached_by_source",
    "vllm:generation_tokens",
    "vllm:request_success",
    "vllm:admission_rejections",
    "vllm:request_prompt_tokens",
    "vllm:request_generation_tokens",
    "vllm:iteration_tokens_total",
    "vllm:request_max_num_generation_tokens",
    "vllm:request_params_n",
    "vllm:request_params_max_tokens",
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:request_time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_inference_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
    "vllm:request_num_preemptions",
    "vllm:request_prefill_kv_computed_tokens",
    "vllm:cache_config_info",
    "process_cpu_seconds",
    "process_resident_memory_bytes",
    "http_requests",
    "enova_emulator_info",
]


def families(meter: Meter):
    text = render(
        meter,
        STATE,
        cache={"num_gpu_blocks": "64", "block_size": "16"},
        about={"model_name": meter.model_name},
    )
    return {family.name: family for family in text_string_to_metric_families(text)}


def make(**more) -> Meter:
    return Meter(**({"model_name": "tiny", "max_model_len": 1024, "buckets": {}} | more))


def test_has_the_families_of_the_engine_it_stands_in_for() -> None:
    found = families(make())
    assert [name for name in FAMILIES if name not in found] == []


def test_engine_families_carry_engine_and_model_name() -> None:
    for name, family in families(make()).items():
        if name.startswith("vllm:") and name not in (
            "vllm:admission_rejections",
            "vllm:admission_rejections_created",
            "vllm:cache_config_info",
        ):
            for sample in family.samples:
                assert sample.labels["engine"] == "0", name
                assert sample.labels["model_name"] == "tiny", name


def test_edges_follow_the_context_length_and_the_overrides() -> None:
    meter = make(max_model_len=100, buckets={"time_to_first_token": (0.5, 2.0)})
    found = families(meter)

    def edges(name: str) -> list[str]:
        return [s.labels["le"] for s in found[name].samples if s.name.endswith("_bucket")]

    assert edges("vllm:request_prompt_tokens") == [
        *("1.0", "2.0", "5.0", "10.0", "20.0", "50.0", "100.0", "+Inf")
    ]
    assert edges("vllm:time_to_first_token_seconds") == ["0.5", "2.0", "+Inf"]
    assert edges("vllm:iteration_tokens_total")[:3] == ["1.0", "8.0", "16.0"]


def test_a_name_with_quotes_survives() -> None:
    found = families(make(model_name='a "b" \\ c'))
    sample = found["vllm:num_requests_running"].samples[0]
    assert sample.labels["model_name"] == 'a "b" \\ c'
    assert sample.value == 2.0


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5)), max_size=30))
def test_a_bucket_counts_everything_up_to_its_edge(values) -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value, times in values:
        histogram.observe(value, times)
    counts = dict(histogram.cumulative())
    for edge in (1.0, 2.0, 5.0):
        assert counts[str(edge)] == sum(times for value, times in values if value <= edge)
    assert counts["+Inf"] == histogram.count == sum(times for _, times in values)


def test_lengths_have_the_mean_and_repeat_for_a_seed() -> None:
    lengths = OutputLengths(mean=200.0, cv=0.7, seed=3)
    drawn = [lengths.draw() for _ in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(200.0, rel=0.05)
    assert lengths.draw(9) == lengths.draw(9)
    assert {OutputLengths(mean=30.0, cv=0.0, seed=1).draw() for _ in range(5)} == {30}


@pytest.mark.parametrize(
    ("posted", "sentence"),
    [
        ({"slow": 0}, "positive factor"),
        ({"slow": True}, "positive factor"),
        ({"hang": "yes"}, "true or false"),
        ({"crash_after": -1}, "whole number"),
        ({"explode": True}, "unknown fault explode"),
    ],
)
def test_a_wrong_fault_is_refused_with_a_sentence(posted, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Faults().changed(posted)


def test_posted_faults_change_only_what_they_name() -> None:
    faults = Faults(slow=2.0).changed({"hang": True, "crash_after": 3})
    assert faults == Faults(slow=2.0, hang=True, crash_after=3)
