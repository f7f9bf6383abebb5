"""For every alert: series over which it fires, with what it then says, and series over which not.

Series are what targets expose, not what rules record: a case goes through recording rules too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from enova.stack.watched import LatencyGoal, Limit, Watched, WatchedService

CHAT = WatchedService(
    name="chat",
    engine="vllm",
    engine_version="0.32.0",
    success_rate=0.999,
    goals=(
        LatencyGoal("ttft_p95", Limit("ttft", 0.4, (0.4, 0.5)), 0.95, 0.2, 0.3),
        LatencyGoal("e2e_p50", Limit("e2e", 2.0, (2.0,)), 0.5),
    ),
    attainment=0.9,
    all_limits=(Limit("ttft", 0.4, (0.4, 0.5)), Limit("e2e", 2.0, (2.0,))),
    predicted_at_rate=8.0,
    usd_per_replica_hour=2.5,
)
WATCHED = Watched((CHAT,), scrape_interval_s=5.0, reconcile_interval_s=5.0, gpus=True)
OLD = replace(
    WATCHED,
    services=(
        replace(
            CHAT,
            engine_version="0.8.5",
            goals=(LatencyGoal("ttft_p95", Limit("ttft", 0.4, (0.5,)), 0.95),),
            attainment=None,
            all_limits=(),
        ),
    ),
)

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """``says``: labels beside ``alertname`` of each firing alert, its summary and description."""

    what: str
    series: Series
    at: str
    says: tuple[tuple[dict[str, str], str, str], ...] = ()
    step: str = "5s"
    watched: Watched = WATCHED


def cluster(name: str, values: str, also: str = "") -> Series:
    return {f'envoy_cluster_{name}{{envoy_cluster_name="chat"{also}}}': values}


def of(instance: str, job: str = "engines") -> str:
    where = f'job="{job}", instance="{instance}"'
    if job != "engines":
        return f'{where}, address="{job}"'
    return f'{where}, service="chat", address="chat/replica/{instance}"'


def up(instance: str, values: str, job: str = "engines") -> Series:
    return {f"up{{{of(instance, job)}}}": values}


def engine(name: str, instance: str, values: str, also: str = "") -> Series:
    return {f'vllm:{name}{{{of(instance)}, model_name="m"{also}}}': values}


def histogram(name: str, instance: str, **edges: str) -> Series:
    """``le_0_4`` is the edge 0.4; the count is that of ``le_inf``."""
    found: Series = {}
    for key, values in edges.items():
        edge = key.removeprefix("le_").replace("_", ".").replace("inf", "+Inf")
        found |= engine(f"{name}_bucket", instance, values, f', le="{edge}"')
    return found | engine(f"{name}_count", instance, edges["le_inf"])


def answered(total: int, failed: int, steps: int = 120) -> Series:
    """Answers of 30 s, ``failed`` of them 5xx."""
    return {
        **cluster("upstream_rq_completed", f"0+{total}x{steps}"),
        **cluster("upstream_rq_xx", f"0+{failed}x{steps}", ', envoy_response_code_class="5"'),
    }


def arrivals(values: str) -> Series:
    """Nothing is retried or refused."""
    zero = "0x" + values.partition("x")[2]
    others = ("cx_none_healthy", "rq_pending_overflow", "rq_pending_failure_eject", "rq_cancelled")
    return {
        **cluster("upstream_rq_total", values),
        **{
            key: text
            for name in (*others, "rq_retry")
            for key, text in cluster(f"upstream_{name}", zero).items()
        },
    }


def gpu(name: str, values: str) -> Series:
    return {f'DCGM_FI_DEV_{name}{{gpu="3", UUID="GPU-1", Hostname="h1"}}': values}


TTFT = "time_to_first_token_seconds"
ITL = "inter_token_latency_seconds"


def goal(name: str, severity: str) -> dict[str, str]:
    return {"service": "chat", "goal": name, "severity": severity, "address": "chat"}


def replica(instance: str, **more: str) -> dict[str, str]:
    return {
        "service": "chat",
        "instance": instance,
        "address": f"chat/replica/{instance}",
        "severity": "ticket",
        **more,
    }


def ticket(address: str, **more: str) -> dict[str, str]:
    return {"severity": "ticket", "address": address, **more}


def burns(share: str, window: str, short: str, times: str, target: str = "99.9%") -> str:
    return (
        f"{share} of the requests of the last {window} missed it, and so it goes on in the last "
        f"{short}. {target} must meet it: the error budget burns at {times} times the rate that "
        "it stands."
    )


MISSES = "chat misses its goal "
DEVICE = {"gpu": "3", "UUID": "GPU-1", "Hostname": "h1", "severity": "ticket"}

FIRES: dict[str, tuple[Case, ...]] = {
    "GoalBurns1h": (
        Case(
            "5 % of answers are 5xx",
            answered(1000, 50),
            "1h",
            (
                (
                    goal("success_rate", "page"),
                    f"{MISSES}success_rate",
                    burns("5%", "1h", "5m", "14.4"),
                ),
            ),
            step="30s",
        ),
        Case(
            "first tokens come late, counted at 0.4 s in one replica and at 0.5 s in one from "
            "before the goal",
            {
                **histogram(TTFT, "0", le_0_4="0+10x120", le_0_5="0+90x120", le_inf="0+100x120"),
                **histogram(TTFT, "1", le_0_5="0+30x120", le_inf="0+100x120"),
            },
            "1h",
            (
                (
                    goal("ttft_p95", "page"),
                    f"{MISSES}ttft_p95",
                    burns("80%", "1h", "5m", "14.4", "95%"),
                ),
            ),
            step="30s",
        ),
        Case(
            "nearly all are over the limit at p50 and for the share within all limits at once",
            {
                **histogram(TTFT, "0", le_0_4="0+100x120", le_inf="0+100x120"),
                **histogram(
                    "e2e_request_latency_seconds", "0", le_2_0="0+5x120", le_inf="0+100x120"
                ),
            },
            "1h",
            (
                (
                    goal("attainment", "page"),
                    f"{MISSES}attainment",
                    burns("95%", "1h", "5m", "14.4", "90%"),
                ),
                (
                    goal("e2e_p50", "page"),
                    f"{MISSES}e2e_p50",
                    burns("95%", "1h", "5m", "14.4", "50%"),
                ),
            ),
            step="30s",
        ),
        Case(
            "an engine that cannot be told its edges is counted at the next one",
            histogram(TTFT, "0", le_0_5="0+10x120", le_inf="0+100x120"),
            "1h",
            (
                (
                    goal("ttft_p95", "page"),
                    f"{MISSES}ttft_p95",
                    burns("90%", "1h", "5m", "14.4", "95%"),
                ),
            ),
            step="30s",
            watched=OLD,
        ),
    ),
    "GoalBurns6h": (
        Case(
            "0.8 % of answers are 5xx",
            answered(1000, 8),
            "1h",
            (
                (
                    goal("success_rate", "page"),
                    f"{MISSES}success_rate",
                    burns("0.8%", "6h", "30m", "6"),
                ),
            ),
            step="30s",
        ),
    ),
    "GoalBurns1d": (
        Case(
            "0.4 % of answers are 5xx",
            answered(1000, 4),
            "1h",
            (
                (
                    goal("success_rate", "ticket"),
                    f"{MISSES}success_rate",
                    burns("0.4%", "1d", "2h", "3"),
                ),
            ),
            step="30s",
        ),
    ),
    "GoalBurns3d": (
        Case(
            "0.2 % of answers are 5xx",
            answered(1000, 2),
            "1h",
            (
                (
                    goal("success_rate", "ticket"),
                    f"{MISSES}success_rate",
                    burns("0.2%", "3d", "6h", "1"),
                ),
            ),
            step="30s",
        ),
    ),
    "GoalUnmeasured": (
        Case(
            "requests are answered, the engine's histograms are not there",
            {
                **cluster("upstream_rq_completed", "0+10x120"),
                **cluster("upstream_rq_xx", "0+10x120", ', envoy_response_code_class="2"'),
                **histogram(TTFT, "0", le_0_5="0+10x120", le_inf="0+10x120"),
            },
            "10m",
            tuple(
                (
                    goal(name, "ticket"),
                    f"nothing measures {name} of chat",
                    f"Requests are answered, but there is no data for the goal {name} "
                    f"(target {target}).",
                )
                for name, target in (("attainment", "90%"), ("e2e_p50", "50%"))
            ),
        ),
    ),
    "ForecastMissed": (
        Case(
            "twice as slow as predicted at half the rate",
            {
                **histogram(TTFT, "0", le_0_25="0x100", le_0_5="0+120x100", le_inf="0+120x100"),
                **arrivals("0+120x100"),
                **cluster("membership_healthy", "1x100"),
            },
            "50m",
            (
                (
                    goal("ttft_p95", "ticket"),
                    "chat is slower than its plan predicted",
                    "ttft_p95 was 487.5ms in the last 30 min, the plan predicted 200ms, and no "
                    "more requests arrive than it was made for.",
                ),
            ),
            step="30s",
        ),
    ),
    "ReplicaDown": (
        Case(
            "it answered, then no more",
            up("0", "1x20 0x20") | up("1", "1x40"),
            "2m30s",
            (
                (
                    replica("0", job="engines"),
                    "chat/replica/0 does not answer",
                    "0 answered within the last hour and does not any more.",
                ),
            ),
        ),
    ),
    "ReplicaHangs": (
        Case(
            "two requests run, no step is made",
            {
                **engine("num_requests_running", "0", "2x120"),
                **engine("iteration_tokens_total_count", "0", "0+9x20 180x100"),
            },
            "5m",
            (
                (
                    replica("0"),
                    "chat/replica/0 hangs",
                    "0 has made no engine step for two minutes and has 2 requests in its batch.",
                ),
            ),
        ),
    ),
    "ReplicaSlow": (
        Case(
            "one of three takes twice as long a token",
            {
                key: text
                for name, sum_ in (("0", "0+2x200"), ("1", "0+1x200"), ("2", "0+1x200"))
                for key, text in {
                    **engine(f"{ITL}_sum", name, sum_),
                    **engine(f"{ITL}_count", name, "0+50x200"),
                }.items()
            },
            "10m",
            (
                (
                    replica("0"),
                    "chat/replica/0 is slower than its peers",
                    "0 takes 40ms a token, more than 1.5 times the median of chat.",
                ),
            ),
        ),
    ),
    "ReplicasMissing": (
        Case(
            "three are wanted, two serve, for half an hour",
            {'enova_replicas_wanted{service="chat", job="enova"}': "3x60"}
            | cluster("membership_healthy", "2x60"),
            "30m",
            (
                (
                    ticket("chat", service="chat"),
                    "chat has fewer replicas than ordered",
                    "2 serve, 3 are ordered, for 20 min now.",
                ),
            ),
            step="30s",
        ),
    ),
    "KvCacheExhausted": (
        Case(
            "full, and requests wait",
            {
                **engine("kv_cache_usage_perc", "0", "0.98x60"),
                **engine("num_requests_waiting", "0", "4x60"),
            },
            "4m",
            (
                (
                    replica("0"),
                    "chat/replica/0 has no KV cache left",
                    "98% of the cache of 0 is taken, and requests wait for it or are put back.",
                ),
            ),
        ),
        Case(
            "full, and requests are put back",
            {
                **engine("kv_cache_usage_perc", "0", "0.96x60"),
                **engine("num_preemptions_total", "0", "0+1x60"),
            },
            "4m",
            (
                (
                    replica("0"),
                    "chat/replica/0 has no KV cache left",
                    "96% of the cache of 0 is taken, and requests wait for it or are put back.",
                ),
            ),
        ),
    ),
    "GatewayDown": (
        Case(
            "it does not answer",
            up("gateway-1", "1x10 0x30", "gateway"),
            "2m",
            (
                (
                    {
                        "job": "gateway",
                        "instance": "gateway-1",
                        "address": "gateway",
                        "severity": "page",
                    },
                    "the gateway does not answer",
                    "Nothing reads gateway-1: no request reaches any service.",
                ),
            ),
        ),
        Case(
            "there is none",
            up("0", "1x40"),
            "2m",
            (
                (
                    {"job": "gateway", "address": "gateway", "severity": "page"},
                    "the gateway does not answer",
                    "Nothing reads a gateway: no request reaches any service.",
                ),
            ),
        ),
    ),
    "ReconcilerSilent": (
        Case(
            "its page stands still",
            {'enova_reconciler_last_tick_timestamp_seconds{job="enova"}': "0x120"}
            | up("reconciler", "1x120", "enova"),
            "5m",
            (
                (
                    ticket("reconciler"),
                    "the reconciler does not tick",
                    "Nothing is scaled or healed: its last tick was 5m 0s ago.",
                ),
            ),
        ),
        Case(
            "it was killed",
            up("reconciler", "1x10 0x40", "enova"),
            "3m",
            (
                (
                    ticket("reconciler", job="enova", instance="reconciler"),
                    "the reconciler does not tick",
                    "Nothing is scaled or healed: reconciler does not answer.",
                ),
            ),
        ),
    ),
    "TargetSilent": (
        Case(
            "an exporter does not answer",
            up("dcgm", "0x60", "dcgm"),
            "4m",
            (
                (
                    ticket("dcgm", job="dcgm", instance="dcgm"),
                    "no data of dcgm",
                    "dcgm (job dcgm) is to be read and does not answer; what it would say is "
                    "missing in dashboards and alerts.",
                ),
            ),
        ),
        Case(
            "a replica has never answered",
            up("0", "0x100"),
            "40m",
            (
                (
                    replica("0", job="engines"),
                    "no data of 0",
                    "chat/replica/0 (job engines) is to be read and does not answer; what it would "
                    "say is missing in dashboards and alerts.",
                ),
            ),
            step="30s",
        ),
    ),
    "GpuXid": (
        Case(
            "the GPU has fallen off the bus",
            gpu("XID_ERRORS", "0x3 79x10"),
            "1m",
            (
                (
                    DEVICE,
                    "GPU 3 of h1 reports XID 79",
                    "The driver's last error of GPU 3 of h1 is XID 79, one of the device and not "
                    "of a program.",
                ),
            ),
        ),
    ),
    "GpuDoubleBitError": (
        Case(
            "one since the driver started",
            gpu("ECC_DBE_VOL_TOTAL", "1x10"),
            "30s",
            (
                (
                    DEVICE,
                    "GPU 3 of h1 has memory errors it cannot correct",
                    "1 double-bit errors of GPU 3 of h1 since its driver started.",
                ),
            ),
        ),
    ),
    "GpuTooHot": (
        Case(
            "a tenth of the time",
            gpu("THERMAL_VIOLATION", "0+500000000x200"),
            "12m",
            (
                (
                    DEVICE,
                    "GPU 3 of h1 is slowed by heat",
                    "Heat held back the clocks of GPU 3 of h1 10% of the last 5 min.",
                ),
            ),
        ),
    ),
    "GpuShortOfPower": (
        Case(
            "four fifths of the time",
            gpu("POWER_VIOLATION", "0+24000000000x60"),
            "30m",
            (
                (
                    DEVICE,
                    "GPU 3 of h1 is slowed by its power limit",
                    "Power held back the clocks of GPU 3 of h1 80% of the last 5 min, for 15 min "
                    "now.",
                ),
            ),
            step="30s",
        ),
    ),
}

STAYS_QUIET: dict[str, tuple[Case, ...]] = {
    "GoalBurns1h": (
        Case("1 % of answers are 5xx", answered(1000, 10), "1h", step="30s"),
        Case(
            "it burned for 50 min and is over",
            {
                **cluster("upstream_rq_completed", "0+1000x120"),
                **cluster("upstream_rq_xx", "0+50x100 5000x20", ', envoy_response_code_class="5"'),
            },
            "1h",
            step="30s",
        ),
        Case(
            "all of six requests failed",
            {
                **cluster("upstream_rq_completed", "0x60 0+1x6 6x60"),
                **cluster("upstream_rq_xx", "0x60 0+1x6 6x60", ', envoy_response_code_class="5"'),
            },
            "33m",
            step="30s",
        ),
        Case(
            "late for the goal of today, counted at the edge of yesterday",
            histogram(TTFT, "1", le_0_5="0+97x120", le_inf="0+100x120"),
            "1h",
            step="30s",
        ),
    ),
    "GoalBurns6h": (Case("0.5 % are 5xx", answered(1000, 5), "1h", step="30s"),),
    "GoalBurns1d": (Case("0.25 % are 5xx", answered(4000, 10), "1h", step="30s"),),
    "GoalBurns3d": (Case("0.05 % are 5xx", answered(4000, 2), "1h", step="30s"),),
    "GoalUnmeasured": (
        Case("nothing is asked", cluster("upstream_rq_completed", "0x120"), "10m"),
        Case(
            "everything is measured",
            {
                **cluster("upstream_rq_completed", "0+10x120"),
                **cluster("upstream_rq_xx", "0+10x120", ', envoy_response_code_class="2"'),
                **histogram(TTFT, "0", le_0_4="0+10x120", le_inf="0+10x120"),
                **histogram(
                    "e2e_request_latency_seconds", "0", le_2_0="0+9x120", le_inf="0+10x120"
                ),
            },
            "10m",
        ),
    ),
    "ForecastMissed": (
        Case(
            "as slow, but twice as many come as were planned for",
            {
                **histogram(TTFT, "0", le_0_25="0x100", le_0_5="0+120x100", le_inf="0+120x100"),
                **arrivals("0+480x100"),
                **cluster("membership_healthy", "1x100"),
            },
            "50m",
            step="30s",
        ),
        Case(
            "as predicted",
            {
                **histogram(TTFT, "0", le_0_25="0+120x100", le_0_5="0+120x100", le_inf="0+120x100"),
                **arrivals("0+120x100"),
                **cluster("membership_healthy", "1x100"),
            },
            "50m",
            step="30s",
        ),
    ),
    "ReplicaDown": (
        Case("it still starts", up("0", "0x60"), "3m"),
        Case("it was taken away", up("0", "1x20 0 stale"), "2m30s"),
        Case("one reading failed", up("0", "1x20 0 1x20"), "1m50s"),
    ),
    "ReplicaHangs": (
        Case(
            "it has nothing to do",
            {
                **engine("num_requests_running", "0", "0x120"),
                **engine("iteration_tokens_total_count", "0", "180x120"),
            },
            "5m",
        ),
        Case(
            "it steps slowly",
            {
                **engine("num_requests_running", "0", "2x120"),
                **engine("iteration_tokens_total_count", "0", "0x9 1x9 2x9 3x9 4x9 5x9 6x9"),
            },
            "5m",
        ),
        Case(
            "it died",
            {
                **engine("num_requests_running", "0", "2x20 stale"),
                **engine("iteration_tokens_total_count", "0", "0+9x20 stale"),
            },
            "3m",
        ),
    ),
    "ReplicaSlow": (
        Case(
            "all are equally slow",
            {
                key: text
                for name in "012"
                for key, text in {
                    **engine(f"{ITL}_sum", name, "0+9x200"),
                    **engine(f"{ITL}_count", name, "0+50x200"),
                }.items()
            },
            "10m",
        ),
        Case(
            "it has no peer",
            {
                **engine(f"{ITL}_sum", "0", "0+9x200"),
                **engine(f"{ITL}_count", "0", "0+50x200"),
            },
            "10m",
        ),
    ),
    "ReplicasMissing": (
        Case(
            "one starts within its time",
            {'enova_replicas_wanted{service="chat", job="enova"}': "2x33 3x33"}
            | cluster("membership_healthy", "2x58 3x8"),
            "33m",
            step="30s",
        ),
    ),
    "KvCacheExhausted": (
        Case(
            "full, and nobody waits",
            {
                **engine("kv_cache_usage_perc", "0", "0.98x60"),
                **engine("num_requests_waiting", "0", "0x60"),
                **engine("num_preemptions_total", "0", "7x60"),
            },
            "4m",
        ),
        Case(
            "requests wait for other reasons",
            {
                **engine("kv_cache_usage_perc", "0", "0.5x60"),
                **engine("num_requests_waiting", "0", "9x60"),
            },
            "4m",
        ),
    ),
    "GatewayDown": (
        Case("it answers", up("gateway-1", "1x40", "gateway"), "2m"),
        Case(
            "another took its place",
            up("gateway-1", "1x10 0 stale", "gateway") | up("gateway-2", "_x9 1x30", "gateway"),
            "2m",
        ),
    ),
    "ReconcilerSilent": (
        Case(
            "it ticks",
            {'enova_reconciler_last_tick_timestamp_seconds{job="enova"}': "0+5x120"}
            | up("reconciler", "1x120", "enova"),
            "8m",
        ),
        Case(
            "it was ended",
            {'enova_reconciler_last_tick_timestamp_seconds{job="enova"}': "0+5x20 stale"}
            | up("reconciler", "1x20 stale", "enova"),
            "8m",
        ),
    ),
    "TargetSilent": (
        Case("a replica starts", up("0", "0x120"), "8m"),
        Case("an exporter answers", up("dcgm", "1x60", "dcgm"), "4m"),
    ),
    "GpuXid": (
        Case("there was none", gpu("XID_ERRORS", "0x10"), "30s"),
        Case("a program ended badly", gpu("XID_ERRORS", "43x10"), "30s"),
    ),
    "GpuDoubleBitError": (Case("none", gpu("ECC_DBE_VOL_TOTAL", "0x10"), "30s"),),
    "GpuTooHot": (
        Case("a thousandth of the time", gpu("THERMAL_VIOLATION", "0+5000000x200"), "12m"),
    ),
    "GpuShortOfPower": (
        Case("a third of the time", gpu("POWER_VIOLATION", "0+9600000000x60"), "30m", step="30s"),
    ),
}
