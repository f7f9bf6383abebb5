"""A model as sizing sees it: the few numbers that decide memory and speed.

Counts are of parameters, split by what tensor parallelism does with them; bytes come in
``perf.memory``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType


@dataclass(frozen=True)
class Quantization:
    """How weights are stored: ``bits`` per weight, scales included.

    ``method`` decides the arithmetic (``fp8`` uses the fast units); ``engine_method`` is what the
    engine calls it when that differs. ``experts_only``: the rest keeps the model's own type.
    """

    method: str
    bits: float
    experts_only: bool = False
    engine_method: str | None = None


@dataclass(frozen=True)
class Moe:
    """Mixture of experts: ``layers`` sparse layers, ``active`` of ``experts`` for each token."""

    experts: int
    active: int
    intermediate: int
    shared_intermediate: int
    layers: int


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention: the cache holds ``kv_rank + rope_dim`` numbers a token."""

    kv_rank: int
    q_rank: int | None
    nope_dim: int
    rope_dim: int
    v_dim: int


@dataclass(frozen=True)
class LayerParameters:
    """Parameters of one layer's attention and feed-forward.

    ``split`` are divided over tensor-parallel ranks, ``kv`` by KV heads (replicated once there
    are fewer heads than ranks), ``copied`` are on every rank.
    """

    split: int
    kv: int
    copied: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one decoder-only model. ``dtype_bytes`` is the type of unquantized weights.

    ``sliding_layers`` of the ``layers`` attend only to the last ``sliding_window`` tokens.
    """

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    vocab: int
    max_position: int
    tied: bool
    dtype_bytes: int = 2
    learned_positions: bool = False
    moe: Moe | None = None
    mla: Mla | None = None
    sliding_window: int | None = None
    sliding_layers: int = 0
    quantization: Quantization | None = None

    def attention(self) -> LayerParameters:
        """Attention of one layer."""
        hidden, heads = self.hidden, self.heads
        if self.mla is None:
            query = hidden * heads * self.head_dim
            return LayerParameters(
                split=2 * query, kv=2 * hidden * self.kv_heads * self.head_dim, copied=2 * hidden
            )
        mla = self.mla
        head = mla.nope_dim + mla.rope_dim
        down = hidden * (mla.kv_rank + mla.rope_dim)
        up = mla.kv_rank * heads * (mla.nope_dim + mla.v_dim)
        if mla.q_rank:
            down += hidden * mla.q_rank
            query = mla.q_rank * heads * head
        else:
            query = hidden * heads * head
        output = heads * mla.v_dim * hidden
        return LayerParameters(split=query + up + output, kv=0, copied=down + 2 * hidden)

    def dense_mlp(self) -> int:
        """Feed-forward of one dense layer."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    def one_expert(self) -> int:
        """One routed expert of one layer, 0 without experts."""
        return 3 * self.hidden * self.moe.intermediate if self.moe else 0

    def shared_experts(self) -> int:
        """The experts of one sparse layer that every token uses."""
        return 3 * self.hidden * self.moe.shared_intermediate if self.moe else 0

    def embeddings(self) -> int:
        """The input embedding, learned positions included."""
        positions = self.max_position * self.hidden if self.learned_positions else 0
        return self.vocab * self.hidden + positions

    def head(self) -> int:
        """The output projection that is stored on its own, 0 when tied."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def dense_layers(self) -> int:
        """Layers with a dense feed-forward."""
        return self.layers - (self.moe.layers if self.moe else 0)

    def parameters(self) -> int:
        """All of them."""
        attention = self.attention()
        total = self.layers * (attention.split + attention.kv + attention.copied)
        total += self.dense_layers * self.dense_mlp() + self.embeddings() + self.head()
        if self.moe:
            sparse = self.moe.experts * (self.one_expert() + self.hidden) + self.shared_experts()
            total += self.moe.layers * sparse
        return total

    def active_parameters(self) -> int:
        """Those that one token passes through, the embedding look-up left out."""
        attention = self.attention()
        total = self.layers * (attention.split + attention.kv + attention.copied)
        total += self.dense_layers * self.dense_mlp() + self.vocab * self.hidden
        if self.moe:
            sparse = self.moe.active * self.one_expert() + self.shared_experts()
            total += self.moe.layers * sparse
        return total


ONLINE: Mapping[str, float] = MappingProxyType({"fp8": 8.0, "bitsandbytes": 4.5})
"""Methods an engine can apply while it loads unquantized weights, with their bits."""


def with_quantization(shape: ModelShape, method: str | None) -> ModelShape:
    """The shape as served with a method the user names.

    Raises ValueError when the checkpoint is stored otherwise, or when the method needs a
    checkpoint made with it.
    """
    if method is None:
        return shape
    own = shape.quantization
    if own is not None:
        if method in (own.method, own.engine_method) or method.startswith(own.method):
            return shape
        stored = own.engine_method or own.method
        raise ValueError(f'the checkpoint is stored as {stored}; it cannot be served as "{method}"')
    if method not in ONLINE:
        raise ValueError(
            f'"{method}" needs a checkpoint made with it; while loading only '
            f"{', '.join(sorted(ONLINE))} can be applied"
        )
    return replace(shape, quantization=Quantization(method, ONLINE[method]))
