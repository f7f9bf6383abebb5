"""Queries asked of Prometheus' own engine (promtool) over series written down here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from enova.stack import queries
from enova.stack.render.prometheus import duration

FAMILIES = queries.families("vllm", "0.32.0")
CHAT = ["chat"]


def cluster(name: str, values: str, *, also: str = "", of: str = "gateway-1") -> dict[str, str]:
    labels = f'envoy_cluster_name="chat", instance="{of}"{also}'
    return {"series": f"{name}{{{labels}}}", "values": values}


def gateway(
    sent: str, *, still: str = "0x120", of: str = "gateway-1", **others: str
) -> list[dict[str, str]]:
    """All counters of attempts; those not given are ``still``."""
    given = {queries.ATTEMPTS[0]: sent, **others}
    names = (*queries.ATTEMPTS, queries.RETRIES)
    return [cluster(name, given.get(name, still), of=of) for name in names]


def engine(family: queries.Family, instance: str, values: str, *, le: str = "") -> dict[str, str]:
    labels = f'service="chat", instance="{instance}"' + (f', le="{le}"' if le else "")
    return {"series": f"{queries.series(family, FAMILIES[family])}{{{labels}}}", "values": values}


def ask(
    promtool: Path,
    folder: Path,
    series: list[dict[str, str]],
    query: str,
    expected: dict[str, float],
    *,
    at: str = "2m",
    every_s: int = 5,
) -> None:
    """Compare what ``query`` gives at ``at`` with ``expected``."""
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    document = {
        "evaluation_interval": "5s",
        "tests": [
            {
                "interval": f"{every_s}s",
                "input_series": series,
                "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": samples}],
            }
        ],
    }
    path = folder / "test.yml"
    path.write_text(json.dumps(document))
    done = subprocess.run(
        [promtool, "test", "rules", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


OF_CHAT = '{envoy_cluster_name="chat"}'
RATE = queries.arrival_rate(CHAT, window_s=30)


@pytest.mark.real
def test_retries_are_no_arrivals_and_refused_requests_are(
    promtool_binary: Path, tmp_path: Path
) -> None:
    series = gateway(
        "0+50x24",
        **{queries.ATTEMPTS[1]: "0+10x24", queries.RETRIES: "0+20x24"},
    )
    ask(promtool_binary, tmp_path, series, RATE, {OF_CHAT: 8.0})


@pytest.mark.real
@pytest.mark.parametrize(("at", "known"), [("29s", False), ("31s", True), ("36s", True)])
def test_a_counter_younger_than_the_window_has_no_rate_and_then_the_right_one(
    promtool_binary: Path, tmp_path: Path, at: str, known: bool
) -> None:
    """Prometheus has just begun, or the service is new: its first readings say too little."""
    for begins_at in (0, 7000):
        series = gateway(f"{begins_at}+50x24")
        expected = {OF_CHAT: 10.0} if known else {}
        ask(promtool_binary, tmp_path, series, RATE, expected, at=at)


@pytest.mark.real
@pytest.mark.parametrize(
    ("every_s", "window_s"), [(1, 10), (5, 10), (5, 30), (10, 20), (15, 30), (15, 60), (30, 120)]
)
def test_the_rate_is_exact_at_every_moment_between_two_readings(
    promtool_binary: Path, tmp_path: Path, every_s: int, window_s: int
) -> None:
    series = gateway(f"0+{10 * every_s}x400", still="0x400")
    query = queries.arrival_rate(CHAT, window_s=window_s)
    for second in (300, 300 + every_s // 2, 300 + every_s - 1):
        ask(
            promtool_binary,
            tmp_path,
            series,
            query,
            {OF_CHAT: 10.0},
            at=f"{second}s",
            every_s=every_s,
        )


@pytest.mark.real
def test_the_next_gateway_has_no_rate_until_it_is_as_old_as_the_window(
    promtool_binary: Path, tmp_path: Path
) -> None:
    series = [
        *gateway("0+50x10 stale", still="0x10 stale"),
        *gateway("_x12 0+50x30", still="_x12 0x30", of="gateway-2"),
    ]
    ask(promtool_binary, tmp_path, series, RATE, {OF_CHAT: 10.0}, at="51s")
    for at in ("56s", "61s", "71s", "89s"):
        ask(promtool_binary, tmp_path, series, RATE, {}, at=at)
    ask(promtool_binary, tmp_path, series, RATE, {OF_CHAT: 10.0}, at="91s")


@pytest.mark.real
@pytest.mark.parametrize("at", ["50s", "51s", "61s", "71s", "76s", "81s", "111s"])
def test_a_pause_of_prometheus_leaves_the_rate_exact(
    promtool_binary: Path, tmp_path: Path, at: str
) -> None:
    """It was away for 20 s, and goes on with the same counters."""
    pause = gateway("0+50x10 _x3 700+50x30", still="0x10 _x3 0x30")
    ask(promtool_binary, tmp_path, pause, RATE, {OF_CHAT: 10.0}, at=at)


@pytest.mark.real
def test_after_a_long_pause_of_prometheus_there_is_no_rate(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """A mean over minutes is not the rate of now."""
    pause = gateway("0+50x10 _x15 1300+50x30", still="0x10 _x15 0x30")
    ask(promtool_binary, tmp_path, pause, RATE, {}, at="2m11s")
    ask(promtool_binary, tmp_path, pause, RATE, {OF_CHAT: 10.0}, at="2m41s")


@pytest.mark.real
def test_counters_that_began_anew_have_no_rate_for_a_while(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """Also those that have passed by now what they were before."""
    series = gateway("20+50x10 50+50x30")
    ask(promtool_binary, tmp_path, series, RATE, {OF_CHAT: 10.0}, at="51s")
    for at in ("56s", "86s", "96s"):
        ask(promtool_binary, tmp_path, series, RATE, {}, at=at)
    ask(promtool_binary, tmp_path, series, RATE, {OF_CHAT: 10.0}, at="2m")


@pytest.mark.real
def test_without_the_gateway_there_is_no_rate(promtool_binary: Path, tmp_path: Path) -> None:
    ask(promtool_binary, tmp_path, gateway("0+50x6 stale"), RATE, {})
    one_missing = gateway("0+50x24")[:-1]
    ask(promtool_binary, tmp_path, one_missing, RATE, {})


@pytest.mark.real
def test_success_counts_a_missing_5xx_counter_as_none_yet(
    promtool_binary: Path, tmp_path: Path
) -> None:
    query = queries.success_rate(CHAT, window_s=30)
    done = cluster(queries.COMPLETED, "0+50x24")
    ask(promtool_binary, tmp_path, [done], query, {OF_CHAT: 1.0})
    failed = cluster(queries.BY_CLASS, "0+5x24", also=f', {queries.CLASS_LABEL}="5"')
    ask(promtool_binary, tmp_path, [done, failed], query, {OF_CHAT: 0.9})
    ask(promtool_binary, tmp_path, [cluster(queries.COMPLETED, "7x24")], query, {})


@pytest.mark.real
@pytest.mark.parametrize(
    ("values", "at", "seconds"),
    [
        ("0x120", "10m", 600.0),  # never one: as long as anybody watched
        ("0x24 1x96", "10m", 420.0),  # the step was at 125 s; seen changing until 180 s
        ("0x119 1", "10m", 0.0),
        ("_x7 5x2", "47s", 2.0),  # younger than the grid: counts as of its last sample
    ],
)
def test_idle_time_is_never_more_than_what_is_known(
    promtool_binary: Path, tmp_path: Path, values: str, at: str, seconds: float
) -> None:
    query = queries.seconds_since_arrival(CHAT, lookback_s=3600)
    ask(promtool_binary, tmp_path, gateway(values), query, {OF_CHAT: seconds}, at=at)


@pytest.mark.real
def test_a_replica_not_read_lately_has_no_value(promtool_binary: Path, tmp_path: Path) -> None:
    series = [
        engine("running", "fresh", "3x24"),
        engine("running", "old", "3x20"),
        engine("running", "gone", "3x20 stale"),
    ]
    query = queries.replica_value("running", FAMILIES["running"], CHAT, stale_s=15)
    fresh = {'{service="chat", instance="fresh"}': 3.0}
    ask(promtool_binary, tmp_path, series, query, fresh)


@pytest.mark.real
def test_quantiles_and_token_rates_are_over_all_replicas(
    promtool_binary: Path, tmp_path: Path
) -> None:
    series = [
        engine("ttft", "a", "0+50x24", le="0.25"),
        engine("ttft", "a", "0+50x24", le="+Inf"),
        engine("ttft", "b", "0+0x24", le="0.25"),
        engine("ttft", "b", "0+50x24", le="0.5"),
        engine("ttft", "a", "0+50x24", le="0.5"),
        engine("ttft", "b", "0+50x24", le="+Inf"),
        engine("generation_tokens", "a", "0+500x24"),
        engine("generation_tokens", "b", "0+100x24"),
    ]
    of_service = '{service="chat"}'
    query = queries.latency_quantile("ttft", FAMILIES["ttft"], CHAT, share=0.75, window_s=30)
    ask(promtool_binary, tmp_path, series, query, {of_service: 0.375})
    name = FAMILIES["generation_tokens"]
    query = queries.token_rate("generation_tokens", name, CHAT, window_s=30)
    ask(promtool_binary, tmp_path, series, query, {of_service: 120.0})


def test_names_follow_the_engine_version() -> None:
    assert queries.families("vllm", "0.8.5")["kv_usage"] == "vllm:gpu_cache_usage_perc"
    assert queries.families("vllm", "0.9.1")["kv_usage"] == "vllm:kv_cache_usage_perc"
    assert queries.families("vllm", "0.10.0")["itl"] == "vllm:time_per_output_token_seconds"
    assert queries.families("vllm", None)["itl"] == "vllm:inter_token_latency_seconds"
    assert queries.families("emulator", None) == queries.families("vllm", "0.32.0")
    with pytest.raises(ValueError, match="nobody"):
        queries.families("nobody", None)


def test_the_same_question_gives_the_same_text() -> None:
    assert queries.arrival_rate(["b", "a"], window_s=30) == queries.arrival_rate(
        ["a", "b"], window_s=30
    )
    assert 'envoy_cluster_name=~"a|b"' in queries.arrival_rate(["b", "a"], window_s=30)
    assert duration(30) in RATE
