"""Step time from first principles: each operator's work against what the device can do.

In: a model's shape, a device's data sheet, the layout and the traffic's typical lengths. Out: a
``StepTime``. Each operator costs its flops against peak and its bytes against bandwidth, divided
by an efficiency; the engine adds a constant per step, per layer and per sequence. Efficiencies and
constants are joint fits over public measurements of vLLM 0.12 to 0.19 on many GPUs: a starting
point for any GPU, not the physics of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from enova.capacity.catalog.gpus import DeviceFacts
from enova.capacity.catalog.shape import ModelShape
from enova.capacity.perf.memory import Layout, kv_bytes_per_token, kv_heads_per_rank
from enova.capacity.perf.point import LinearStepTime, StepTime


@dataclass(frozen=True)
class Constants:
    """Efficiencies (shares of the data sheet) and overheads (seconds) of one kind of device."""

    gemm_compute: float = 1.0
    gemm_bandwidth: float = 0.86
    gemm_launch: float = 6e-6
    expert_compute: float = 0.17
    expert_bandwidth: float = 0.62
    expert_launch: float = 13e-6
    decode_attention_bandwidth: float = 0.63
    decode_attention_compute: float = 0.5
    prefill_attention_compute: float = 0.22
    reduce_launch: float = 6e-6
    reduce_bandwidth: float = 0.46
    per_step: float = 0.35e-3
    per_layer: float = 3.3e-6
    per_sparse_layer: float = 22e-6
    per_sequence: float = 8e-6
    per_block_quantized_gemm: float = 7e-6
    per_request: float = 3e-3
    per_prompt_token: float = 5e-6


GPU = Constants()

CPU = Constants(
    gemm_compute=0.5,
    gemm_bandwidth=0.7,
    gemm_launch=20e-6,
    expert_compute=0.3,
    expert_bandwidth=0.5,
    expert_launch=50e-6,
    decode_attention_bandwidth=0.3,
    decode_attention_compute=0.3,
    prefill_attention_compute=0.2,
    per_step=2.0e-3,
    per_layer=150e-6,
    per_sparse_layer=200e-6,
    per_sequence=150e-6,
    per_request=5e-3,
    per_prompt_token=10e-6,
)
"""Rough: eager execution on a few cores; only a measurement on the host makes it sharp."""

GEMMS_PER_LAYER = 4
ELEMENTWISE_PASSES = 8
"""Reads and writes of the hidden state per layer outside the matrix products."""


def constants_for(device: DeviceFacts) -> Constants:
    """The set fitted for this kind of device."""
    return CPU if device.kind == "cpu" else GPU


def request_overhead(device: DeviceFacts, prompt_tokens: float) -> float:
    """Seconds between arrival and the engine's queue, and back: parsing, tokenizing, sending."""
    constants = constants_for(device)
    return constants.per_request + constants.per_prompt_token * prompt_tokens


