"""What the emulator counts, under vLLM's metric names; ``exposition`` writes it out.

In: events of the engine, one call each. Out: counters and histograms. Kept by hand, not with a
metrics library, because a step of 500 streams makes 500 observations that mostly fall together.
Times are wall seconds, as a client measures them, whatever the time scale.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_GAP = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
BUCKET_FAMILIES: Mapping[str, tuple[float, ...]] = {
    "request_latency": _LATENCY,
    "time_to_first_token": _FIRST_TOKEN,
    "inter_token_latency": _TOKEN_GAP,
    "iteration_tokens": tuple(float(2**power) for power in (0, *range(3, 15))),
    "request_params_n": (1.0, 2.0, 5.0, 10.0, 20.0),
    "request_num_preemptions": (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0),
    "request_tokens": (),
    "kv_cache_residency": (),
}
"""Default bucket edges by vLLM's family key; ``request_tokens`` follows ``max_model_len``, and
``kv_cache_residency`` is taken as vLLM takes it, for a histogram that is not emulated."""

FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
REJECTIONS = ("max_num_queued_reqs", "max_num_queued_tokens")

HISTOGRAMS: Mapping[str, tuple[str, str]] = {
    "request_prompt_tokens": ("request_tokens", "Number of prefill tokens processed."),
    "request_generation_tokens": ("request_tokens", "Number of generation tokens processed."),
    "iteration_tokens_total": (
        "iteration_tokens",
        "Histogram of number of tokens per engine_step.",
    ),
    "request_max_num_generation_tokens": (
        "request_tokens",
        "Histogram of maximum number of requested generation tokens.",
    ),
    "request_params_n": ("request_params_n", "Histogram of the n request parameter."),
    "request_params_max_tokens": (
        "request_tokens",
        "Histogram of the max_tokens request parameter.",
    ),
    "time_to_first_token_seconds": (
        "time_to_first_token",
        "Histogram of time to first token in seconds.",
    ),
    "inter_token_latency_seconds": (
        "inter_token_latency",
        "Histogram of inter-token latency in seconds.",
    ),
    "request_time_per_output_token_seconds": (
        "inter_token_latency",
        "Histogram of time_per_output_token_seconds per request.",
    ),
    "e2e_request_latency_seconds": (
        "request_latency",
        "Histogram of e2e request latency in seconds.",
    ),
    "request_queue_time_seconds": (
        "request_latency",
        "Histogram of time spent in WAITING phase for request.",
    ),
    "request_inference_time_seconds": (
        "request_latency",
        "Histogram of time spent in RUNNING phase for request.",
    ),
    "request_prefill_time_seconds": (
        "request_latency",
        "Histogram of time spent in PREFILL phase for request.",
    ),
    "request_decode_time_seconds": (
        "request_latency",
        "Histogram of time spent in DECODE phase for request.",
    ),
    "request_num_preemptions": (
        "request_num_preemptions",
        "Histogram of the number of times a request was preempted.",
    ),
    "request_prefill_kv_computed_tokens": (
        "request_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
    ),
}
"""Histogram by name without the ``vllm:`` in front: its bucket family and its HELP text."""


class Histogram:
    """Counts by upper edge, as Prometheus means them."""

    __slots__ = ("_counts", "_edges", "count", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
        self.count = 0
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self._counts[bisect_left(self._edges, value)] += times
        self.count += times
        self.total += value * times

    def cumulative(self) -> Iterable[tuple[str, int]]:
        """(upper edge as text, observations at or below it)."""
        below = 0
        for edge, count in zip(self._edges, self._counts, strict=False):
            below += count
            yield str(float(edge)), below
        yield "+Inf", self.count


class Meter:
    """All counts of one process. They only grow."""

    def __init__(
        self, *, model_name: str, max_model_len: int, buckets: Mapping[str, Sequence[float]]
    ) -> None:
        self.model_name = model_name
        self.created = time.time()
        edges = {**BUCKET_FAMILIES, "request_tokens": _one_two_five(max_model_len), **buckets}
        self.histograms = {
            name: Histogram(edges[family]) for name, (family, _) in HISTOGRAMS.items()
        }
        self.prompt_tokens = 0
        self.prompt_tokens_cached = 0
        self.generation_tokens = 0
        self.finished = dict.fromkeys(FINISH_REASONS, 0)
        self.rejected = dict.fromkeys(REJECTIONS, 0)
        self.http: dict[tuple[str, str, str], int] = {}

    def count_http(self, method: str, route: str, status: int) -> None:
        """One answered request, as vLLM's HTTP instrumentation counts it."""
        key = (route, method, f"{status // 100}xx")
        self.http[key] = self.http.get(key, 0) + 1


def _one_two_five(largest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to ``largest``."""
    edges: list[float] = []
    scale = 1
    while scale <= largest:
        edges.extend(float(scale * step) for step in (1, 2, 5) if scale * step <= largest)
        scale *= 10
    return tuple(edges)
