"""What DCGM's exporter is asked to export, and PromQL that puts it into this project's units.

In: nothing. Out: fields with type and help (the exporter's counter file is made of them), and a
query text a signal. DCGM speaks in percent, MiB, MHz and nanoseconds of throttling; signals are
shares, bytes and hertz. Series keep the exporter's labels: ``gpu``, ``UUID``, ``Hostname`` and the
rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from enova.stack.render.prometheus import duration


@dataclass(frozen=True)
class Counter:
    """One line of the exporter's counter file."""

    field: str
    kind: Literal["gauge", "counter", "label"]
    text: str


_DEV, _PROF = "DCGM_FI_DEV_", "DCGM_FI_PROF_"
MIB = 2**20

COUNTERS: tuple[Counter, ...] = (
    Counter(f"{_DEV}GPU_UTIL", "gauge", "GPU utilization (in %)."),
    Counter(f"{_DEV}MEM_COPY_UTIL", "gauge", "Memory utilization (in %)."),
    Counter(f"{_DEV}FB_USED", "gauge", "Framebuffer memory used (in MiB)."),
    Counter(f"{_DEV}FB_FREE", "gauge", "Framebuffer memory free (in MiB)."),
    Counter(f"{_DEV}FB_RESERVED", "gauge", "Framebuffer memory reserved (in MiB)."),
    Counter(f"{_DEV}SM_CLOCK", "gauge", "SM clock frequency (in MHz)."),
    Counter(f"{_DEV}MEM_CLOCK", "gauge", "Memory clock frequency (in MHz)."),
    Counter(f"{_DEV}POWER_USAGE", "gauge", "Power draw (in W)."),
    Counter(f"{_DEV}GPU_TEMP", "gauge", "GPU temperature (in C)."),
    Counter(f"{_DEV}MEMORY_TEMP", "gauge", "Memory temperature (in C)."),
    Counter(f"{_DEV}XID_ERRORS", "gauge", "Value of the last XID error encountered."),
    Counter(f"{_DEV}ECC_SBE_VOL_TOTAL", "counter", "Single-bit volatile ECC errors."),
    Counter(f"{_DEV}ECC_DBE_VOL_TOTAL", "counter", "Double-bit volatile ECC errors."),
    Counter(f"{_DEV}THERMAL_VIOLATION", "counter", "Throttling by heat (in ns)."),
    Counter(f"{_DEV}POWER_VIOLATION", "counter", "Throttling by power (in ns)."),
    Counter(f"{_PROF}GR_ENGINE_ACTIVE", "gauge", "Share of time the engine is active."),
    Counter(f"{_PROF}SM_ACTIVE", "gauge", "Share of cycles an SM has a warp."),
    Counter(f"{_PROF}SM_OCCUPANCY", "gauge", "Share of resident warps."),
    Counter(f"{_PROF}PIPE_TENSOR_ACTIVE", "gauge", "Share of cycles tensor pipes are active."),
    Counter(f"{_PROF}PIPE_FP64_ACTIVE", "gauge", "Share of cycles FP64 pipes are active."),
    Counter(f"{_PROF}PIPE_FP32_ACTIVE", "gauge", "Share of cycles FP32 pipes are active."),
    Counter(f"{_PROF}PIPE_FP16_ACTIVE", "gauge", "Share of cycles FP16 pipes are active."),
    Counter(f"{_PROF}DRAM_ACTIVE", "gauge", "Share of cycles device memory moves data."),
    Counter(f"{_PROF}PCIE_TX_BYTES", "gauge", "Sent over PCIe (in bytes per second)."),
    Counter(f"{_PROF}PCIE_RX_BYTES", "gauge", "Received over PCIe (in bytes per second)."),
    Counter(f"{_PROF}NVLINK_TX_BYTES", "gauge", "Sent over NVLink (in bytes per second)."),
    Counter(f"{_PROF}NVLINK_RX_BYTES", "gauge", "Received over NVLink (in bytes per second)."),
)

VIOLATION_WINDOW_S = 300.0


def expressions() -> Mapping[str, str]:
    """PromQL of each signal of a GPU, by the signal's name."""
    used, free, reserved = (f"{_DEV}FB_{part}" for part in ("USED", "FREE", "RESERVED"))
    window = duration(VIOLATION_WINDOW_S)
    return {
        "gpu_utilisation": f"{_DEV}GPU_UTIL / 100",
        "gpu_memory_copy_utilisation": f"{_DEV}MEM_COPY_UTIL / 100",
        "gpu_memory_used": f"{used} * {MIB}",
        # Not every driver tells what it reserves.
        "gpu_memory_total": f"({used} + {free} + ({reserved} or 0 * {used})) * {MIB}",
        "gpu_sm_clock": f"{_DEV}SM_CLOCK * 1e6",
        "gpu_memory_clock": f"{_DEV}MEM_CLOCK * 1e6",
        "gpu_power": f"{_DEV}POWER_USAGE",
        "gpu_temperature": f"{_DEV}GPU_TEMP",
        "gpu_memory_temperature": f"{_DEV}MEMORY_TEMP",
        "gpu_xid": f"{_DEV}XID_ERRORS",
        "gpu_ecc_single_bit": f"{_DEV}ECC_SBE_VOL_TOTAL",
        "gpu_ecc_double_bit": f"{_DEV}ECC_DBE_VOL_TOTAL",
        "gpu_thermal_violation": f"rate({_DEV}THERMAL_VIOLATION[{window}]) / 1e9",
        "gpu_power_violation": f"rate({_DEV}POWER_VIOLATION[{window}]) / 1e9",
        "gpu_engine_active": f"{_PROF}GR_ENGINE_ACTIVE",
        "gpu_sm_active": f"{_PROF}SM_ACTIVE",
        "gpu_sm_occupancy": f"{_PROF}SM_OCCUPANCY",
        "gpu_tensor_active": f"{_PROF}PIPE_TENSOR_ACTIVE",
        "gpu_fp64_active": f"{_PROF}PIPE_FP64_ACTIVE",
        "gpu_fp32_active": f"{_PROF}PIPE_FP32_ACTIVE",
        "gpu_fp16_active": f"{_PROF}PIPE_FP16_ACTIVE",
        "gpu_dram_active": f"{_PROF}DRAM_ACTIVE",
        "gpu_pcie_sent": f"{_PROF}PCIE_TX_BYTES",
        "gpu_pcie_received": f"{_PROF}PCIE_RX_BYTES",
        "gpu_nvlink_sent": f"{_PROF}NVLINK_TX_BYTES",
        "gpu_nvlink_received": f"{_PROF}NVLINK_RX_BYTES",
    }
