"""The real parts are what the scenarios take them for, and a missing one is never silent."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import survivors
from tests.parts import real


@pytest.fixture
def bringing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`scripts/real_parts.py`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("real_parts", real.ROOT / "scripts/real_parts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "real_parts", module)  # where its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def report(folder: Path, text: str) -> None:
    (folder / "real-parts.json").write_text(text, encoding="utf-8")


def test_a_missing_part_skips_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(real, "CACHE", tmp_path)
    monkeypatch.delenv("ENOVA_REQUIRE_REAL", raising=False)
    report(tmp_path, '{"vllm": {"path": null, "version": null, "reason": "no wheel"}}')
    with pytest.raises(pytest.skip.Exception, match="no vllm: no wheel"):
        real.vllm_binary()


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("docker compose", pytest.skip.Exception),
        ("image vllm", pytest.skip.Exception),
        ("vllm", pytest.fail.Exception),
        ("prometheus", pytest.fail.Exception),
    ],
)
def test_without_an_engine_only_what_needs_containers_is_skipped(
    monkeypatch: pytest.MonkeyPatch, part: str, error: type[BaseException]
) -> None:
    monkeypatch.setenv("ENOVA_REQUIRE_REAL", "1")
    monkeypatch.setenv("ENOVA_WITHOUT_CONTAINERS", "1")
    with pytest.raises(error, match=f"no {part}: gone"):
        real.unavailable(part, "gone")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"vllm": {"path": null, "version": null, "reason": "no wheel"}}', "no wheel"),
        ('{"vllm": {"path": "/nowhere/vllm", "version": "1", "reason": null}}', "is gone"),
        ("{}", "knows no such part"),
        (None, "was not run"),
    ],
)
def test_where_real_parts_are_required_a_missing_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, reason: str
) -> None:
    monkeypatch.setattr(real, "CACHE", tmp_path)
    monkeypatch.setenv("ENOVA_REQUIRE_REAL", "1")
    if text is not None:
        report(tmp_path, text)
    with pytest.raises(pytest.fail.Exception, match=reason):
        real.vllm_binary()


def test_what_cannot_be_brought_is_reported_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, bringing: ModuleType
) -> None:
    def bring() -> dict[str, object]:
        raise bringing.Missing("no such wheel here")

    monkeypatch.setattr(bringing, "BRINGERS", {("engine", "its tool"): bring})
    parts = bringing.bring_all()
    assert {name: (part.path, part.reason) for name, part in parts.items()} == {
        "engine": (None, "no such wheel here"),
        "its tool": (None, "no such wheel here"),
    }


def test_the_reason_is_the_last_error_line_of_the_command_that_failed(
    bringing: ModuleType,
) -> None:
    complaint = "echo 'ERROR: first' >&2; echo 'ERROR: No such thing' >&2; echo bye >&2; exit 3"
    with pytest.raises(bringing.Missing, match="ERROR: No such thing"):
        bringing.run(["sh", "-c", complaint])


def test_a_machine_without_a_python_is_told_what_to_install(tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    script = (real.ROOT / "scripts" / "find-python").read_text(encoding="utf-8")
    done = subprocess.run(
        [shell, "-c", script.replace("/usr/bin/python3.11", "")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "apt-get install python3.11 python3.11-venv" in done.stderr


def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    fake = tmp_path / "python3"
    fake.write_text(
        '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *print*) echo 3.12;; esac\n',
        encoding="utf-8",
    )
    fake.chmod(0o755)
    script = (real.ROOT / "scripts" / "find-python").read_text(encoding="utf-8")
    done = subprocess.run(
        [shell, "-c", script.replace("/usr/bin/python3.11", "")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "apt-get install python3.12-venv" in done.stderr


@pytest.mark.vllm
def test_the_small_model_has_21_million_parameters(tiny_model: Path) -> None:
    with (tiny_model / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    assert round(sum(math.prod(shape) for shape in shapes) / 1e6) == 21


@pytest.mark.vllm
def test_the_tokenizer_of_the_small_model_fills_its_vocabulary(tiny_model: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((tiny_model / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(tokenizer["model"]["vocab"]) == config["vocab_size"]


@pytest.mark.real
@pytest.mark.parametrize("part", ["prometheus", "promtool"])
def test_prometheus_and_its_tool_run(part: str) -> None:
    path = real.part_binary(part)
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{part}, version")


@pytest.mark.real
def test_envoy_runs() -> None:
    done = subprocess.run(
        [real.envoy_binary(), "--version"], capture_output=True, text=True, check=True
    )
    assert "version" in done.stdout


def test_the_parts_are_found_on_path_where_a_test_asks_for_it(parts_on_path: Path) -> None:
    assert os.environ["PATH"].split(os.pathsep)[0] == str(parts_on_path)


def test_a_process_that_a_test_left_behind_is_seen() -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as left:
        try:
            assert left.pid in {process.pid for process in survivors()}
        finally:
            left.kill()
    assert left.pid not in {process.pid for process in survivors()}
