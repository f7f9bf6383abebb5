"""Where a device's memory goes, item by item, and how many tokens of KV cache are left.

In: a model's shape, a device, the parallel layout and the engine's limits. Out: a ``Ledger`` for
one rank. Near capacity a small error here is a large one in latency, so every item is a line that
can be compared with the engine's own report at start.
"""

from __future__ import annotations

from dataclasses import dataclass

from enova.base.units import format_bytes
from enova.capacity.catalog.gpus import DeviceFacts
from enova.capacity.catalog.shape import ModelShape

GIB = 2**30

LOGITS_FACTOR = 8.2
"""Copies of the float32 logits of all sequences that the engine's profile run keeps room for."""

CPU_RUNTIME_BYTES = int(1.5 * GIB)
"""What an engine process takes beside weights and cache on a host without GPUs."""

KV_DTYPE_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


@dataclass(frozen=True)
class Layout:
    """How one replica is spread: ranks, and what the engine may use and run at once.

    ``memory_share`` is the share of each GPU the engine may fill; on ``cpu`` devices
    ``kv_cache_bytes`` bounds the cache instead.
    """

    tensor_parallel: int
    max_num_seqs: int
    max_model_len: int
    pipeline_parallel: int = 1
    memory_share: float = 0.92
    kv_cache_bytes: int | None = None
    kv_cache_dtype: str = "auto"
    block_size: int = 16


@dataclass(frozen=True)
class Line:
    """One item of the ledger, in bytes on one rank."""

    item: str
    bytes: int


@dataclass(frozen=True)
class Ledger:
    """Memory of the fullest rank. ``kv_bytes`` below 0 says by how much it does not fit.

    ``kv_bytes_per_token`` is on one rank, over that rank's layers, at the model's full length.
    ``kv_tokens`` and ``kv_blocks`` are what the replica's cache holds.
    """

    device_bytes: int
    lines: tuple[Line, ...]
    kv_bytes: int
    kv_bytes_per_token: float
    kv_tokens: int
    kv_blocks: int
    longest: int

    @property
    def fits(self) -> bool:
        """Whether one sequence of the full length finds room: else the engine does not start."""
        return self.kv_tokens >= self.longest

    @property
    def weights_bytes(self) -> int:
        """Weights on one rank."""
        return sum(line.bytes for line in self.lines if line.item == "weights")

    @property
    def reserve_bytes(self) -> int:
        """Activations, graphs and runtime on one rank."""
        return sum(line.bytes for line in self.lines if line.item.startswith("reserve"))

    def shortfall(self) -> str:
        """What is missing, in words; empty when it fits."""
        if self.fits:
            return ""
        if self.kv_bytes <= 0:
            return (
                f"weights and runtime need {format_bytes(-self.kv_bytes)} more than the "
                f"{format_bytes(self.device_bytes)} of one device allow"
            )
        return (
            f"the KV cache would hold {self.kv_tokens} tokens, less than one sequence of "
            f"max_model_len {self.longest}"
        )


def ledger(shape: ModelShape, device: DeviceFacts, layout: Layout) -> Ledger:
    """The ledger of one replica's fullest rank."""
    weights = weight_bytes(shape, layout.tensor_parallel, layout.pipeline_parallel)
    per_token = kv_bytes_per_token(shape, layout, tokens=layout.max_model_len)
    lines = [Line("weights", weights)]
    if device.kind == "cpu":
        lines.append(Line("reserve: runtime", CPU_RUNTIME_BYTES))
        room = device.usable_bytes - weights - CPU_RUNTIME_BYTES
        kv = room if layout.kv_cache_bytes is None else min(room, layout.kv_cache_bytes)
    else:
        kept = int(device.usable_bytes * (1 - layout.memory_share))
        lines.append(Line("kept free", kept))
        lines.append(Line("reserve: runtime and graphs", runtime_reserve(device)))
        lines.append(Line("reserve: logits", logits_reserve(shape, layout.max_num_seqs)))
        kv = device.usable_bytes - sum(line.bytes for line in lines)
    blocks = max(0, int(kv / (per_token * layout.block_size)))
    lines.append(Line("KV cache", max(0, kv)))
    return Ledger(
        device_bytes=device.usable_bytes,
        lines=tuple(lines),
        kv_bytes=kv,
        kv_bytes_per_token=per_token,
        kv_tokens=blocks * layout.block_size,
        kv_blocks=blocks,
        longest=layout.max_model_len,
    )


def runtime_reserve(device: DeviceFacts) -> int:
    """Bytes of context, graphs and activations: 1.2 GiB on large cards, 0.65 GiB on 24 GB ones."""
    size = device.usable_bytes / GIB
    share = min(1.0, max(0.0, (size - 24) / (70 - 24)))
    return int((0.65 + share * (1.2 - 0.65)) * GIB)


def logits_reserve(shape: ModelShape, max_num_seqs: int) -> int:
    """Bytes the engine's profile run finds for sampling ``max_num_seqs`` sequences at once."""
    return int(LOGITS_FACTOR * max_num_seqs * shape.vocab * 4)


def kv_bytes_per_token(shape: ModelShape, layout: Layout, *, tokens: int) -> float:
    """Mean KV bytes for each token of a sequence of ``tokens``, on the rank with most layers.

    KV heads that are fewer than ranks, and latent caches, are on every rank. Layers with a
    sliding window keep no more than the window.
    """
    width = KV_DTYPE_BYTES.get(layout.kv_cache_dtype, 0) or min(shape.dtype_bytes, 2)
    if layout.kv_cache_dtype == "auto" and shape.dtype_bytes == 4:
        width = 4
    if shape.mla is not None:
        numbers = shape.mla.kv_rank + shape.mla.rope_dim
    else:
        numbers = 2 * kv_heads_per_rank(shape, layout.tensor_parallel) * shape.head_dim
    window = shape.sliding_window or tokens
    kept = min(1.0, window / max(1, tokens))
    layers = (shape.layers - shape.sliding_layers) + shape.sliding_layers * kept
    return numbers * width * layers / layout.pipeline_parallel


def kv_heads_per_rank(shape: ModelShape, tensor_parallel: int) -> int:
    """KV heads that one rank holds, at least one."""
    return max(1, -(-shape.kv_heads // tensor_parallel))


def weight_bytes(shape: ModelShape, tensor_parallel: int, pipeline_parallel: int = 1) -> int:
    """Bytes of weights on the fullest rank: a middle stage, or the one with embedding or head."""
    own = float(shape.dtype_bytes)
    quantized = shape.quantization.bits / 8 if shape.quantization else own
    dense = own if shape.quantization and shape.quantization.experts_only else quantized

    attention = shape.attention()
    copies = kv_heads_per_rank(shape, tensor_parallel) / max(1, shape.kv_heads)
    layer = (attention.split / tensor_parallel + attention.kv * copies) * dense
    # Norms stay as they are; the down projections of latent attention are quantized copies.
    layer += attention.copied * (dense if shape.mla else own)
    total = layer * shape.layers
    total += shape.dense_layers * shape.dense_mlp() * dense / tensor_parallel
    if shape.moe:
        experts = shape.moe.experts * shape.one_expert() + shape.shared_experts()
        sparse = experts * quantized / tensor_parallel
        sparse += shape.moe.experts * shape.hidden * own
        total += shape.moe.layers * sparse
    stage = total * (-(-shape.layers // pipeline_parallel)) / shape.layers
    embedding = shape.embeddings() * own / tensor_parallel
    head = shape.head() * own / tensor_parallel
    ends = embedding + head if pipeline_parallel == 1 else max(embedding, head or embedding)
    return int(stage + ends)
