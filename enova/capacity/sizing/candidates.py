"""The configurations worth looking at: device types of the pool times ways to spread the model.

In: a demand and the inventory. Out: candidates, and for each combination that cannot work one
rejection with its reason. Nothing here predicts latency.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from enova.base.units import format_bytes
from enova.capacity import inventory as pool
from enova.capacity.catalog import engines, gpus
from enova.capacity.catalog.gpus import DeviceFacts
from enova.capacity.catalog.shape import ModelShape, with_quantization
from enova.capacity.inventory import CPU, Inventory
from enova.capacity.perf.estimate import Configuration
from enova.capacity.perf.memory import (
    CPU_RUNTIME_BYTES,
    GIB,
    Layout,
    kv_bytes_per_token,
    ledger,
    weight_bytes,
)
from enova.capacity.sizing.demand import Demand
from enova.capacity.workload import Workload

TENSOR_PARALLEL = (1, 2, 4, 8, 16)
CPU_CORES = (1, 2, 4, 8, 16, 32)
GPU_SEQUENCES = 256
CPU_SEQUENCES = 64
FULLER_SHARE = 0.95
"""Share of GPU memory tried when the engine's default leaves too little for the cache."""

MOST_EMULATED = 256
"""Replicas of emulated engines a machine without GPUs is taken to hold."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a replica. ``device`` is where it is placed, ``config.device`` what it
    computes on (another one for emulated engines on ``cpu``). ``slots`` fit into the pool."""

    device: str
    config: Configuration
    slots: int
    devices: int
    cores: int = 0
    memory_bytes: int = 0

    @property
    def label(self) -> str:
        """``h100-sxm-80gb tp2``, as in the table."""
        ranks = self.config.layout.tensor_parallel
        if self.config.emulated:
            return f"emulated {label(self.config.device.name, ranks)}"
        return label(self.device, ranks, self.cores)


@dataclass(frozen=True)
class Rejection:
    """A combination that cannot be chosen. ``kind`` orders how close it came."""

    label: str
    kind: str
    reason: str
    candidate: Candidate | None = None


def label(device: str, tensor_parallel: int, cores: int = 0) -> str:
    """How a combination is called in tables and sentences."""
    return f"cpu x{cores}" if device == CPU and cores else f"{device} tp{tensor_parallel}"


def candidates(demand: Demand, inventory: Inventory) -> Iterator[Candidate | Rejection]:
    """Every combination of the pool's device types, in a fixed order.

    Raises ValueError when the demanded quantization does not go with the checkpoint.
    """
    shape = with_quantization(demand.shape, demand.quantization)
    pinned_device = demand.pinned.get("device")
    wanted = gpus.canonical_name(str(pinned_device)) if pinned_device else None
    types = pool.device_types(inventory)
    for device in types:
        if wanted and device != wanted:
            continue
        if device != CPU:
            yield from _on_gpus(demand, shape, inventory, device)
        elif demand.emulated and len(types) == 1:
            yield from _pretended(demand, shape)
        elif not demand.emulated:
            yield from _on_cpu(demand, shape, inventory)


