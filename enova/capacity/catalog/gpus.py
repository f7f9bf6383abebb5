"""What GPU types can do, from public data sheets, and how the many spellings find them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from enova.capacity.catalog import data

MIB = 2**20


@dataclass(frozen=True)
class DeviceFacts:
    """One device type. Compute in dense FLOP/s, bandwidths in bytes/s (``link`` one way).

    ``memory_bytes`` is what the driver reports, ``usable_bytes`` what an engine finds.
    """

    name: str
    kind: str
    generation: str
    memory_bytes: int
    usable_bytes: int
    bf16_flops: float
    fp8_flops: float | None
    bandwidth: float
    link: float


@cache
def all_gpus() -> Mapping[str, DeviceFacts]:
    """Every known GPU type by its name, sorted."""
    entries = data.read("gpus")["gpus"]
    return {name: _facts(name, entries[name]) for name in sorted(entries)}


def find(name: str) -> DeviceFacts | None:
    """The GPU type of that name, an alias of it, or the name the driver reports."""
    canonical = _spellings().get(_squeeze(name))
    return all_gpus()[canonical] if canonical else None


def canonical_name(name: str) -> str:
    """The catalog's name for a spelling, in lower case with dashes when it is unknown."""
    facts = find(name)
    return facts.name if facts else re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def nearest(name: str) -> tuple[str, ...]:
    """Known names that look like an unknown one, best first."""
    return tuple(difflib.get_close_matches(canonical_name(name), list(all_gpus()), n=3, cutoff=0.4))


def with_memory(facts: DeviceFacts, memory_bytes: int) -> DeviceFacts:
    """The same type as found on a host, where the driver may report other memory."""
    if memory_bytes <= 0 or memory_bytes == facts.memory_bytes:
        return facts
    kept = facts.memory_bytes - facts.usable_bytes
    return DeviceFacts(
        **{
            **facts.__dict__,
            "memory_bytes": memory_bytes,
            "usable_bytes": max(0, memory_bytes - kept),
        }
    )


CPU_FLOPS_PER_CORE = 100e9
"""Rough: bf16 matrix products on one core with wide vectors."""

CPU_BANDWIDTH_PER_CORE = 12e9
"""Rough: memory bytes/s one core can read; cores share what the sockets have."""

CPU_BANDWIDTH_MOST = 80e9


def cpu(cores: int, memory_bytes: int) -> DeviceFacts:
    """A host's processor as a device: rough figures for any current server core."""
    bandwidth = min(CPU_BANDWIDTH_PER_CORE * max(1, cores), CPU_BANDWIDTH_MOST)
    return DeviceFacts(
        name="cpu",
        kind="cpu",
        generation="cpu",
        memory_bytes=memory_bytes,
        usable_bytes=memory_bytes,
        bf16_flops=CPU_FLOPS_PER_CORE * max(1, cores),
        fp8_flops=None,
        bandwidth=bandwidth,
        link=bandwidth,
    )


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _spellings() -> Mapping[str, str]:
    spellings = {}
    for name, entry in data.read("gpus")["gpus"].items():
        for spelling in (name, *entry["aliases"]):
            spellings[_squeeze(spelling)] = name
    return spellings


def _facts(name: str, entry: Mapping[str, float]) -> DeviceFacts:
    fp8 = entry["fp8_tflops"]
    return DeviceFacts(
        name=name,
        kind="gpu",
        generation=str(entry["generation"]),
        memory_bytes=int(entry["memory_mib"]) * MIB,
        usable_bytes=int(entry["usable_mib"]) * MIB,
        bf16_flops=entry["bf16_tflops"] * 1e12,
        fp8_flops=fp8 * 1e12 if fp8 else None,
        bandwidth=entry["bandwidth_gbs"] * 1e9,
        link=entry["link_gbs"] * 1e9,
    )
