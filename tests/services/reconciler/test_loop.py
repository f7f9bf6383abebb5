"""The loop beside people and failures: what it goes by, what ends it, what it leaves."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from enova.effects.clock import ManualClock
from enova.effects.execute import StopFlag
from enova.services.reconciler import loop
from enova.stack.events import ActionStarted, Event
from enova.stack.observed import State
from tests.workflows.rehearsal import CHAT, EMBED, Rehearsal, hosts


@pytest.fixture
def web(tmp_path: Path) -> Rehearsal:
    """Two chat replicas, applied."""
    made = Rehearsal(tmp_path, hosts(8))
    made.apply(CHAT)
    return made


def parts(web: Rehearsal, tell: object = None, emit: object = None) -> loop.Parts:
    return loop.Parts(
        web.signals,
        emit if callable(emit) else lambda _: None,
        tell if callable(tell) else lambda _: None,
        lambda: None,
    )


def kill_one(web: Rehearsal, service: str = "chat") -> None:
    with web.driver.edit() as world:
        found = (i for i in world.instances.values() if i.address.startswith(service))
        next(found).exit("killed by signal 9")


def test_it_goes_by_the_record_and_never_reads_the_spec(web: Rehearsal) -> None:
    web.write("this is no spec: [")
    kill_one(web)
    report = web.tick()
    assert report.problem == ""
    assert len(web.serving()) == 2


def test_it_leaves_a_tick_out_while_somebody_else_applies(web: Rehearsal) -> None:
    kill_one(web)
    with web.here().lease("enova apply").acquire():
        report = web.tick()
    assert "enova apply" in report.problem
    assert not report.ended
    assert web.state.read_memory() is not None, "what it saw is remembered all the same"
    assert len(web.serving()) == 1
    assert web.tick().problem == ""
    assert len(web.serving()) == 2


def test_a_plan_made_before_an_apply_is_not_carried_out(web: Rehearsal) -> None:
    here = web.here()
    web.signals.rates["chat"] = 10_000.0
    read = web.signals.read

    def apply_meanwhile(applied: object, observed: object) -> object:
        web.apply(CHAT.replace("max: 6", "max: 3"))
        return read(applied, observed)  # type: ignore[arg-type]  # handed on as it came

    web.signals.read = apply_meanwhile  # type: ignore[method-assign,assignment]  # for one look
    report = web.tick(here)
    web.signals.read = read  # type: ignore[method-assign]  # as it was
    assert "applied meanwhile" in report.problem
    assert len(web.serving()) == 2
    web.tick(here)
    assert len(web.serving()) == 3


def test_a_destroyed_stack_ends_it_and_nothing_is_left(web: Rehearsal) -> None:
    here = web.here()
    read = web.signals.read

    def destroy_meanwhile(applied: object, observed: object) -> object:
        web.destroy()
        here.state.run_folder.mkdir()
        (here.state.run_folder / "samples.json").write_text("{}")
        return read(applied, observed)  # type: ignore[arg-type]  # handed on as it came

    web.signals.read = destroy_meanwhile  # type: ignore[method-assign,assignment]  # for one look
    kill_one(web)
    reports: list[loop.Report] = []
    loop.run(here, parts(web, reports.append), stop=StopFlag(), interval_s=0.0)
    assert [report.ended for report in reports] == [False, True]
    assert not web.driver.observe().instances
    left = [p.name for p in web.state.folder.rglob("*")]
    assert left == ["journal.jsonl"]


def test_it_notices_another_pool(web: Rehearsal) -> None:
    here, stop = web.here(), StopFlag()
    web.apply(CHAT + "pool: {on_lost_host: replace}\n")
    web.opened.clear()
    loop.run(here, parts(web, lambda _: stop.request()), stop=stop, interval_s=0.0)
    assert [pool.on_lost_host for pool in web.opened] == ["replace"]


def test_losing_the_lease_ends_the_tick_and_not_the_loop(web: Rehearsal) -> None:
    kill_one(web)
    web.surroundings = replace(web.surroundings, clock=ManualClock(automatic=True))
    here, stop = web.here(), StopFlag()

    def lose(event: Event) -> None:
        if isinstance(event, ActionStarted):
            here.lease("x").release(here.lease("x").status().token, force=True)
            for thread in threading.enumerate():
                if thread.name == "lease":
                    thread.join(60)

    report = loop.once(here, parts(web, emit=lose), stop=stop)
    assert "lost" in report.problem
    assert not stop.requested
    assert web.tick().problem == ""
    assert len(web.serving()) == 2


def test_damaged_memory_does_not_keep_it_from_healing(web: Rehearsal) -> None:
    web.state.memory_file.write_text("{")
    kill_one(web)
    assert web.tick().problem == ""
    assert len(web.serving()) == 2
    assert web.state.read_memory() is not None


def test_a_service_at_zero_wakes_up_when_requests_arrive(tmp_path: Path) -> None:
    zero = CHAT.replace("scale: {min: 2, max: 6, hold: 0s}", "scale: {to_zero: true, max: 4}")
    web = Rehearsal(tmp_path, hosts(8))
    web.apply(zero)
    record = web.state.read()
    with web.here().lease("test").acquire() as held:
        web.state.write(
            type(record)(**{**vars(record), "counts": {"chat": 0}, "serial": record.serial}), held
        )
    web.apply(zero)
    assert web.serving() == []
    assert web.plan().plan.is_empty
    web.tick()
    assert web.serving() == [], "nobody asked"
    web.signals.rates["chat"] = 0.5
    report = web.tick()
    assert web.serving() == ["chat/replica/0"]
    assert report.plan is not None
    assert [c.reason.value for c in report.plan.changes] == ["scaled"]
    assert "requests/s" in report.plan.changes[0].detail


def test_what_was_ordered_is_recorded_though_another_service_fails(tmp_path: Path) -> None:
    web = Rehearsal(tmp_path, hosts(8))
    web.apply(CHAT + EMBED)
    kill_one(web, "embed")
    digest = next(i.digest for i in web.driver.observe().instances if i.address.startswith("embed"))
    with web.driver.edit() as world:
        world.faults.refuse[digest] = "no such argument"
    web.signals.rates["chat"] = 10_000.0
    report = web.tick()
    assert (report.result, report.problem) == ("failed", "no such argument")
    assert len(web.serving()) == 6
    assert web.state.read().counts == {"chat": 6, "embed": 1}
    assert not web.state.read().applying


def test_decisions_are_journaled_with_their_numbers(web: Rehearsal) -> None:
    web.signals.rates["chat"] = 10_000.0
    web.tick()
    lines = [json.loads(line) for line in web.state.journal_file.read_text().splitlines()]
    (decision,) = [line for line in lines if line["kind"] == "decision"]
    assert "10000" in json.dumps(decision) or "1e+04" in json.dumps(decision)


def test_a_dead_gateway_comes_back_with_its_members(web: Rehearsal) -> None:
    members = web.driver.observe().members
    with web.driver.edit() as world:
        for component in world.components.values():
            if component.address == "gateway":
                component.state = State.EXITED
    assert web.tick().problem == ""
    seen = web.driver.observe()
    assert [c.state for c in seen.components if c.address == "gateway"] == [State.SERVING]
    assert seen.members == members
