"""The counter file of DCGM's exporter: which fields of each GPU it exports.

In: the fields that signals are made of (``queries_gpu``), to which those are added that people
look up when a GPU is suspected. Out: the file's text, one field a line. A field that a GPU does not
have is left out by the exporter; profiling fields want a data-centre GPU.
"""

from __future__ import annotations

from collections.abc import Iterable

from enova.stack.queries_gpu import COUNTERS, Counter

_DEV = "DCGM_FI_DEV_"

MORE: tuple[Counter, ...] = (
    Counter(f"{_DEV}TOTAL_ENERGY_CONSUMPTION", "counter", "Energy since the driver began (in mJ)."),
    Counter(f"{_DEV}PCIE_REPLAY_COUNTER", "counter", "Retries over PCIe."),
    Counter(f"{_DEV}ENC_UTIL", "gauge", "Encoder utilization (in %)."),
    Counter(f"{_DEV}DEC_UTIL", "gauge", "Decoder utilization (in %)."),
    Counter(f"{_DEV}SYNC_BOOST_VIOLATION", "counter", "Throttling by sync boost (in ns)."),
    Counter(f"{_DEV}BOARD_LIMIT_VIOLATION", "counter", "Throttling by board limits (in ns)."),
    Counter(f"{_DEV}LOW_UTIL_VIOLATION", "counter", "Throttling by low utilization (in ns)."),
    Counter(f"{_DEV}RELIABILITY_VIOLATION", "counter", "Throttling for reliability (in ns)."),
    Counter(f"{_DEV}NVLINK_BANDWIDTH_TOTAL", "counter", "NVLink bandwidth counters of all lanes."),
    Counter(f"{_DEV}UNCORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped, uncorrectable."),
    Counter(f"{_DEV}CORRECTABLE_REMAPPED_ROWS", "counter", "Rows remapped, correctable."),
    Counter(f"{_DEV}ROW_REMAP_FAILURE", "gauge", "Whether remapping of rows has failed."),
    Counter("DCGM_FI_DRIVER_VERSION", "label", "Driver version."),
)
"""Exported beside what signals need."""


def counter_file(counters: Iterable[Counter] = (*COUNTERS, *MORE)) -> str:
    """The exporter's file: ``field, type, help``. Raises ValueError for a field named twice."""
    lines = ["# Field, Prometheus type, help. Lines with # are comments."]
    fields: set[str] = set()
    for counter in counters:
        if counter.field in fields:
            raise ValueError(f"{counter.field} is in the counter file twice")
        fields.add(counter.field)
        # The exporter reads comma-separated values: no comma may be in a help text.
        lines.append(f"{counter.field}, {counter.kind}, {counter.text.replace(',', ';')}")
    return "\n".join(lines) + "\n"
