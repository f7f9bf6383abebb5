"""Border: a model's ``config.json`` as people publish it, in its many spellings.

In: the parsed JSON. Out: the shape that decides memory and speed. What is missing or makes no
sense becomes one sentence per key, all at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from enova.capacity.catalog.shape import Mla, ModelShape, Moe, Quantization

UNGATED = frozenset(
    """bloom codegen falcon gpt2 gpt_bigcode gpt_neox gptj mpt opt phi starcoder2""".split()  # noqa: SIM905
)
"""Families whose feed-forward has two matrices; all others have three."""

LEARNED_POSITIONS = frozenset({"gpt2", "opt", "gpt_bigcode"})

SLIDING_EVERY = {"gemma2": 2, "gpt_oss": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
"""One layer of so many attends to everything, in families that mix windows and full attention."""

NEVER_SLIDING = frozenset({"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"})
"""Families that carry a window in the file but switch it off (``use_sliding_window``)."""


def _names(*names: str) -> Any:  # noqa: ANN401 - pydantic's own field type
    return Field(None, validation_alias=AliasChoices(*names))


class _Config(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    model_type: str = "unknown"
    torch_dtype: str | None = _names("torch_dtype", "dtype")
    hidden: int | None = _names("hidden_size", "n_embd", "d_model")
    layers: int | None = _names("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    heads: int | None = _names("num_attention_heads", "n_head", "n_heads")
    kv_heads: int | None = _names("num_key_value_heads", "num_kv_heads", "n_head_kv")
    head_dim: int | None = None
    intermediate: int | None = _names("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")
    vocab: int | None = _names("vocab_size")
    max_position: int | None = _names(
        "max_position_embeddings", "n_positions", "max_seq_len", "seq_length"
    )
    tie_word_embeddings: bool | None = None
    multi_query: bool = False
    new_decoder_architecture: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    sliding_window_pattern: int | None = None
    layer_types: list[str] | None = None
    experts: int | None = _names(
        "num_local_experts", "num_experts", "n_routed_experts", "num_routed_experts"
    )
    experts_active: int | None = _names("num_experts_per_tok", "num_experts_per_token", "moe_topk")
    moe_intermediate: int | None = _names("moe_intermediate_size")
    shared_experts: int | None = _names("n_shared_experts")
    shared_intermediate: int | None = _names("shared_expert_intermediate_size")
    first_dense: int | None = _names("first_k_dense_replace")
    sparse_step: int | None = _names("decoder_sparse_step", "moe_layer_freq")
    mlp_only_layers: list[int] | None = None
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None
    quantization_config: dict[str, Any] | None = None


_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "float64": 8}

_NEEDED = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "vocab": "vocab_size",
    "max_position": "max_position_embeddings",
}


def read_config(data: Mapping[str, object]) -> ModelShape:
    """The shape a ``config.json`` describes; of a multimodal model, its text part.

    Raises ValueError whose text names every key that is missing or not understood.
    """
    inner = next(
        (data[k] for k in ("text_config", "llm_config") if isinstance(data.get(k), Mapping)), None
    )
    merged = {**data, **inner} if isinstance(inner, Mapping) else dict(data)
    if "dtype" in merged and merged.get("torch_dtype") is None:
        merged["torch_dtype"] = merged["dtype"]
    if isinstance(merged.get("ffn_config"), Mapping):
        merged.pop("ffn_config")
    try:
        config = _Config.model_validate(merged)
    except ValidationError as error:
        wrong = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise ValueError(f"config.json is not understood: {wrong}") from None
    missing = [name for field, name in _NEEDED.items() if not getattr(config, field)]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    return _shape(config)


def _shape(config: _Config) -> ModelShape:
    hidden, heads = config.hidden or 0, config.heads or 0
    layers, vocab = config.layers or 0, config.vocab or 0
    kv_heads = config.kv_heads or heads
    if config.multi_query and not config.new_decoder_architecture:
        kv_heads = 1
    window, sliding = _sliding(config, layers)
    return ModelShape(
        family=config.model_type,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=config.head_dim or hidden // heads,
        intermediate=config.intermediate or 4 * hidden,
        gated=config.model_type not in UNGATED,
        vocab=vocab,
        max_position=config.max_position or 0,
        tied=_tied(config),
        dtype_bytes=_BYTES.get((config.torch_dtype or "bfloat16").removeprefix("torch."), 2),
        learned_positions=config.model_type in LEARNED_POSITIONS,
        moe=_moe(config, layers),
        mla=_mla(config),
        sliding_window=window,
        sliding_layers=sliding,
        quantization=read_quantization(config.quantization_config),
    )


def _tied(config: _Config) -> bool:
    if config.tie_word_embeddings is not None:
        return config.tie_word_embeddings
    return config.model_type in {"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "opt", "bloom"}


def _sliding(config: _Config, layers: int) -> tuple[int | None, int]:
    """The window and how many layers have it."""
    window = config.sliding_window
    off = config.model_type in NEVER_SLIDING and not config.use_sliding_window
    if not window or off or config.use_sliding_window is False:
        return None, 0
    if config.layer_types:
        return window, sum(1 for kind in config.layer_types if kind == "sliding_attention")
    every = config.sliding_window_pattern or SLIDING_EVERY.get(config.model_type)
    return window, layers - layers // every if every else layers


def _moe(config: _Config, layers: int) -> Moe | None:
    if not config.experts or config.experts < 2:
        return None
    first = config.first_dense or 0
    step = max(1, config.sparse_step or 1)
    skipped = set(config.mlp_only_layers or ())
    # deepseek counts layer_idx % step == 0, qwen (layer_idx + 1) % step == 0: equal for step 1.
    sparse = sum(1 for i in range(first, layers) if (i + 1) % step == 0 and i not in skipped)
    each = config.moe_intermediate or config.intermediate or 0
    shared = (config.shared_experts or 0) * each or (config.shared_intermediate or 0)
    return Moe(
        experts=config.experts,
        active=min(config.experts_active or 1, config.experts),
        intermediate=each,
        shared_intermediate=shared,
        layers=sparse,
    )


def _mla(config: _Config) -> Mla | None:
    if not config.kv_lora_rank:
        return None
    nope, rope = config.qk_nope_head_dim or 0, config.qk_rope_head_dim or 0
    return Mla(
        kv_rank=config.kv_lora_rank,
        q_rank=config.q_lora_rank,
        nope_dim=nope,
        rope_dim=rope,
        v_dim=config.v_head_dim or nope,
    )


def read_quantization(data: Mapping[str, Any] | None) -> Quantization | None:
    """What a ``quantization_config`` says. Raises ValueError for a method that is not known."""
    if not data:
        return None
    method = str(data.get("quant_method", "")).lower()
    group = data.get("group_size")
    if method in ("fp8", "fbgemm_fp8", "modelopt_fp8"):
        return Quantization("fp8", 8.0)
    if method == "modelopt":
        nvfp4 = "4" in str(data.get("quant_algo", ""))
        return Quantization("nvfp4", 4.5) if nvfp4 else Quantization("fp8", 8.0)
    if method == "mxfp4":
        return Quantization("mxfp4", 4.25, experts_only=True)
    if method in ("awq", "gptq", "awq_marlin", "gptq_marlin", "auto-round"):
        bits = float(data.get("bits") or data.get("w_bit") or 4)
        return Quantization(method, bits + _scale_bits(group or 128))
    if method in ("bitsandbytes", "bnb"):
        return Quantization("bitsandbytes", 4.5 if data.get("load_in_4bit") else 8.0)
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed(data)
    raise ValueError(f'config.json: quantization method "{method}" is not known')


def _compressed(data: Mapping[str, Any]) -> Quantization:
    groups = data.get("config_groups") or {}
    weights = [g.get("weights") or {} for g in groups.values() if isinstance(g, Mapping)]
    bits = [float(w.get("num_bits") or 16) for w in weights] or [8.0]
    size = next((w.get("group_size") for w in weights if w.get("group_size")), None)
    extra = _scale_bits(size) if size else 0.0
    activations = any(
        isinstance(g, Mapping) and (g.get("input_activations") or {}).get("type") == "float"
        for g in groups.values()
    )
    fast = "fp8" if activations and math.isclose(bits[0], 8.0) else "compressed-tensors"
    return Quantization(fast, bits[0] + extra, engine_method="compressed-tensors")


def _scale_bits(group_size: int) -> float:
    """Bits per weight for one 16-bit scale and one 4-bit zero point a group."""
    return 20.0 / group_size if group_size > 0 else 0.0
