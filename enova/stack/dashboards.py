"""The dashboards of a stack: which signals stand beside each other, the goals first.

In: nothing, for signals have the same names in every stack. Out: ``Dashboard`` values.
"""

from __future__ import annotations

from enova.policy.signals import LATENCIES, MEANINGS, PERCENTILES
from enova.stack.panels import Dashboard, Kind, Needs, Panel, Row

_NO_REQUEST = "Empty while no request came."
_NO_PRICE = "Empty where the devices have no price."
_LATENCY_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "End to end"}


def pages() -> tuple[Dashboard, ...]:
    """All dashboards, in the order in which they are looked at."""
    return (_service(), _fleet(), _engine(), _gateway(), _gpu(), _decisions())


def _panel(
    title: str, *signals: str, needs: Needs, kind: Kind = "timeseries", empty: str = ""
) -> Panel:
    text = "; ".join(MEANINGS[signal].text for signal in signals)
    return Panel(title, signals, needs, f"{text[:1].upper()}{text[1:]}.", kind, empty)


def _latency(metric: str, title: str) -> Panel:
    signals = tuple(f"{metric}_p{percentile}" for percentile in PERCENTILES)
    return Panel(
        title,
        (*signals, f"{metric}_mean"),
        "engines",
        f"{LATENCIES[metric]}, as the engines see it.".capitalize(),
        empty_means=_NO_REQUEST,
    )


def _goals() -> Row:
    return Row(
        "Goals",
        (
            _panel(
                "Requests that met it, last hour",
                "goal_attainment",
                needs="engines",
                kind="stat",
                empty=_NO_REQUEST,
            ),
            _panel(
                "Error budget left, 3 days",
                "error_budget_left",
                needs="engines",
                kind="stat",
                empty=_NO_REQUEST,
            ),
            _panel("Burn rate", "burn_rate", needs="engines", kind="stat", empty=_NO_REQUEST),
            _panel("Target", "goal_target", needs="engines", kind="stat"),
            _panel(
                "Latency at the goal's percentile, its limit and what was predicted",
                "goal_measured",
                "goal_limit",
                "goal_predicted",
                needs="engines",
                empty="Empty without a latency goal, the measured line while no request came.",
            ),
            _panel("Requests that met it", "goal_attainment", needs="engines", empty=_NO_REQUEST),
            _panel("Error budget left", "error_budget_left", needs="engines", empty=_NO_REQUEST),
        ),
    )


def _service() -> Dashboard:
    return Dashboard(
        "enova-service",
        "Service",
        "One service: does it meet its goals, what comes in, what goes out, what it costs.",
        (
            _goals(),
            Row(
                "Requests",
                (
                    _panel("Arrivals", "arrival_rate", needs="gateway"),
                    _panel(
                        "Answered and succeeded",
                        "completed_rate",
                        "succeeded_rate",
                        needs="gateway",
                    ),
                    _panel("Success rate", "success_rate", needs="gateway", empty=_NO_REQUEST),
                    _panel("In progress", "in_progress", needs="gateway"),
                    _panel(
                        "Mean execution time", "execution_time", needs="gateway", empty=_NO_REQUEST
                    ),
                    _panel(
                        "Size of requests and answers",
                        "request_size",
                        "response_size",
                        needs="gateway",
                        empty=_NO_REQUEST,
                    ),
                ),
            ),
            Row("Latency", tuple(_latency(m, t) for m, t in _LATENCY_NAMES.items())),
            Row(
                "Tokens and batch",
                (
                    _panel(
                        "Throughput",
                        "prompt_tokens_rate",
                        "generation_tokens_rate",
                        needs="engines",
                    ),
                    _panel("Running and waiting", "running", "waiting", needs="engines"),
                    _panel("KV cache in use", "kv_usage", needs="engines"),
                ),
            ),
            Row("Cost", _cost()),
        ),
    )


def _cost() -> tuple[Panel, ...]:
    return (
        _panel("Cost per hour", "usd_per_hour", needs="engines", empty=_NO_PRICE),
        _panel(
            "Cost per million tokens",
            "usd_per_million_tokens",
            "usd_per_million_output_tokens",
            needs="engines",
            empty=f"{_NO_PRICE} {_NO_REQUEST}",
        ),
    )


def _fleet() -> Dashboard:
    return Dashboard(
        "enova-fleet",
        "Fleet",
        "All services beside each other: replicas, load, goals, cost.",
        (
            Row(
                "Now",
                (
                    _panel("Replicas serving", "replicas_serving", needs="gateway", kind="stat"),
                    _panel("Arrivals", "arrival_rate", needs="gateway", kind="stat"),
                    _panel("KV cache in use", "kv_usage", needs="engines", kind="stat"),
                    _panel(
                        "Cost per hour",
                        "usd_per_hour",
                        needs="engines",
                        kind="stat",
                        empty=_NO_PRICE,
                    ),
                    _panel(
                        "Burn rate of each goal",
                        "burn_rate",
                        needs="engines",
                        kind="stat",
                        empty=_NO_REQUEST,
                    ),
                ),
            ),
            Row(
                "Replicas",
                (
                    _panel("Serving", "replicas_serving", needs="gateway"),
                    _panel(
                        "Wanted and starting",
                        "replicas_wanted",
                        "replicas_starting",
                        needs="reconciler",
                    ),
                    _panel("Running requests by replica", "replica_running", needs="engines"),
                    _panel("KV cache by replica", "replica_kv_usage", needs="engines"),
                    _panel(
                        "Generated tokens by replica",
                        "replica_generation_tokens_rate",
                        needs="engines",
                    ),
                    _panel(
                        "Mean ITL by replica",
                        "replica_itl_mean",
                        needs="engines",
                        empty=_NO_REQUEST,
                    ),
                ),
            ),
            Row("Cost", _cost()),
        ),
    )


