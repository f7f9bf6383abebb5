"""Signals: numbers read from the running system, with one name, unit and meaning each.

Sources (``effects/sources``) fill ``Signals``; scaling and healing read it. ``None`` means not
known, which is never the same as zero: nothing is scaled down on a number nobody read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Meaning:
    """What a signal stands for, as documentation, dashboards and ``explain`` show it."""

    unit: str
    text: str


MEANINGS: Mapping[str, Meaning] = {
    "arrival_rate": Meaning("requests/s", "requests that arrived at the gateway, answered or not"),
    "success_rate": Meaning("share", "requests answered without a 5xx, of those that ended"),
    "running": Meaning("requests", "requests in the engines' batches"),
    "waiting": Meaning("requests", "requests queued inside the engines"),
    "kv_usage": Meaning("share", "KV cache in use, mean over replicas"),
    "ttft_p95": Meaning("seconds", "time to first token, 95th percentile, as the engines see it"),
    "itl_p95": Meaning("seconds", "inter-token latency, 95th percentile"),
    "e2e_p95": Meaning("seconds", "whole request, 95th percentile"),
    "prompt_tokens_rate": Meaning("tokens/s", "prompt tokens computed"),
    "generation_tokens_rate": Meaning("tokens/s", "tokens generated"),
}


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
    """One service's numbers at ``at_s`` (seconds since the epoch), over ``window_s`` seconds."""

    at_s: float
    window_s: float
    arrival_rate: float | None = None
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
