"""What sizing is asked for one service, in plain values: no spec, no file, no lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enova.capacity.catalog.shape import ModelShape
from enova.capacity.perf.estimate import Calibration
from enova.capacity.sim.report import Goal, Objectives
from enova.capacity.workload import Workload

PINNABLE = (
    "block_size",
    "cores",
    "device",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "kv_cache_memory_bytes",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "pipeline_parallel",
    "tensor_parallel",
)
"""Fields of a ``Choice`` that a user may fix."""

Pin = str | int | float


@dataclass(frozen=True)
class Demand:
    """One service to size.

    ``goals`` empty means that only the queue must not grow. ``attainment`` is the share of
    requests that must be within all of them at once, None when that is not asked.
    ``success_rate`` is the stated share to be answered without a 5xx, None when left at its
    default; no prediction rests on it. ``most`` None: as many replicas as
    the pool holds. ``prices`` are the user's own in USD per device and hour. ``pinned`` fixes
    fields of the choice (``PINNABLE``). ``emulate_as`` names the device an emulated engine
    pretends when the pool has no GPU. ``calibrations`` are measured step laws by device name.
    """

    service: str
    model: str
    shape: ModelShape
    workload: Workload
    engine: str = "vllm"
    engine_version: str | None = None
    revision: str | None = None
    quantization: str | None = None
    goals: tuple[Goal, ...] = ()
    attainment: float | None = None
    success_rate: float | None = None
    least: int = 1
    most: int | None = None
    priority: int = 100
    prices: Mapping[str, float] = field(default_factory=dict)
    pinned: Mapping[str, Pin] = field(default_factory=dict)
    emulate_as: str = "h100-sxm-80gb"
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.pinned) - set(PINNABLE))
        if unknown:
            raise ValueError(f"cannot fix {', '.join(unknown)}; known: {', '.join(PINNABLE)}")

    @property
    def objectives(self) -> Objectives:
        """The latency goals as sizing holds a load point against them."""
        return Objectives(self.goals, self.attainment)

    @property
    def emulated(self) -> bool:
        """True when the engine only pretends to have the device."""
        return self.engine == "emulator"

    def pinned_int(self, name: str) -> int | None:
        """A fixed whole number, None when free. Raises ValueError on another kind of value."""
        value = self.pinned.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not float(value).is_integer():
            raise ValueError(f"{name}: a whole number is needed, not {value!r}")
        return int(value)

    def pinned_float(self, name: str) -> float | None:
        """A fixed number, None when free."""
        value = self.pinned.get(name)
        return None if value is None else float(value)
