"""Signals: numbers read from the running system, with one name, unit and meaning each.

Sources (``effects/sources``) fill ``Signals``; scaling and healing read it. ``None`` means not
known, which is never the same as zero: nothing is scaled down on a number nobody read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal[
    "requests",
    "requests/s",
    "tokens/s",
    "steps/s",
    "1/s",
    "seconds",
    "share",
    "bytes",
    "bytes/s",
    "hertz",
    "watts",
    "celsius",
    "count",
    "code",
    "times",
    "USD/h",
    "USD",
]
"""Closed: every view knows each. ``share`` is 0 to 1, ``times`` a multiple of what is allowed;
nothing is a percentage."""

Of = Literal["service", "goal", "replica", "gpu", "stack"]


@dataclass(frozen=True)
class Meaning:
    """What a signal stands for, as documentation, dashboards and ``explain`` show it.

    ``of``: what there is one such number for. A goal is one of a service, named ``ttft_p95``,
    ``attainment`` or ``success_rate``.
    """

    unit: Unit
    text: str
    of: Of = "service"


PERCENTILES = (50, 90, 95, 99)
LATENCIES: Mapping[str, str] = {
    "ttft": "time to first token",
    "tpot": "time per output token, a request's mean after its first",
    "itl": "inter-token latency",
    "e2e": "whole request",
    "queue_time": "wait in the engine before a request runs",
}


def _service() -> dict[str, Meaning]:
    return {
        "arrival_rate": Meaning(
            "requests/s", "requests that arrived at the gateway, answered or not"
        ),
        "recent_arrival_rate": Meaning(
            "requests/s", "the same over some 10 s: a jump shows here first, and chance with it"
        ),
        "completed_rate": Meaning("requests/s", "requests answered to their end"),
        "succeeded_rate": Meaning("requests/s", "requests answered with a 2xx"),
        "success_rate": Meaning("share", "requests answered without a 5xx, of those that ended"),
        "in_progress": Meaning("requests", "requests open at the gateway, also without a replica"),
        "execution_time": Meaning("seconds", "mean time a request is open at the gateway"),
        "request_size": Meaning("bytes", "mean body of a request"),
        "response_size": Meaning("bytes", "mean body of an answer"),
        "request_bytes_rate": Meaning("bytes/s", "bodies of requests"),
        "response_bytes_rate": Meaning("bytes/s", "bodies of answers"),
        "running": Meaning("requests", "requests in the engines' batches"),
        "waiting": Meaning("requests", "requests queued inside the engines"),
        "kv_usage": Meaning("share", "KV cache in use, mean over replicas"),
        **{
            f"{metric}_p{percentile}": Meaning(
                "seconds", f"{text}, {percentile}th percentile, as the engines see it"
            )
            for metric, text in LATENCIES.items()
            for percentile in PERCENTILES
        },
        **{
            f"{metric}_mean": Meaning("seconds", f"{text}, mean, as the engines see it")
            for metric, text in LATENCIES.items()
        },
        "prompt_tokens_rate": Meaning("tokens/s", "prompt tokens computed"),
        "generation_tokens_rate": Meaning("tokens/s", "tokens generated"),
        "prefix_hit_share": Meaning("share", "prompt tokens found in the prefix cache"),
        "preemption_rate": Meaning("1/s", "requests put back because the KV cache was full"),
        "step_rate": Meaning("steps/s", "engine steps over all replicas"),
        "replicas_serving": Meaning("count", "replicas the gateway sends requests to"),
        "replicas_starting": Meaning("count", "replicas on the way, as the reconciler sees it"),
        "replicas_wanted": Meaning("count", "replicas the reconciler last ordered"),
        "usd_per_hour": Meaning("USD/h", "all replicas that run, at the stack's prices"),
        "usd_per_million_tokens": Meaning("USD", "cost of a million tokens, prompt and answer"),
        "usd_per_million_output_tokens": Meaning("USD", "cost of a million generated tokens"),
    }


def _goals() -> dict[str, Meaning]:
    return {
        "goal_limit": Meaning("seconds", "latency that must not be exceeded", "goal"),
        "goal_target": Meaning("share", "requests that must meet the goal", "goal"),
        "goal_budget": Meaning("share", "requests that may miss it: one less the target", "goal"),
        "goal_attainment": Meaning("share", "requests that met it in the last hour", "goal"),
        "goal_measured": Meaning("seconds", "latency at the goal's percentile", "goal"),
        "goal_predicted": Meaning("seconds", "what the plan predicted for it", "goal"),
        "burn_rate": Meaning(
            "times", "misses of the last hour over the budget; at 1 it lasts just so", "goal"
        ),
        "error_budget_left": Meaning(
            "share", "budget of the last 3 days not yet used; below 0 it is overdrawn", "goal"
        ),
    }


def _replicas() -> dict[str, Meaning]:
    return {
        "replica_running": Meaning("requests", "requests in its batch", "replica"),
        "replica_waiting": Meaning("requests", "requests queued in it", "replica"),
        "replica_kv_usage": Meaning("share", "its KV cache in use", "replica"),
        "replica_preemption_rate": Meaning("1/s", "requests it put back", "replica"),
        "replica_steps": Meaning("count", "engine steps since it started", "replica"),
        "replica_step_rate": Meaning("steps/s", "its engine steps", "replica"),
        "replica_itl_mean": Meaning("seconds", "its mean inter-token latency", "replica"),
        "replica_generation_tokens_rate": Meaning("tokens/s", "tokens it generates", "replica"),
    }


def _gpus() -> dict[str, Meaning]:
    return {
        "gpu_utilisation": Meaning("share", "time with a kernel running", "gpu"),
        "gpu_memory_copy_utilisation": Meaning("share", "time device memory was busy", "gpu"),
        "gpu_memory_used": Meaning("bytes", "device memory in use", "gpu"),
        "gpu_memory_total": Meaning("bytes", "device memory there is", "gpu"),
        "gpu_sm_clock": Meaning("hertz", "clock of the multiprocessors", "gpu"),
        "gpu_memory_clock": Meaning("hertz", "clock of device memory", "gpu"),
        "gpu_power": Meaning("watts", "power drawn", "gpu"),
        "gpu_temperature": Meaning("celsius", "temperature of the chip", "gpu"),
        "gpu_memory_temperature": Meaning("celsius", "temperature of device memory", "gpu"),
        "gpu_xid": Meaning("code", "last XID error, 0 without one", "gpu"),
        "gpu_ecc_single_bit": Meaning("count", "corrected memory errors since driver start", "gpu"),
        "gpu_ecc_double_bit": Meaning(
            "count", "uncorrected memory errors since driver start", "gpu"
        ),
        "gpu_thermal_violation": Meaning("share", "time clocks were held back by heat", "gpu"),
        "gpu_power_violation": Meaning("share", "time clocks were held back by power", "gpu"),
        "gpu_engine_active": Meaning("share", "time the compute engine was active", "gpu"),
        "gpu_sm_active": Meaning("share", "multiprocessors with work, mean", "gpu"),
        "gpu_sm_occupancy": Meaning("share", "resident warps of those possible", "gpu"),
        "gpu_tensor_active": Meaning("share", "cycles the tensor cores worked", "gpu"),
        "gpu_fp64_active": Meaning("share", "cycles the FP64 pipe worked", "gpu"),
        "gpu_fp32_active": Meaning("share", "cycles the FP32 pipe worked", "gpu"),
        "gpu_fp16_active": Meaning("share", "cycles the FP16 pipe worked", "gpu"),
        "gpu_dram_active": Meaning("share", "cycles device memory moved data", "gpu"),
        "gpu_pcie_sent": Meaning("bytes/s", "sent over PCIe", "gpu"),
        "gpu_pcie_received": Meaning("bytes/s", "received over PCIe", "gpu"),
        "gpu_nvlink_sent": Meaning("bytes/s", "sent over NVLink", "gpu"),
        "gpu_nvlink_received": Meaning("bytes/s", "received over NVLink", "gpu"),
    }


def _stack() -> dict[str, Meaning]:
    return {
        "reconciler_silence": Meaning("seconds", "time since the reconciler last ticked", "stack"),
    }


MEANINGS: Mapping[str, Meaning] = _service() | _goals() | _replicas() | _gpus() | _stack()
"""Every signal there is. ``stack.recording`` says how Prometheus answers each."""


@dataclass(frozen=True)
class ReplicaSignals:
    """One replica's own numbers. ``steps`` is the count of engine steps since it started: while
    requests run it must advance, else the engine hangs."""

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    steps: float | None = None
    answered: bool | None = None


@dataclass(frozen=True)
class Signals:
    """One service's numbers at ``at_s`` (seconds since the epoch), over ``window_s`` seconds.

    ``recent_s``: the seconds between the readings that ``recent_arrival_rate`` rests on.
    """

    at_s: float
    window_s: float
    arrival_rate: float | None = None
    recent_arrival_rate: float | None = None
    recent_s: float = 0.0
    success_rate: float | None = None
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    ttft_p95: float | None = None
    itl_p95: float | None = None
    e2e_p95: float | None = None
    prompt_tokens_rate: float | None = None
    generation_tokens_rate: float | None = None
    seconds_since_arrival: float | None = None
    replicas: Mapping[str, ReplicaSignals] = field(default_factory=dict)
    """By instance id."""
    source: str = ""
    """Who answered: ``prometheus``, ``scrape``."""
    notes: tuple[str, ...] = ()
    """Why a number is missing, in words: not reached, stale, too few samples."""


READ = frozenset(Signals.__annotations__) & MEANINGS.keys()
"""Signals that are read for a decision or ``status``; the others are for people's eyes."""