def _engine() -> Dashboard:
    return Dashboard(
        "enova-engine",
        "Engine",
        "Inside the engines: batch, queue, KV cache, steps, by service and by replica.",
        (
            Row(
                "Batch and queue",
                (
                    _panel("Running", "replica_running", needs="engines"),
                    _panel("Waiting", "replica_waiting", needs="engines"),
                    _latency("queue_time", "Wait before a request runs"),
                ),
            ),
            Row(
                "KV cache",
                (
                    _panel("In use", "replica_kv_usage", needs="engines"),
                    _panel("Preemptions", "replica_preemption_rate", needs="engines"),
                    _panel(
                        "Prompt tokens found in the prefix cache",
                        "prefix_hit_share",
                        needs="engines",
                        empty=_NO_REQUEST,
                    ),
                ),
            ),
            Row(
                "Steps and tokens",
                (
                    _panel("Steps", "replica_step_rate", needs="engines"),
                    _panel("Steps since the start", "replica_steps", needs="engines"),
                    _panel("Steps over all replicas", "step_rate", needs="engines"),
                    _panel("Generated tokens", "replica_generation_tokens_rate", needs="engines"),
                    _panel("Prompt tokens", "prompt_tokens_rate", needs="engines"),
                    _panel("Preemptions over all replicas", "preemption_rate", needs="engines"),
                ),
            ),
        ),
    )


def _gateway() -> Dashboard:
    return Dashboard(
        "enova-gateway",
        "Gateway",
        "What passes the one door: rates, answers, bytes, members.",
        (
            Row(
                "Requests",
                (
                    _panel("Arrivals", "arrival_rate", needs="gateway"),
                    _panel("Answered", "completed_rate", needs="gateway"),
                    _panel("Answered with 2xx", "succeeded_rate", needs="gateway"),
                    _panel("Success rate", "success_rate", needs="gateway", empty=_NO_REQUEST),
                    _panel("In progress", "in_progress", needs="gateway"),
                    _panel(
                        "Mean execution time", "execution_time", needs="gateway", empty=_NO_REQUEST
                    ),
                ),
            ),
            Row(
                "Bytes",
                (
                    _panel("Bytes in", "request_bytes_rate", needs="gateway"),
                    _panel("Bytes out", "response_bytes_rate", needs="gateway"),
                    _panel("Size of a request", "request_size", needs="gateway", empty=_NO_REQUEST),
                    _panel(
                        "Size of an answer", "response_size", needs="gateway", empty=_NO_REQUEST
                    ),
                ),
            ),
            Row("Members", (_panel("Serving", "replicas_serving", needs="gateway"),)),
        ),
    )


def _gpu() -> Dashboard:
    def gpu(title: str, *signals: str, empty: str = "") -> Panel:
        return _panel(title, *signals, needs="gpus", empty=empty)

    profiling = "Empty where the GPU or its driver has no profiling counters."
    return Dashboard(
        "enova-gpu",
        "GPU",
        "What DCGM says of each GPU.",
        (
            Row(
                "Use",
                (
                    gpu("Utilisation", "gpu_utilisation"),
                    gpu("Memory used and there", "gpu_memory_used", "gpu_memory_total"),
                    gpu("Memory copy utilisation", "gpu_memory_copy_utilisation"),
                ),
            ),
            Row(
                "Clocks, power and heat",
                (
                    gpu("Clocks", "gpu_sm_clock", "gpu_memory_clock"),
                    gpu("Power", "gpu_power"),
                    gpu("Temperature", "gpu_temperature", "gpu_memory_temperature"),
                    gpu("Throttled", "gpu_thermal_violation", "gpu_power_violation"),
                ),
            ),
            Row(
                "Faults",
                (
                    gpu("Last XID", "gpu_xid"),
                    gpu("ECC errors", "gpu_ecc_single_bit", "gpu_ecc_double_bit"),
                ),
            ),
            Row(
                "Profiling",
                (
                    gpu("Engine active", "gpu_engine_active", empty=profiling),
                    gpu(
                        "SM active and occupied",
                        "gpu_sm_active",
                        "gpu_sm_occupancy",
                        empty=profiling,
                    ),
                    gpu(
                        "Pipes",
                        "gpu_tensor_active",
                        "gpu_fp64_active",
                        "gpu_fp32_active",
                        "gpu_fp16_active",
                        empty=profiling,
                    ),
                    gpu("Memory active", "gpu_dram_active", empty=profiling),
                    gpu("PCIe", "gpu_pcie_sent", "gpu_pcie_received", empty=profiling),
                    gpu(
                        "NVLink",
                        "gpu_nvlink_sent",
                        "gpu_nvlink_received",
                        empty=f"{profiling} Empty without NVLink.",
                    ),
                ),
            ),
        ),
    )


def _decisions() -> Dashboard:
    return Dashboard(
        "enova-decisions",
        "Decisions",
        "What the reconciler did and on which numbers; each change of a count is a mark.",
        (
            Row(
                "Counts",
                (
                    _panel(
                        "Wanted and starting",
                        "replicas_wanted",
                        "replicas_starting",
                        needs="reconciler",
                    ),
                    _panel("Serving", "replicas_serving", needs="gateway"),
                    _panel("Last look of the reconciler", "reconciler_silence", needs="reconciler"),
                ),
            ),
            Row(
                "What they rest on",
                (
                    _panel("Arrivals", "arrival_rate", needs="gateway"),
                    _panel("Waiting", "waiting", needs="engines"),
                    _panel("KV cache in use", "kv_usage", needs="engines"),
                ),
            ),
        ),
    )