class Roofline:
    """The ``StepTime`` of one replica. ``typical_prompt`` and ``typical_context`` in tokens.

    The average prefill token attends to half a typical prompt (length-weighted), however prompts
    are cut into chunks.
    """

    def __init__(
        self,
        shape: ModelShape,
        device: DeviceFacts,
        layout: Layout,
        *,
        typical_prompt: float,
        typical_context: float,
    ) -> None:
        self._shape = shape
        self._device = device
        self._layout = layout
        self._constants = constants_for(device)
        self._flops = device.bf16_flops
        quantization = shape.quantization
        if quantization and quantization.method == "fp8" and device.fp8_flops:
            self._flops = device.fp8_flops
        ranks = layout.tensor_parallel
        own = float(shape.dtype_bytes)
        packed = quantization.bits / 8 if quantization else own
        self._expert_bytes = packed
        self._dense_bytes = own if quantization and quantization.experts_only else packed
        attention = shape.attention()
        copies = kv_heads_per_rank(shape, ranks) / max(1, shape.kv_heads)
        per_layer = attention.split / ranks + attention.kv * copies
        per_layer += attention.copied if shape.mla else 0
        dense = shape.layers * per_layer + shape.dense_layers * shape.dense_mlp() / ranks
        if shape.moe:
            dense += shape.moe.layers * shape.shared_experts() / ranks
        self._dense_parameters = dense
        self._head_parameters = shape.vocab * shape.hidden / ranks
        self._fixed = self._fixed_seconds()
        self._per_context = self._context_seconds(typical_context)
        self._per_prefill = self._prefill_attention_seconds(typical_prompt)
        self._token_seconds: dict[int, float] = {}
        self._head_seconds: dict[int, float] = {}

    def __call__(self, *, prefill_tokens: int, decodes: int, context_tokens: int) -> float:
        tokens = prefill_tokens + decodes
        by_tokens = self._token_seconds.get(tokens)
        if by_tokens is None:
            by_tokens = self._token_seconds[tokens] = self._matrices(tokens)
        rows = decodes + (1 if prefill_tokens else 0)
        by_rows = self._head_seconds.get(rows)
        if by_rows is None:
            by_rows = self._head_seconds[rows] = self._head(rows)
        return (
            self._fixed
            + by_tokens
            + by_rows
            + self._per_prefill * prefill_tokens
            + self._per_context * context_tokens
        )

    def _fixed_seconds(self) -> float:
        """What a step costs whatever is in it."""
        c, shape = self._constants, self._shape
        sparse = shape.moe.layers if shape.moe else 0
        fixed = c.per_step + c.per_layer * shape.layers + c.per_sparse_layer * sparse
        fixed += c.gemm_launch * GEMMS_PER_LAYER * shape.layers + c.expert_launch * sparse
        quantization = shape.quantization
        if quantization and quantization.method == "fp8":
            fixed += c.per_block_quantized_gemm * GEMMS_PER_LAYER * shape.layers
        if self._layout.tensor_parallel > 1:
            fixed += 2 * shape.layers * c.reduce_launch
        return fixed

    def _matrices(self, tokens: int) -> float:
        """Matrix products, experts, reductions and element-wise work of ``tokens`` rows."""
        c, shape, device = self._constants, self._shape, self._device
        seconds = _four_norm(
            2 * tokens * self._dense_parameters / (self._flops * c.gemm_compute),
            self._dense_parameters * self._dense_bytes / (device.bandwidth * c.gemm_bandwidth),
        )
        ranks = self._layout.tensor_parallel
        if shape.moe:
            moe = shape.moe
            touched = moe.experts * (1 - (1 - moe.active / moe.experts) ** tokens)
            one = shape.one_expert() * moe.layers / ranks
            seconds += _four_norm(
                2 * tokens * moe.active * one / (self._flops * c.expert_compute),
                touched * one * self._expert_bytes / (device.bandwidth * c.expert_bandwidth),
            )
        if ranks > 1:
            sent = 2 * shape.layers * tokens * shape.hidden * 2 * 2 * (ranks - 1) / ranks
            seconds += sent / (device.link * c.reduce_bandwidth)
        passes = ELEMENTWISE_PASSES * shape.layers * tokens * shape.hidden * 2
        return seconds + passes / device.bandwidth

    def _head(self, rows: int) -> float:
        """The output projection and sampling of ``rows`` sequences."""
        c, device = self._constants, self._device
        return c.per_sequence * rows + _four_norm(
            2 * rows * self._head_parameters / (device.bf16_flops * c.gemm_compute),
            self._head_parameters * self._shape.dtype_bytes / (device.bandwidth * c.gemm_bandwidth),
        )

    def _context_seconds(self, typical_context: float) -> float:
        """Attention of one decoding sequence to one cached token, over all layers."""
        c, shape, device = self._constants, self._shape, self._device
        tokens = max(1, round(typical_context))
        read = kv_bytes_per_token(shape, self._layout, tokens=tokens)
        seconds = read / (device.bandwidth * c.decode_attention_bandwidth)
        if shape.mla:
            width = 2 * shape.mla.kv_rank + shape.mla.rope_dim
            work = 2 * shape.heads / self._layout.tensor_parallel * width * shape.layers
            peak = device.bf16_flops * c.decode_attention_compute
            seconds = max(seconds, work / peak)
        return seconds

    def _prefill_attention_seconds(self, typical_prompt: float) -> float:
        """Attention of one prompt token to those before it, over all layers."""
        c, shape = self._constants, self._shape
        if shape.mla:
            widths = shape.mla.nope_dim + shape.mla.rope_dim + shape.mla.v_dim
        else:
            widths = 2 * shape.head_dim
        seen = typical_prompt / 2
        window = min(seen, shape.sliding_window or seen)
        attended = (shape.layers - shape.sliding_layers) * seen + shape.sliding_layers * window
        work = 2 * widths * shape.heads / self._layout.tensor_parallel * attended
        return work / (self._device.bf16_flops * c.prefill_attention_compute)


def linearize(step: StepTime, *, decodes: int, prefill_tokens: int) -> LinearStepTime:
    """The linear law through idle, ``decodes`` running sequences and a chunk of that size."""
    one = step(prefill_tokens=0, decodes=1, context_tokens=0)
    more = max(2, decodes)
    many = step(prefill_tokens=0, decodes=more, context_tokens=0)
    per_decode = max(0.0, (many - one) / (more - 1))
    base = max(1e-6, one - per_decode)
    chunk = step(prefill_tokens=prefill_tokens, decodes=0, context_tokens=0)
    reach = 100_000
    far = step(prefill_tokens=0, decodes=1, context_tokens=reach)
    return LinearStepTime(
        base=_rounded(base),
        per_prefill_token=_rounded(max(0.0, (chunk - base) / prefill_tokens)),
        per_decode=_rounded(per_decode),
        per_context_token=_rounded(max(0.0, (far - one) / reach)),
    )


def _rounded(value: float) -> float:
    """Four significant digits: enough for a law, and lock files stay readable."""
    return float(f"{value:.4g}")


def _four_norm(compute: float, memory: float) -> float:
    """Two limits that overlap: near the larger one, more where both bind."""
    return math.sqrt(math.hypot(compute**2, memory**2))
