"""What fails leaves the recorded state in force, and the next plan goes on from what is there."""

from __future__ import annotations

import json

import pytest

from enova.base.errors import Refused
from enova.effects.drivers.fake import Killed
from enova.stack import desired
from enova.workflows.destroy import plan_destroy
from enova.workflows.wiring import open_named
from tests.workflows.rehearsal import CHAT, EMBED, Rehearsal

CHANGED = CHAT.replace("max-num-seqs: 32", "max-num-seqs: 64")


def refuse(web: Rehearsal, text: str, service: str = "chat") -> None:
    """Let the engine that ``text`` asks for refuse to start."""
    web.write(text)
    planned = web.plan()
    ask = planned.spec.spec
    stack = desired.build(ask, planned.chosen.choices, monitors={"prometheus"})
    found = stack.service(service)
    assert found is not None
    with web.driver.edit() as world:
        world.faults.refuse[found.template.digest] = "no such argument"


def left(web: Rehearsal) -> list[str]:
    """Files below the state folder."""
    return sorted(
        str(path.relative_to(web.folder / "state"))
        for path in (web.folder / "state").rglob("*")
        if path.is_file()
    )


def test_a_failed_apply_keeps_what_was_applied_in_force(web: Rehearsal) -> None:
    web.apply(CHAT)
    before = web.state.read()
    refuse(web, CHANGED)
    applied = web.apply()
    assert applied.outcome.result == "failed"
    after = web.state.read()
    assert after.content_digest == before.content_digest
    assert (after.serial, after.applying, after.counts) == (2, False, before.counts)
    assert web.fields() == {32}
    assert len(web.serving()) == 2
    assert web.tick().plan is not None
    assert web.fields() == {32}


def test_the_journal_tells_what_failed(web: Rehearsal) -> None:
    web.apply(CHAT)
    refuse(web, CHANGED)
    web.apply()
    lines = [json.loads(line) for line in web.state.journal_file.read_text().splitlines()]
    assert any("no such argument" in json.dumps(line) for line in lines)


def test_the_reconciler_returns_half_rolled_out_services_to_the_record(web: Rehearsal) -> None:
    web.apply(CHAT + EMBED)
    both = (CHAT + EMBED).replace("max-num-seqs: 32", "max-num-seqs: 64")
    both = both.replace("max-num-seqs: 16", "max-num-seqs: 8")
    refuse(web, both, "embed")
    assert web.apply().outcome.result == "failed"
    assert web.fields() == {64, 16}, "chat is no reason to hold embed back, nor the other way"
    web.tick()
    assert web.fields() == {32, 16}
    assert web.apply(CHAT + EMBED).plan.is_empty


def test_the_plan_after_a_failure_asks_for_the_rest(web: Rehearsal) -> None:
    web.apply(CHAT)
    refuse(web, CHANGED)
    web.apply()
    with web.driver.edit() as world:
        world.faults.refuse.clear()
    made = web.plan().plan
    assert {(c.address, c.reason.value) for c in made.changes} == {
        ("chat/replica/0", "spec changed"),
        ("chat/replica/1", "spec changed"),
    }
    assert web.apply().outcome.result == "succeeded"
    assert web.plan().plan.is_empty


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_destroy_after_a_failed_first_apply_leaves_only_the_journal(
    web: Rehearsal, at: int
) -> None:
    with web.driver.edit() as world:
        world.faults.fail_at.add(at)
    assert web.apply(CHAT).outcome.result == "failed"
    assert web.state.read().document is None
    web.destroy()
    seen = web.driver.observe()
    assert not seen.instances
    assert not seen.components
    assert left(web) == ["web/journal.jsonl"]


def test_a_failed_first_apply_of_a_protected_service_can_be_destroyed(web: Rehearsal) -> None:
    with web.driver.edit() as world:
        world.faults.fail_at.add(3)
    web.apply(CHAT.replace("scale:", "protect: true\n    scale:"))
    assert web.destroy().outcome.result == "succeeded"


def test_a_gateway_that_cannot_start_leaves_only_a_record_to_destroy(web: Rehearsal) -> None:
    web.write(CHAT)
    gateway = desired.build(
        web.plan().spec.spec, web.plan().chosen.choices, monitors={"prometheus"}
    ).gateway
    assert gateway is not None
    with web.driver.edit() as world:
        world.faults.refuse[gateway.digest] = "the port is taken"
    assert web.apply().outcome.result == "failed"
    web.destroy()
    assert left(web) == ["web/journal.jsonl"]


def test_destroy_leaves_only_the_journal_and_is_empty_the_second_time(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.apply(CHANGED)
    web.tick()
    web.destroy()
    assert left(web) == ["web/journal.jsonl"]
    assert plan_destroy(open_named(web.surroundings, str(web.spec), env="")).is_empty
    with pytest.raises(Refused, match="neither a file"):
        open_named(web.surroundings, "web", env="")
    assert left(web) == ["web/journal.jsonl"]


def test_destroying_what_was_never_applied_is_nothing(web: Rehearsal) -> None:
    web.write(CHAT)
    assert plan_destroy(open_named(web.surroundings, str(web.spec), env="")).is_empty
    assert not (web.folder / "state").exists()


def test_destroy_waits_for_the_lease_and_is_refused_while_it_is_held(web: Rehearsal) -> None:
    web.apply(CHAT)
    with web.here().lease("somebody").acquire(), pytest.raises(Refused, match="somebody"):
        web.destroy()
    assert len(web.serving()) == 2


def test_destroy_that_cannot_reach_a_host_keeps_the_record(web: Rehearsal) -> None:
    web.apply(CHAT)
    with web.driver.edit() as world:
        world.faults.unreachable.add("host-0")
    assert web.destroy().outcome.result == "failed"
    assert web.state.read().document is not None
    with web.driver.edit() as world:
        world.faults.unreachable.clear()
    assert web.destroy().outcome.result == "succeeded"
    assert left(web) == ["web/journal.jsonl"]


def test_a_protected_service_survives_the_deletion_of_its_block(web: Rehearsal) -> None:
    guarded = EMBED.replace("scale:", "protect: true\n    scale:")
    web.apply(CHAT + guarded)
    with pytest.raises(Refused, match="embed: it is protected"):
        web.apply(CHAT)
    web.apply(CHAT + EMBED)
    web.apply(CHAT)
    assert web.serving("embed") == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 13))
def test_an_apply_killed_anywhere_is_finished_or_taken_back(
    web: Rehearsal, at: int, after: bool
) -> None:
    web.apply(CHAT)
    with web.driver.edit() as world:
        world.faults.kill_at, world.faults.kill_after = world.count + at, after
    with pytest.raises(Killed):
        web.apply(CHANGED)
    assert web.state.read().applying
    assert web.apply(CHANGED).outcome.result == "succeeded"
    assert web.fields() == {64}
    assert not web.state.read().applying
    assert web.plan().plan.is_empty
    assert not web.driver.to_world()["stopped_while_joined"]


@pytest.mark.parametrize("at", range(1, 13))
def test_the_reconciler_takes_back_what_a_killed_apply_began(web: Rehearsal, at: int) -> None:
    web.apply(CHAT)
    with web.driver.edit() as world:
        world.faults.kill_at = world.count + at
    with pytest.raises(Killed):
        web.apply(CHANGED)
    for _ in range(2):
        assert web.tick().problem == ""
    assert web.fields() == {32}
    assert len(web.serving()) == 2
