"""What DCGM's exporter says of two GPUs, in its text format: for machines that have none.

Every field that signals are made of (``stack.queries_gpu.COUNTERS``), in DCGM's own units, with the
exporter's labels. Values are of an H100 under load.
"""

from __future__ import annotations

from enova.stack.queries_gpu import COUNTERS

GPUS = (0, 1)

VALUES: dict[str, float] = {
    "DCGM_FI_DEV_GPU_UTIL": 97,
    "DCGM_FI_DEV_MEM_COPY_UTIL": 41,
    "DCGM_FI_DEV_FB_USED": 73212,
    "DCGM_FI_DEV_FB_FREE": 7873,
    "DCGM_FI_DEV_FB_RESERVED": 474,
    "DCGM_FI_DEV_SM_CLOCK": 1980,
    "DCGM_FI_DEV_MEM_CLOCK": 2619,
    "DCGM_FI_DEV_POWER_USAGE": 612.4,
    "DCGM_FI_DEV_GPU_TEMP": 61,
    "DCGM_FI_DEV_MEMORY_TEMP": 74,
    "DCGM_FI_DEV_XID_ERRORS": 0,
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 2,
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 0,
    "DCGM_FI_DEV_THERMAL_VIOLATION": 0,
    "DCGM_FI_DEV_POWER_VIOLATION": 1_204_000_000,
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.962,
    "DCGM_FI_PROF_SM_ACTIVE": 0.741,
    "DCGM_FI_PROF_SM_OCCUPANCY": 0.287,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.313,
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": 0,
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": 0.052,
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": 0.011,
    "DCGM_FI_PROF_DRAM_ACTIVE": 0.583,
    "DCGM_FI_PROF_PCIE_TX_BYTES": 48_211_334,
    "DCGM_FI_PROF_PCIE_RX_BYTES": 91_822_450,
    "DCGM_FI_PROF_NVLINK_TX_BYTES": 2_112_409_000,
    "DCGM_FI_PROF_NVLINK_RX_BYTES": 2_109_887_000,
}
"""By field. KeyError below for a counter that has none: it was added and nobody said what it is."""


def page() -> str:
    """The exporter's ``/metrics``."""
    lines = []
    for counter in COUNTERS:
        lines += [
            f"# HELP {counter.field} {counter.text}",
            f"# TYPE {counter.field} {counter.kind}",
        ]
        lines += [f"{counter.field}{{{_labels(gpu)}}} {VALUES[counter.field]}" for gpu in GPUS]
    return "\n".join(lines) + "\n"


def _labels(gpu: int) -> str:
    named = {
        "gpu": str(gpu),
        "UUID": f"GPU-0a1b2c3d-0000-0000-0000-00000000000{gpu}",
        "pci_bus_id": f"00000000:{gpu + 1}8:00.0",
        "device": f"nvidia{gpu}",
        "modelName": "NVIDIA H100 80GB HBM3",
        "Hostname": "gpu-a",
        "DCGM_FI_DRIVER_VERSION": "550.90.07",
    }
    return ",".join(f'{name}="{value}"' for name, value in named.items())
