"""What the command line takes and what it refuses."""

from __future__ import annotations

import pytest

from enova.capacity.perf.point import LinearStepTime
from enova.services.emulator.arguments import parse
from enova.services.emulator.process import run


def test_takes_vllm_spelling_with_underscores_and_unit_letters() -> None:
    config = parse(["tiny", "--max_model_len=2K", "--max-num-seqs", "4", "--kv-blocks", "1k"])
    assert config.limits.max_model_len == 2048
    assert config.limits.max_num_seqs == 4
    assert config.limits.kv_blocks == 1000


def test_served_names_default_to_the_model() -> None:
    assert parse(["some/model"]).names == ("some/model",)
    named = parse(["--model", "some/model", "--served-model-name", "a", "b"])
    assert named.names == ("a", "b")
    assert named.model == "some/model"


def test_a_flag_of_the_step_law_wins_over_its_json() -> None:
    config = parse(["m", "--step-law", '{"base": 0.5, "per_decode": 0.1}', "--step-base", "0.25"])
    assert config.law == LinearStepTime(
        base=0.25,
        per_prefill_token=parse(["m"]).law.per_prefill_token,
        per_decode=0.1,
        per_context_token=parse(["m"]).law.per_context_token,
    )


def test_flags_for_real_engines_are_reported_as_without_effect() -> None:
    config = parse(["m", "--enforce-eager", "--gpu-memory-utilization", "0.9"])
    assert config.without_effect == ("--enforce-eager", "--gpu-memory-utilization")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["m", "--no-such-flag"], "--no-such-flag"),
        (["m", "--max-num-seqs", "many"], "--max-num-seqs"),
        (["m", "--max-num-seqs", "0"], "--max-num-seqs"),
        (["m", "--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization"),
        (["m", "--step-law", '{"speed": 1}'], "--step-law"),
        (["m", "--step-law", "fast"], "--step-law"),
        (["m", "--custom-histogram-buckets", '{"time_to_first_token": [2, 1]}'], "increase"),
        (["m", "--time-scale", "0"], "--time-scale"),
        ([], "model"),
    ],
)
def test_refuses_with_code_2_and_a_line_that_names_it(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_limits_an_engine_would_refuse_end_with_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["m", "--kv-blocks", "4", "--max-model-len", "4096"]) == 1
    assert "max_model_len (4096)" in capsys.readouterr().err
