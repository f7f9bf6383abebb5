"""The catalog's facts are found under the names people use, and add up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from enova.capacity.catalog import data, engines, gpus, models, prices
from enova.capacity.catalog.config import read_config
from enova.capacity.catalog.shape import with_quantization

LLAMA = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
    "torch_dtype": "float32",
}


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.494),
        ("Qwen/Qwen2.5-7B-Instruct", 7.616),
        ("Qwen/Qwen3-30B-A3B", 30.53),
        ("Qwen/Qwen3-8B", 8.191),
        ("deepseek-ai/DeepSeek-V2-Lite", 15.71),
        ("deepseek-ai/DeepSeek-V3", 671.0),
        ("facebook/opt-125m", 0.1252),
        ("google/gemma-2-9b-it", 9.242),
        ("meta-llama/Llama-3.1-70B-Instruct", 70.55),
        ("meta-llama/Llama-3.1-8B", 8.030),
        ("meta-llama/Llama-3.2-1B", 1.236),
        ("microsoft/phi-4", 14.66),
        ("mistralai/Mistral-7B-v0.3", 7.248),
        ("mistralai/Mixtral-8x7B-v0.1", 46.70),
        ("openai/gpt-oss-120b", 116.8),
        ("openai/gpt-oss-20b", 20.91),
    ],
)
def test_the_parameters_add_up_to_the_published_count(model: str, billions: float) -> None:
    shape = models.find(model)
    assert shape is not None
    assert shape.parameters() / 1e9 == pytest.approx(billions, rel=2e-3)


def test_active_parameters_are_those_one_token_passes() -> None:
    shape = models.find("Qwen/Qwen3-30B-A3B")
    assert shape is not None
    assert shape.active_parameters() / 1e9 == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize(
    "spelling", ["h100-sxm-80gb", "H100-SXM-80GB", "NVIDIA H100 80GB HBM3", "H100", "h100_sxm_80gb"]
)
def test_a_gpu_is_found_under_every_spelling(spelling: str) -> None:
    facts = gpus.find(spelling)
    assert facts is not None
    assert facts.name == "h100-sxm-80gb"


def test_every_gpu_has_usable_memory_below_the_reported_one() -> None:
    for facts in gpus.all_gpus().values():
        assert 0.95 * facts.memory_bytes < facts.usable_bytes < facts.memory_bytes
        assert prices.price_of(facts.name) is not None


def test_a_gpu_with_other_memory_keeps_what_the_driver_takes() -> None:
    facts = gpus.find("h100")
    assert facts is not None
    smaller = gpus.with_memory(facts, 64 * 2**30)
    assert smaller.memory_bytes - smaller.usable_bytes == facts.memory_bytes - facts.usable_bytes


def test_own_prices_win() -> None:
    own = prices.price_of("h100", {"H100-SXM-80GB": 1.5})
    assert own is not None
    assert (own.usd_per_hour, own.source) == (1.5, "your pool.prices")
    assert prices.price_of("cpu") is None


def test_an_unknown_model_says_what_to_do() -> None:
    message, hint = models.unknown("meta-llama/Llama-3.1-8B-Instuct")
    assert "Instuct" in message
    assert 'Did you mean "meta-llama/Llama-3.1-8B-Instruct"' in hint
    assert "path of its folder" in models.unknown("a/b")[1]
    assert models.find("a/b") is None


@pytest.mark.parametrize(
    ("version", "kv", "itl", "tpot"),
    [
        ("0.8.5", "vllm:gpu_cache_usage_perc", "vllm:time_per_output_token_seconds", None),
        ("0.9.2", "vllm:kv_cache_usage_perc", "vllm:time_per_output_token_seconds", None),
        (
            "0.32.0+cpu",
            "vllm:kv_cache_usage_perc",
            "vllm:inter_token_latency_seconds",
            "vllm:request_time_per_output_token_seconds",
        ),
        (
            "9.0.0",
            "vllm:kv_cache_usage_perc",
            "vllm:inter_token_latency_seconds",
            "vllm:request_time_per_output_token_seconds",
        ),
    ],
)
def test_metric_names_follow_the_version(version: str, kv: str, itl: str, tpot: str | None) -> None:
    metrics = engines.facts("vllm", version).metrics
    assert (metrics["kv_usage"], metrics["itl"], metrics.get("tpot")) == (kv, itl, tpot)


def test_the_emulator_speaks_like_the_newest_vllm() -> None:
    emulator, vllm = engines.facts("emulator"), engines.facts("vllm", "0.32.0")
    assert emulator.metrics == vllm.metrics
    assert emulator.version == "1"
    assert vllm.flags["shutdown_timeout"] == "shutdown-timeout"
    assert "shutdown_timeout" not in engines.facts("vllm", "0.11.0").flags


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [("sglang", None, "not known"), ("vllm", "0.5.0", "older"), ("vllm", "new", "not an engine")],
)
def test_unknown_engines_are_refused(name: str, version: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        engines.facts(name, version)


def test_a_config_is_read_in_its_many_spellings() -> None:
    plain = read_config(LLAMA)
    assert (plain.kv_heads, plain.head_dim, plain.dtype_bytes, plain.gated) == (4, 64, 4, True)
    assert read_config({"text_config": LLAMA, "model_type": "llava"}).layers == 8
    falcon = read_config(
        {
            "model_type": "falcon",
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "multi_query": True,
            "vocab_size": 65024,
            "max_position_embeddings": 2048,
        }
    )
    assert (falcon.kv_heads, falcon.gated, falcon.intermediate) == (1, False, 4 * 4544)
    gpt2 = read_config(
        {
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        }
    )
    assert gpt2.parameters() / 1e6 == pytest.approx(124.4, rel=2e-3)


def test_a_config_that_lacks_keys_names_all_of_them() -> None:
    with pytest.raises(ValueError, match=r"hidden_size.*vocab_size"):
        read_config({"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 2})


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "mxfp4"}, 4.25),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "float"},
                        "input_activations": {"num_bits": 8, "type": "float"},
                    }
                },
            },
            8.0,
        ),
    ],
)
def test_quantized_weights_have_their_bits(config: dict[str, object], bits: float) -> None:
    shape = read_config({**LLAMA, "quantization_config": config})
    assert shape.quantization is not None
    assert shape.quantization.bits == pytest.approx(bits)


def test_a_quantization_the_checkpoint_does_not_have_is_refused() -> None:
    shape = read_config(LLAMA)
    assert with_quantization(shape, "fp8").quantization is not None
    with pytest.raises(ValueError, match="needs a checkpoint made with it"):
        with_quantization(shape, "awq")
    stored = read_config({**LLAMA, "quantization_config": {"quant_method": "awq"}})
    assert with_quantization(stored, "awq_marlin") == stored
    with pytest.raises(ValueError, match="stored as awq"):
        with_quantization(stored, "fp8")


def test_windows_count_only_where_the_family_uses_them() -> None:
    gemma, qwen = models.find("google/gemma-2-9b"), models.find("Qwen/Qwen2.5-7B-Instruct")
    assert gemma is not None and qwen is not None
    assert (gemma.sliding_layers, gemma.sliding_window) == (21, 4096)
    assert (qwen.sliding_layers, qwen.sliding_window) == (0, None)
    off = read_config({**LLAMA, "model_type": "qwen2", "sliding_window": 131072})
    assert off.sliding_layers == 0


def test_the_catalog_has_a_version() -> None:
    assert len(data.version()) == 16


def test_looking_things_up_does_not_load_numerical_libraries() -> None:
    code = (
        "import sys; import enova.capacity.sizing.recommend, enova.capacity.catalog.models; "
        "sys.exit(bool({'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
