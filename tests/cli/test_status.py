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
services: {chat: {model: Qwen/Qwen2.5-7B-Instruct, traffic: {peak: 5/s}, scale: {min: 2}}}
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
