"""Command lines and environments of engines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enova.stack.observed import Placement
from enova.stack.render import engine
from enova.stack.resources import Needs, ReplicaTemplate, Scalar

TEMPLATE = ReplicaTemplate(
    service="chat",
    engine="vllm",
    engine_version="0.32.0",
    executable="",
    model="/models/tiny",
    served_name="tiny",
    args=(("enforce-eager", True), ("max-model-len", 1024)),
    env=(("HF_HUB_OFFLINE", "1"),),
    secret_env=(),
    needs=Needs(None, 0, 2, 0),
)
CPU = Placement("local", cores=(0, 1))


def command(*args: tuple[str, Scalar], **more: str) -> tuple[str, ...]:
    template = replace(TEMPLATE, args=args, **more)  # type: ignore[arg-type]  # fields by name
    return engine.command(template, program=("vllm", "serve"), host="127.0.0.1", port=20123)


def test_the_whole_command() -> None:
    words = engine.command(TEMPLATE, program=("vllm", "serve"), host="127.0.0.1", port=20123)
    assert " ".join(words) == (
        "vllm serve /models/tiny --enforce-eager --max-model-len 1024 "
        "--served-model-name tiny --host 127.0.0.1 --port 20123"
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, ["--flag"]),
        (False, ["--no-flag"]),
        (None, []),
        (0, ["--flag", "0"]),
        (0.5, ["--flag", "0.5"]),
        ("a b", ["--flag", "a b"]),
        ('{"a": 1}', ["--flag", '{"a": 1}']),
        ("--other", ["--flag=--other"]),
        (-1, ["--flag=-1"]),
        ("", ["--flag", ""]),
    ],
)
def test_one_argument(value: Scalar, words: list[str]) -> None:
    assert list(command(("flag", value))[3:-6]) == words


def test_where_it_listens_cannot_be_overridden() -> None:
    words = command(("port", 1), ("host", "0.0.0.0"), ("served-model-name", "x"))
    assert words[-6:] == (
        "--served-model-name",
        "tiny",
        "--host",
        "127.0.0.1",
        "--port",
        "20123",
    )


def test_another_port_changes_the_last_word() -> None:
    assert engine.at_port(command(), 7)[:-1] == command()[:-1]
    assert engine.at_port(command(), 7)[-1] == "7"


@pytest.mark.parametrize("flag", ["", "-x", "a b", "a=b", "x;y", "--flag", "ä"])
def test_what_is_no_flag_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match="is not the name of an engine argument"):
        command((flag, 1))


def test_a_model_that_looks_like_a_flag_is_refused() -> None:
    with pytest.raises(ValueError, match="begin with a dash"):
        command(model="--trust-remote-code")


def test_gpus_are_pinned_in_the_drivers_order() -> None:
    values = engine.environment(TEMPLATE, Placement("local", gpus=(2, 3)))
    assert values["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert values["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "OMP_NUM_THREADS" not in values


def test_without_gpus_none_is_visible_and_threads_are_counted() -> None:
    values = engine.environment(TEMPLATE, CPU)
    assert values["CUDA_VISIBLE_DEVICES"] == ""
    assert values["OMP_NUM_THREADS"] == "2"
    assert values["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert values["HF_HUB_OFFLINE"] == "1"
    assert list(values) == sorted(values)


def test_the_spec_wins_except_over_the_devices() -> None:
    mine = (("OMP_NUM_THREADS", "9"), ("DO_NOT_TRACK", "0"), ("CUDA_VISIBLE_DEVICES", "7"))
    values = engine.environment(replace(TEMPLATE, env=mine), CPU)
    assert (values["OMP_NUM_THREADS"], values["DO_NOT_TRACK"]) == ("9", "0")
    assert values["CUDA_VISIBLE_DEVICES"] == ""


def test_the_emulator_gets_none_of_vllms_switches() -> None:
    values = engine.environment(
        replace(TEMPLATE, engine="emulator", engine_version="1", env=()), CPU
    )
    assert values == {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