def default_max_model_len(shape: ModelShape, workload: Workload) -> int:
    """Twice what all but one in a thousand requests need, in whole 1024s, at least 4096.

    Never beyond what the model was trained for.
    """
    need = 2 * (workload.input.quantile(0.999) + workload.output.quantile(0.999))
    return min(shape.max_position, max(4096, -(-int(need) // 1024) * 1024))


def default_batched_tokens(device: DeviceFacts) -> int:
    """The token budget of a step that the engine itself would take on such a device."""
    if device.usable_bytes >= 150 * GIB:
        return 16384
    return 8192 if device.usable_bytes >= 70 * GIB else 2048


def _on_gpus(
    demand: Demand, shape: ModelShape, inventory: Inventory, device: str
) -> Iterator[Candidate | Rejection]:
    facts = gpus.find(device)
    sample = pool.sample_device(inventory, device)
    if facts is None or sample is None:
        near = ", ".join(gpus.nearest(device)) or ", ".join(gpus.all_gpus())
        yield Rejection(device, "device", f"the catalog does not know this GPU; known: {near}")
        return
    facts = gpus.with_memory(facts, sample.memory_bytes)
    widest = pool.most_per_host(inventory, device)
    pipeline = demand.pinned_int("pipeline_parallel") or 1
    pinned = demand.pinned_int("tensor_parallel")
    for ranks in (pinned,) if pinned else TENSOR_PARALLEL:
        if ranks * pipeline > widest:
            if pinned:
                reason = f"needs {ranks * pipeline} on one host, the pool has at most {widest}"
                yield Rejection(label(device, ranks), "device", reason)
            continue
        if shape.heads % ranks:
            reason = f"{shape.heads} attention heads cannot be split over {ranks} GPUs"
            yield Rejection(label(device, ranks), "device", reason)
            continue
        config = gpu_configuration(demand, shape, facts, ranks, pipeline)
        candidate = Candidate(
            device=device,
            config=config,
            slots=pool.replica_slots(inventory, device, devices_per_replica=ranks * pipeline),
            devices=ranks * pipeline,
            memory_bytes=weight_bytes(shape, ranks, pipeline) * ranks * pipeline,
        )
        yield _fitted(candidate, demand)


def gpu_configuration(
    demand: Demand, shape: ModelShape, facts: DeviceFacts, ranks: int, pipeline: int = 1
) -> Configuration:
    """One replica over ``ranks`` GPUs with everything the user left free at its default."""
    engine = engines.facts(demand.engine, demand.engine_version)
    sequences = demand.pinned_int("max_num_seqs") or GPU_SEQUENCES
    tokens = demand.pinned_int("max_num_batched_tokens")
    layout = Layout(
        tensor_parallel=ranks,
        pipeline_parallel=pipeline,
        max_num_seqs=sequences,
        max_model_len=_model_len(demand, shape),
        memory_share=demand.pinned_float("gpu_memory_utilization")
        or engine.default_gpu_memory_utilization,
        kv_cache_dtype=str(demand.pinned.get("kv_cache_dtype", "auto")),
        block_size=demand.pinned_int("block_size") or engine.block_size,
    )
    return Configuration(
        shape=shape,
        device=facts,
        layout=layout,
        max_num_batched_tokens=tokens or max(default_batched_tokens(facts), sequences),
        emulated=demand.emulated,
        calibration=demand.calibrations.get(facts.name),
    )


def _fitted(candidate: Candidate, demand: Demand) -> Candidate | Rejection:
    """The candidate, with more of the memory when only that lets it start."""
    config = candidate.config
    memory = ledger(config.shape, config.device, config.layout)
    if memory.fits:
        return candidate
    if "gpu_memory_utilization" not in demand.pinned and config.device.kind == "gpu":
        fuller = replace(config, layout=replace(config.layout, memory_share=FULLER_SHARE))
        if ledger(config.shape, config.device, fuller.layout).fits:
            return replace(candidate, config=fuller)
    return Rejection(candidate.label, "memory", memory.shortfall(), candidate)


def _pretended(demand: Demand, shape: ModelShape) -> Iterator[Candidate | Rejection]:
    """Emulated engines on a machine without GPUs: they hold no device, no core of their own."""
    facts = gpus.find(demand.emulate_as)
    if facts is None:
        yield Rejection(demand.emulate_as, "device", "the catalog does not know this GPU")
        return
    pinned = demand.pinned_int("tensor_parallel")
    for ranks in (pinned,) if pinned else TENSOR_PARALLEL[:4]:
        if shape.heads % ranks:
            continue
        config = gpu_configuration(demand, shape, facts, ranks)
        item = _fitted(Candidate(CPU, config, MOST_EMULATED, devices=0), demand)
        yield item
        if isinstance(item, Candidate):
            return  # nothing real is compared, so the smallest that holds the model will do


def _on_cpu(
    demand: Demand, shape: ModelShape, inventory: Inventory
) -> Iterator[Candidate | Rejection]:
    hosts = [host for host in inventory.hosts if host.of_type(CPU)]
    most_cores = max(host.cores for host in hosts)
    memory = max(host.memory_bytes for host in hosts)
    pinned = demand.pinned_int("cores")
    if pinned and pinned > most_cores:
        reason = f"needs {pinned} cores on one host, the pool has at most {most_cores}"
        yield Rejection(label(CPU, 1, pinned), "device", reason)
        return
    engine = engines.facts(demand.engine, demand.engine_version)
    sequences = demand.pinned_int("max_num_seqs") or CPU_SEQUENCES
    tokens = demand.pinned_int("max_num_batched_tokens") or max(2048, sequences)
    weights = weight_bytes(shape, 1)
    for cores in (pinned,) if pinned else [n for n in CPU_CORES if n <= most_cores]:
        layout = Layout(
            tensor_parallel=1,
            max_num_seqs=sequences,
            max_model_len=_model_len(demand, shape),
            kv_cache_dtype=str(demand.pinned.get("kv_cache_dtype", "auto")),
            block_size=demand.pinned_int("block_size") or engine.block_size,
        )
        cache = demand.pinned_int("kv_cache_memory_bytes") or _cpu_cache(demand, shape, layout)
        layout = replace(layout, kv_cache_bytes=cache)
        config = Configuration(
            shape=shape,
            device=gpus.cpu(cores, memory),
            layout=layout,
            max_num_batched_tokens=tokens,
            calibration=demand.calibrations.get(CPU),
        )
        need = weights + cache + CPU_RUNTIME_BYTES
        candidate = Candidate(
            device=CPU,
            config=config,
            slots=pool.replica_slots(
                inventory,
                CPU,
                devices_per_replica=1,
                memory_per_replica=need,
                cores_per_replica=cores,
            ),
            devices=1,
            cores=cores,
            memory_bytes=need,
        )
        if memory and need > memory:
            reason = f"needs {format_bytes(need)}, one host has {format_bytes(memory)}"
            yield Rejection(candidate.label, "memory", reason, candidate)
        else:
            yield _fitted(candidate, demand)


def _model_len(demand: Demand, shape: ModelShape) -> int:
    return demand.pinned_int("max_model_len") or default_max_model_len(shape, demand.workload)


def _cpu_cache(demand: Demand, shape: ModelShape, layout: Layout) -> int:
    """Bytes for the longest sequence, and for all of them at the 95th percentile; 16 MiB steps."""
    work = demand.workload
    usual = work.input.quantile(0.95) + work.output.quantile(0.95)
    tokens = max(1.1 * layout.max_model_len, layout.max_num_seqs * usual) + layout.block_size
    need = tokens * kv_bytes_per_token(shape, layout, tokens=layout.max_model_len)
    step = 16 * 2**20
    return -(-int(need) // step) * step
