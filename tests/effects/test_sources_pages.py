"""Metrics pages as text: names by version, ranks joined, what is not a number left out."""

from __future__ import annotations

import math

from enova.effects.sources.pages import engine_sample, gateway_samples
from enova.stack import queries

NEW = queries.families("vllm", "0.32.0")
OLD = queries.families("vllm", "0.8.5")

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.2
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.4
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 100.0
vllm:prompt_tokens_created{engine="0",model_name="tiny"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="tiny"} 50.0
vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} 77.0
vllm:iteration_tokens_total_sum{engine="0",model_name="tiny"} 999.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="tiny"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="0.1",model_name="tiny"} 1.0
vllm:time_to_first_token_seconds_bucket{engine="1",le="+Inf",model_name="tiny"} 1.0
"""


def test_ranks_are_added_and_the_cache_share_is_their_mean() -> None:
    found = engine_sample(PAGE, NEW, at_s=5.0)
    assert (found.running, found.waiting, found.steps) == (5, 4, 77)
    assert math.isclose(found.kv_usage or 0, 0.3)
    assert (found.prompt_tokens, found.generation_tokens) == (100, 50)
    assert found.ttft is not None
    assert (found.ttft.edges, found.ttft.counts) == ((0.1, math.inf), (2, 3))


def test_what_the_page_lacks_is_none_and_not_zero() -> None:
    found = engine_sample(PAGE, NEW, at_s=5.0)
    assert found.itl is None
    assert found.e2e is None
    assert engine_sample("", NEW, at_s=5.0).running is None


def test_old_versions_are_read_by_their_old_names() -> None:
    page = (
        'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n'
        'vllm:time_per_output_token_seconds_bucket{le="0.1",model_name="m"} 1\n'
        'vllm:time_per_output_token_seconds_bucket{le="+Inf",model_name="m"} 1\n'
    )
    assert engine_sample(page, OLD, at_s=0).kv_usage == 0.5
    assert engine_sample(page, OLD, at_s=0).itl is not None
    assert engine_sample(page, NEW, at_s=0).kv_usage is None


def test_what_is_not_a_finite_number_is_not_there() -> None:
    page = (
        'vllm:num_requests_running{model_name="m"} NaN\n'
        'vllm:num_requests_waiting{model_name="m"} +Inf\n'
    )
    found = engine_sample(page, NEW, at_s=0)
    assert found.running is None
    assert found.waiting is None


ENVOY = """\
envoy_cluster_upstream_rq_total{envoy_cluster_name="chat"} 60
envoy_cluster_upstream_cx_none_healthy{envoy_cluster_name="chat"} 3
envoy_cluster_upstream_rq_pending_overflow{envoy_cluster_name="chat"} 2
envoy_cluster_upstream_rq_pending_failure_eject{envoy_cluster_name="chat"} 4
envoy_cluster_upstream_rq_cancelled{envoy_cluster_name="chat"} 1
envoy_cluster_upstream_rq_retry{envoy_cluster_name="chat"} 10
envoy_cluster_upstream_rq_retry_success{envoy_cluster_name="chat"} 8
envoy_cluster_upstream_rq_completed{envoy_cluster_name="chat"} 58
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="chat"} 50
envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="chat"} 8
envoy_cluster_upstream_rq_total{envoy_cluster_name="enova_admin"} 7
envoy_cluster_upstream_rq_total{envoy_cluster_name="half"} 7
"""


def test_the_gateway_counts_attempts_retries_and_failures() -> None:
    found = gateway_samples(ENVOY, {"chat", "half", "other"}, at_s=1.0)
    assert set(found) == {"chat"}, "a service with a counter missing is not known"
    assert (found["chat"].attempts, found["chat"].retries) == (70, 10)
    assert (found["chat"].completed, found["chat"].failed) == (58, 8)
