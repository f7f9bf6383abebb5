"""Every number a plan prints stands in its JSON, at most in another unit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from enova.capacity.inventory import from_plain
from enova.cli.views.recommendation import recommendation_lines
from enova.effects.clock import ManualClock
from enova.effects.drivers.fake import World
from enova.stack.document import plan_from_json, plan_to_json
from enova.stack.plan import Plan
from enova.workflows.loading import Source
from enova.workflows.lock import lock
from enova.workflows.plan import plan
from enova.workflows.wiring import Surroundings
from tests.transcript.session import POOL, WatchedDriver

SPEC = """
version: 1
name: shop
services:
  chat:
    model: Qwen/Qwen2.5-7B-Instruct
    traffic: {peak: 7/s, input_tokens: {p50: 300, p95: 1200}, output_tokens: 133}
    goals: {ttft: {p95: 611ms, p99: 1s}, itl: 55ms, attainment: 93.7%, success_rate: 99.95%}
  embed:
    model: Qwen/Qwen2.5-0.5B-Instruct
    engine: emulator
    traffic: {peak: 90/min}
pool:
  hosts: [{name: gpu-a, devices: [{gpu: h100-sxm-80gb, count: 4}]}]
"""

SCALES = (1, 1e3, 1e-3, 60, 100, 2**-30, 2**-20)
"""Units a number may be printed in: ms, per minute, percent, GiB, MiB."""

WORDS = r"p\d\d|tp\d+|h100|80gb|[A-Z]\w*/[\w.\-]+|x\d+\b|\d+\.\d+\.\d+"
"""Names that have digits in them; a label's count is the row's replicas."""


def numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield float(value)
    elif isinstance(value, str):
        yield from (float(found) for found in re.findall(r"\d+(?:\.\d+)?", value))
    elif isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)


def told(value: float, digits: str) -> bool:
    """Whether a printed number is ``value`` in one of the units, rounded as printed."""
    places = len(digits.partition(".")[2])
    shown = float(digits)
    return any(
        abs(shown - value * scale) <= 0.5 * 10**-places + 1e-9 * abs(shown)
        or (value and f"{value * scale:.3g}" == f"{shown:.3g}")
        for scale in SCALES
    )


def surroundings(folder: Path) -> Surroundings:
    driver = WatchedDriver(World(inventory=from_plain(POOL)))
    return Surroundings(
        {"ENOVA_STATE_DIR": str(folder / "state")}, ManualClock(), lambda *_, **__: driver
    )


def planned(folder: Path, *, locked: bool) -> Plan:
    path = folder / "shop.enova.yaml"
    path.write_text(SPEC)
    if locked:
        lock(Source(str(path)), surroundings(folder), upgrade=False, check=False)
    return plan(Source(str(path)), surroundings(folder)).plan


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("verbose", [False, True])
def test_every_number_printed_is_in_the_json(tmp_path: Path, locked: bool, verbose: bool) -> None:
    made = planned(tmp_path, locked=locked)
    known = sorted(set(numbers_in(json.loads(plan_to_json(made)))))
    lines = [line.text for line in recommendation_lines(made, verbose=verbose)]
    assert any("predicted at" in line for line in lines)
    assert any("emulated at" in line for line in lines)
    for line in lines:
        for digits in re.findall(r"\d+(?:\.\d+)?", re.sub(WORDS, " ", line)):
            assert any(told(value, digits) for value in known), f"{digits} in: {line}"


def test_a_saved_plan_shows_the_same(tmp_path: Path) -> None:
    made = planned(tmp_path, locked=False)
    again = plan_from_json(plan_to_json(made))
    assert recommendation_lines(again) == recommendation_lines(made)


def test_the_check_itself_can_fail() -> None:
    assert told(0.611, "611")
    assert not told(0.611, "612")
    assert not told(16106127360.0, "15.1")
