"""A status says what is unknown instead of showing zero, and who holds what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from enova.capacity.inventory import from_plain
from enova.cli.views.status import status_document, status_lines
from enova.effects.clock import ManualClock
from enova.effects.drivers.fake import World
from enova.effects.state.lease import Holder, LeaseStatus
from enova.effects.stop import StopFlag
from enova.policy.signals import ReplicaSignals, Signals
from enova.stack.observed import Observed, State
from enova.stack.plan import Ask
from enova.workflows.apply import carry_out
from enova.workflows.loading import Source
from enova.workflows.plan import plan
from enova.workflows.status import Status, status
from enova.workflows.wiring import Site, Surroundings
from tests.transcript.session import POOL, START, WatchedDriver

SPEC = """
version: 1
name: shop
services:
  chat:
    model: Qwen/Qwen2.5-7B-Instruct
    traffic: {peak: 5/s}
    scale: {min: 2}
    goals: {ttft: {p95: 400ms, p99: 1s}, tpot: 40ms, itl: 50ms, e2e: 9s, attainment: 99%}
pool: {hosts: [{name: gpu-a, devices: [{gpu: h100-sxm-80gb, count: 4}]}]}
"""


@pytest.fixture
def here(tmp_path: Path) -> Site:
    path = tmp_path / "shop.enova.yaml"
    path.write_text(SPEC)
    driver = WatchedDriver(World(inventory=from_plain(POOL)))
    around = Surroundings(
        {"ENOVA_STATE_DIR": str(tmp_path / "state")}, ManualClock(START), lambda *_, **__: driver
    )
    planned = plan(Source(str(path)), around)
    carry_out(
        planned.plan,
        planned.site,
        emit=lambda event: None,
        stop=StopFlag(),
        command="enova apply",
        wait_s=0,
    )
    return planned.site


def looked(here: Site, **numbers: float) -> Status:
    def signals(applied: Ask, observed: Observed) -> Mapping[str, Signals]:
        own = {one.id: ReplicaSignals(running=3) for one in observed.instances}
        return {
            "chat": Signals(
                at_s=START, window_s=30.0, source="scrape", replicas=own, notes=("why",), **numbers
            )
        }

    return status(here, signals)


def text(now: Status) -> str:
    return "\n".join(line.text for line in status_lines(now, "shop", ""))


def test_known_and_unknown_numbers(here: Site) -> None:
    shown = text(looked(here, arrival_rate=4.9, success_rate=1.0, ttft_p95=0.12, waiting=0.0))
    assert "stack shop on target process, apply 1" in shown
    assert "chat  2 of 2 ordered serving  http://127.0.0.1:9199/chat/v1" in shown
    assert "last 30 s, from scrape: arrivals 4.9/s, success 100 %, waiting 0, TTFT p95 120 ms" in (
        shown
    )
    assert "not known: running, ITL p95, e2e p95, KV cache used, tokens" in shown
    assert "    why" in shown
    assert "3 running" in shown


def test_each_replica_with_its_place_and_weight(here: Site) -> None:
    driver = here.driver
    assert isinstance(driver, WatchedDriver)
    with driver.edit() as world:
        first, second = sorted(world.instances.values(), key=lambda one: one.address)
        first.tampered.append("nice level 10")
        second.exit("killed by signal 9")
        members = world.members["chat"]
        members[first.id] = replace(members[first.id], draining=True)
        del members[second.id]
    lines = [line for line in status_lines(looked(here), "shop", "") if "chat/replica" in line.text]
    assert "serving" in lines[0].text
    assert "draining" in lines[0].text
    assert lines[0].text.endswith("nice level 10")
    assert "exited" in lines[1].text
    assert "not behind the gateway" in lines[1].text
    assert lines[1].text.endswith("killed by signal 9")
    assert (lines[0].colour, lines[1].colour) == ("green", "red")


def test_who_changes_it_now(here: Site) -> None:
    holder = Holder("ada", "laptop", 7, "1", "enova apply")
    now = replace(looked(here), lease=LeaseStatus("held", 3, holder))
    assert "being changed by ada@laptop (pid 7, enova apply)" in text(now)


def test_an_interrupted_apply_shows(here: Site) -> None:
    now = looked(here)
    now = replace(now, record=replace(now.record, applying=True))
    assert "an apply was interrupted: run enova plan" in text(now)


def test_a_missing_gateway_and_a_silent_host_show(here: Site) -> None:
    now = looked(here)
    observed = replace(now.observed, components=(), unreachable_hosts=("gpu-a",))
    shown = text(replace(now, observed=observed))
    assert "gateway  does not run" in shown
    assert "gpu-a does not answer: what runs there is unknown." in shown


def test_the_document_has_everything(here: Site) -> None:
    document = status_document(looked(here, arrival_rate=4.9), "shop", "")
    assert document["schema"] == 1
    assert document["endpoints"] == {"chat": "http://127.0.0.1:9199/chat/v1"}
    instances = document["instances"]
    assert isinstance(instances, list)
    assert {one["state"] for one in instances} == {State.SERVING.value}


def test_each_goal_is_set_against_what_is_measured(here: Site) -> None:
    shown = text(looked(here, success_rate=0.99899, ttft_p95=0.12, itl_p95=0.06))
    assert (
        "  goals missed: ITL p95 60 ms (goal: at most 50 ms), "
        "success rate 99.899 % (goal: at least 99.9 %)\n"
        "  goals met: TTFT p95 120 ms (goal: at most 400 ms)\n"
        "  goals not known: E2E p95 (goal: at most 9 s)\n"
        "  goals not measured: TTFT p99 (goal: at most 1 s: measured at p95 only), TPOT p95 ("
    ) in shown
    assert "attainment (goal: at least 99 %: engines report each latency by itself" in shown


def test_a_missed_goal_is_red_and_a_met_one_green(here: Site) -> None:
    lines = status_lines(looked(here, success_rate=0.5, ttft_p95=0.4), "shop", "")
    colours = {line.text.split(":")[0].strip(): line.colour for line in lines}
    assert colours["goals missed"] == "red"
    assert colours["goals met"] == "green"
    assert colours["goals not known"] == "yellow"


def test_without_signals_no_goal_is_met_or_missed(here: Site) -> None:
    now = status(here, lambda applied, observed: {})
    assert {one.verdict for one in now.goals["chat"]} == {"not known", "not measured"}
    assert all(one.measured is None for one in now.goals["chat"])


def test_the_document_has_each_goal_with_its_numbers(here: Site) -> None:
    document = status_document(looked(here, success_rate=0.9, ttft_p95=0.12), "shop", "")
    goals = document["goals"]
    assert isinstance(goals, dict)
    by_name = {one["goal"]: one for one in goals["chat"]}
    assert by_name["success_rate"] == {
        "goal": "success_rate",
        "unit": "share",
        "asked": 0.999,
        "measured": 0.9,
        "verdict": "missed",
        "why": "",
    }
    assert (by_name["ttft_p95"]["measured"], by_name["ttft_p95"]["verdict"]) == (0.12, "met")
    assert by_name["ttft_p99"]["verdict"] == "not measured"
    assert set(by_name) == {
        "ttft_p95",
        "ttft_p99",
        "tpot_p95",
        "itl_p95",
        "e2e_p95",
        "attainment",
        "success_rate",
    }
