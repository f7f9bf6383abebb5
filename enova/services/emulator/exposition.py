"""The text of ``/metrics``: vLLM's families, names, labels and HELP, from a ``Meter``.

In: the counts, what the replica says of itself, labels of the info gauges. Out: Prometheus text.
Families of parts that are not emulated (other cache tiers, multi-modal cache) are there with zero,
as an engine without those parts shows them.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enova.services.emulator.meter import HISTOGRAMS, Histogram, Meter

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"


@dataclass(frozen=True)
class EngineState:
    """What the replica says of itself at the moment of a scrape."""

    running: int
    waiting: int
    kv_usage: float
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    lag_s: float


def render(
    meter: Meter, state: EngineState, *, cache: Mapping[str, str], about: Mapping[str, str]
) -> str:
    """The whole exposition. ``cache`` and ``about`` are the labels of the two info gauges."""
    page = _Page(meter)
    page.process()
    page.gauge(
        "num_requests_running", "Number of requests in model execution batches.", state.running
    )
    page.gauge("num_requests_waiting", "Number of requests waiting to be processed.", state.waiting)
    page.gauges(
        "num_requests_waiting_by_reason",
        "Number of waiting requests by reason. "
        "Reason labels: 'capacity' = waiting for scheduling capacity; "
        "'deferred' = deferred by transient constraints "
        "(LoRA budget, KV transfer, blocked status). "
        "Sum of all reasons equals vllm:num_requests_waiting.",
        "reason",
        {"capacity": state.waiting, "deferred": 0},
    )
    page.gauges(
        "engine_sleep_state",
        "Engine sleep state; awake = 0 means engine is sleeping; "
        "awake = 1 means engine is awake; "
        "weights_offloaded = 1 means sleep level 1; "
        "discard_all = 1 means sleep level 2.",
        "sleep_state",
        {"awake": 1, "weights_offloaded": 0, "discard_all": 0},
    )
    page.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", state.kv_usage)
    _counters(page, meter, state)
    for name, (_, text) in HISTOGRAMS.items():
        page.histogram(name, text, meter.histograms[name])
    page.family(
        "vllm:cache_config_info",
        "gauge",
        "Information of the LLMEngine CacheConfig",
        {labels({**cache, "engine": "0"}): 1},
    )
    page.family(
        "http_requests_total",
        "counter",
        "Total number of requests by method, status and handler.",
        {
            labels({"handler": route, "method": method, "status": status}): count
            for (route, method, status), count in sorted(meter.http.items())
        },
    )
    page.family(
        "enova_emulator_info",
        "gauge",
        "Always 1: this is an emulator, its numbers come from a model and not from a GPU.",
        {labels(about): 1},
    )
    page.family(
        "enova_emulator_lag_seconds",
        "gauge",
        "How far the emulator was behind its own schedule at its last step.",
        {page.own(): state.lag_s},
    )
    return page.text()


def _counters(page: _Page, meter: Meter, state: EngineState) -> None:
    page.counter(
        "prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        state.prefix_queries,
    )
    page.counter(
        "prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        state.prefix_hits,
    )
    for what, verb in (("queries", "queried"), ("hits", "cached")):
        page.counter(
            f"external_prefix_cache_{what}",
            f"External prefix cache {what} from KV connector cross-instance cache sharing, "
            f"in terms of number of {verb} tokens.",
            0,
        )
        page.counter(
            f"mm_cache_{what}",
            f"Multi-modal cache {what}, in terms of number of {verb} items.",
            0,
        )
    page.counter(
        "num_preemptions", "Cumulative number of preemption from the engine.", state.preemptions
    )
    page.counter("prompt_tokens", "Number of prefill tokens processed.", meter.prompt_tokens)
    page.counters(
        "prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        "source",
        {
            "local_compute": meter.prompt_tokens - meter.prompt_tokens_cached,
            "local_cache_hit": meter.prompt_tokens_cached,
            "external_kv_transfer": 0,
        },
    )
    page.counter(
        "prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        meter.prompt_tokens_cached,
    )
    page.counters(
        "prompt_tokens_cached_by_source",
        "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), "
        "host (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or "
        "external_unspecified. Counted at admission; sums to "
        "vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
        "source",
        {"device": state.prefix_hits, "host": 0, "p2p": 0, "disk": 0, "external_unspecified": 0},
    )
    page.counter(
        "generation_tokens", "Number of generation tokens processed.", meter.generation_tokens
    )
    page.counters(
        "request_success",
        "Count of successfully processed requests.",
        "finished_reason",
        meter.finished,
    )
    page.created_family(
        "vllm:admission_rejections",
        "Number of admission attempts rejected by a queue limit, by reason.",
        {
            labels({"model_name": meter.model_name, "reason": reason}): count
            for reason, count in meter.rejected.items()
        },
    )


class _Page:
    """Lines of one exposition."""

    def __init__(self, meter: Meter) -> None:
        self._lines: list[str] = []
        self._since = meter.created
        self._base = {"engine": "0", "model_name": meter.model_name}

    def own(self, name: str = "", value: str = "") -> str:
        """vLLM's two labels, and one more."""
        return labels(self._base | ({name: value} if name else {}))

    def gauge(self, name: str, text: str, value: float) -> None:
        self.family(f"vllm:{name}", "gauge", text, {self.own(): value})

    def gauges(self, name: str, text: str, label: str, values: Mapping[str, float]) -> None:
        samples = {self.own(label, key): value for key, value in values.items()}
        self.family(f"vllm:{name}", "gauge", text, samples)

    def counter(self, name: str, text: str, value: float) -> None:
        self.created_family(f"vllm:{name}", text, {self.own(): value})

    def counters(self, name: str, text: str, label: str, values: Mapping[str, float]) -> None:
        samples = {self.own(label, key): value for key, value in values.items()}
        self.created_family(f"vllm:{name}", text, samples)

    def created_family(self, name: str, text: str, samples: Mapping[str, float]) -> None:
        """A counter with the gauge of its start beside it."""
        self.family(f"{name}_total", "counter", text, samples)
        self.family(f"{name}_created", "gauge", text, dict.fromkeys(samples, self._since))

    def histogram(self, name: str, text: str, histogram: Histogram) -> None:
        name = f"vllm:{name}"
        self._head(name, "histogram", text)
        for edge, below in histogram.cumulative():
            self._sample(f"{name}_bucket", self.own("le", edge), below)
        self._sample(f"{name}_count", self.own(), histogram.count)
        self._sample(f"{name}_sum", self.own(), histogram.total)
        self.family(f"{name}_created", "gauge", text, {self.own(): self._since})

    def family(self, name: str, kind: str, text: str, samples: Mapping[str, float]) -> None:
        self._head(name, kind, text)
        for own, value in samples.items():
            self._sample(name, own, value)

    def process(self) -> None:
        """What Python's Prometheus client says of every process."""
        version = sys.version_info
        self.family(
            "python_info",
            "gauge",
            "Python platform information",
            {
                labels(
                    {
                        "implementation": "CPython",
                        "major": str(version.major),
                        "minor": str(version.minor),
                        "patchlevel": str(version.micro),
                        "version": f"{version.major}.{version.minor}.{version.micro}",
                    }
                ): 1
            },
        )
        page_bytes = resource.getpagesize()
        virtual, resident = Path("/proc/self/statm").read_text().split()[:2]
        for name, kind, text, value in (
            (
                "process_virtual_memory_bytes",
                "gauge",
                "Virtual memory size in bytes.",
                int(virtual) * page_bytes,
            ),
            (
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory size in bytes.",
                int(resident) * page_bytes,
            ),
            (
                "process_start_time_seconds",
                "gauge",
                "Start time of the process since unix epoch in seconds.",
                self._since,
            ),
            (
                "process_cpu_seconds_total",
                "counter",
                "Total user and system CPU time spent in seconds.",
                time.process_time(),
            ),
            (
                "process_open_fds",
                "gauge",
                "Number of open file descriptors.",
                len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - counting, on every scrape
            ),
            (
                "process_max_fds",
                "gauge",
                "Maximum number of open file descriptors.",
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            ),
        ):
            self.family(name, kind, text, {"": value})

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _head(self, name: str, kind: str, text: str) -> None:
        self._lines.append(f"# HELP {name} {text}")
        self._lines.append(f"# TYPE {name} {kind}")

    def _sample(self, name: str, own: str, value: float) -> None:
        braces = f"{{{own}}}" if own else ""
        self._lines.append(f"{name}{braces} {float(value)}")


def labels(values: Mapping[str, str]) -> str:
    """``a="1",b="2"`` in order of name, with quotes and line ends escaped."""
    return ",".join(f'{name}="{_quoted(values[name])}"' for name in sorted(values))


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
