"""The memory ledger: what each item is, and what never may happen to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enova.capacity.catalog import gpus, models
from enova.capacity.catalog.gpus import DeviceFacts
from enova.capacity.catalog.shape import ModelShape, with_quantization
from enova.capacity.perf.memory import (
    GIB,
    Layout,
    kv_bytes_per_token,
    kv_heads_per_rank,
    ledger,
    runtime_reserve,
    weight_bytes,
)


def shape_of(model: str) -> ModelShape:
    found = models.find(model)
    assert found is not None
    return found


def gpu(name: str) -> DeviceFacts:
    found = gpus.find(name)
    assert found is not None
    return found


LLAMA = shape_of("meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    ("model", "ranks", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", 1, 2 * 32 * 8 * 128 * 2),
        ("meta-llama/Llama-3.1-8B", 4, 2 * 32 * 2 * 128 * 2),
        ("meta-llama/Llama-3.1-8B", 16, 2 * 32 * 1 * 128 * 2),  # fewer heads than ranks: copied
        ("deepseek-ai/DeepSeek-V3", 1, 61 * 576 * 2),
        ("deepseek-ai/DeepSeek-V3", 8, 61 * 576 * 2),  # latent caches are copied
        ("facebook/opt-125m", 1, 2 * 12 * 12 * 64 * 2),
    ],
)
def test_kv_bytes_for_a_token(model: str, ranks: int, expected: int) -> None:
    layout = Layout(ranks, 256, 8192)
    assert kv_bytes_per_token(shape_of(model), layout, tokens=8192) == expected


def test_an_eight_bit_cache_is_half_as_large() -> None:
    layout = Layout(1, 256, 8192)
    small = replace(layout, kv_cache_dtype="fp8")
    assert kv_bytes_per_token(LLAMA, small, tokens=1) * 2 == kv_bytes_per_token(
        LLAMA, layout, tokens=1
    )


def test_layers_with_a_window_keep_no_more_than_it() -> None:
    gemma = shape_of("google/gemma-2-9b")
    layout = Layout(1, 256, 8192)
    short = kv_bytes_per_token(gemma, layout, tokens=1000)
    assert kv_bytes_per_token(gemma, layout, tokens=8192) == pytest.approx(short * 0.75)


def test_weights_are_split_over_ranks_and_kv_heads_copied() -> None:
    assert weight_bytes(LLAMA, 1) == pytest.approx(LLAMA.parameters() * 2, rel=1e-3)
    assert weight_bytes(LLAMA, 8) == pytest.approx(weight_bytes(LLAMA, 1) / 8, rel=1e-2)
    assert kv_heads_per_rank(LLAMA, 16) == 1
    assert weight_bytes(LLAMA, 16) > weight_bytes(LLAMA, 1) / 16 * 1.02


def test_quantized_weights_leave_embeddings_alone() -> None:
    small = with_quantization(LLAMA, "fp8")
    ends = 2 * LLAMA.vocab * LLAMA.hidden * 2
    assert weight_bytes(small, 1) == pytest.approx((weight_bytes(LLAMA, 1) - ends) / 2 + ends, 0.01)
    oss = shape_of("openai/gpt-oss-20b")
    assert weight_bytes(oss, 1) / GIB == pytest.approx(12.8, abs=0.6)


def test_a_known_start_is_met() -> None:
    """An H100 with 0.9 of its memory holds about 430 k tokens of Llama 3.1 8B at 1,024 slots."""
    found = ledger(LLAMA, gpu("h100"), Layout(1, 1024, 8192, memory_share=0.92))
    assert found.kv_tokens == pytest.approx(431_000, rel=0.03)
    assert found.fits
    assert found.weights_bytes / GIB == pytest.approx(14.96, abs=0.05)
    assert 4.9 <= found.reserve_bytes / GIB <= 6.3


def test_small_cards_reserve_less() -> None:
    assert runtime_reserve(gpu("l4")) < runtime_reserve(gpu("l40s")) < runtime_reserve(gpu("h100"))


def test_what_does_not_fit_says_by_how_much() -> None:
    heavy = ledger(shape_of("meta-llama/Llama-3.1-70B"), gpu("h100"), Layout(1, 256, 8192))
    assert not heavy.fits
    assert "more than" in heavy.shortfall()
    long = ledger(LLAMA, gpu("l4"), Layout(1, 256, 131072))
    assert "less than one sequence of max_model_len 131072" in long.shortfall()


def test_the_lines_account_for_the_whole_device() -> None:
    found = ledger(LLAMA, gpu("h100"), Layout(1, 256, 8192))
    assert sum(line.bytes for line in found.lines) == pytest.approx(found.device_bytes, abs=8)


def test_on_a_processor_the_cache_is_what_was_asked_for() -> None:
    cpu = gpus.cpu(4, 32 * GIB)
    found = ledger(shape_of("facebook/opt-125m"), cpu, Layout(1, 64, 2048, kv_cache_bytes=GIB))
    assert found.kv_bytes == GIB
    assert found.fits
    full = ledger(LLAMA, gpus.cpu(4, 16 * GIB), Layout(1, 64, 2048, kv_cache_bytes=GIB))
    assert not full.fits


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(models.known_ids()),
    st.sampled_from(sorted(gpus.all_gpus())),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0.5, 0.95),
    st.integers(8, 1024),
)
def test_more_share_never_lowers_and_more_sequences_never_raise_the_cache(
    model: str, device: str, ranks: int, share: float, sequences: int
) -> None:
    layout = Layout(ranks, sequences, 4096, memory_share=share)
    shape, facts = shape_of(model), gpu(device)
    base = ledger(shape, facts, layout)
    more = ledger(shape, facts, replace(layout, memory_share=min(0.98, share + 0.02)))
    assert more.kv_tokens >= base.kv_tokens
    busier = ledger(shape, facts, replace(layout, max_num_seqs=sequences + 64))
    assert busier.kv_tokens <= base.kv_tokens
    wider = ledger(shape, facts, replace(layout, tensor_parallel=2 * ranks))
    assert wider.weights_bytes <= base.weights_bytes
