"""The monitoring part alone: stopped it stays stopped, whoever plans; nothing else is touched."""

from __future__ import annotations

import json
from typing import Literal

import pytest

from enova.base.digest import digest
from enova.base.errors import Refused
from enova.stack.actions import StartMonitor, StopMonitor
from enova.stack.document import plan_from_json, plan_to_json
from enova.stack.observed import State
from enova.workflows.mon import mon_status, plan_switch
from enova.workflows.mon_check import mon_check
from enova.workflows.wiring import open_named
from tests.workflows.rehearsal import CHAT, Rehearsal

NOTE = "monitoring is stopped; start it with: enova mon start web"


def switch(web: Rehearsal, to: Literal["start", "stop"]) -> None:
    here = web.here()
    made = plan_switch(here, to)
    assert web.carry_out(made, here).outcome.result == "succeeded"


def monitors(web: Rehearsal) -> list[str]:
    """Addresses of the monitors that run."""
    seen = web.driver.observe().components
    return [c.address for c in seen if c.address != "gateway" and c.state is State.SERVING]


def test_stopping_touches_nothing_else(web: Rehearsal) -> None:
    web.apply(CHAT)
    before = web.driver.observe()
    here = web.here()
    made = plan_switch(here, "stop")
    assert [type(action.do) for action in made.actions] == [StopMonitor]
    assert {c.reason.value for c in made.changes} == {"on request"}
    web.carry_out(made, here)
    after = web.driver.observe()
    assert monitors(web) == []
    assert (after.instances, after.members) == (before.instances, before.members)
    assert after.component("gateway") == before.component("gateway")


def test_neither_reconciler_nor_plan_starts_it_again(web: Rehearsal) -> None:
    web.apply(CHAT)
    switch(web, "stop")
    report = web.tick()
    assert report.plan is not None and report.plan.is_empty
    assert NOTE in report.plan.notes
    planned = web.plan().plan
    assert planned.is_empty
    assert NOTE in planned.notes
    assert monitors(web) == []


def test_an_apply_of_something_else_leaves_it_stopped_and_says_so(web: Rehearsal) -> None:
    web.apply(CHAT)
    switch(web, "stop")
    applied = web.apply(CHAT.replace("max-num-seqs: 32", "max-num-seqs: 48"))
    assert applied.outcome.result == "succeeded" and applied.outcome.done
    assert applied.plan.notes.count(NOTE) == 1
    assert monitors(web) == []
    assert web.state.read().monitors_stopped
    web.rollback()
    assert web.state.read().monitors_stopped and monitors(web) == []


def test_starting_has_it_run_again_from_then_on(web: Rehearsal) -> None:
    web.apply(CHAT)
    switch(web, "stop")
    here = web.here()
    made = plan_switch(here, "start")
    assert [type(action.do) for action in made.actions] == [StartMonitor]
    web.carry_out(made, here)
    assert monitors(web) == ["monitoring/prometheus"]
    planned = web.plan().plan
    assert planned.is_empty and NOTE not in planned.notes
    assert not web.state.read().monitors_stopped


def test_it_keeps_what_the_record_says_of_everything_else(web: Rehearsal) -> None:
    web.apply(CHAT)
    before = web.state.read()
    switch(web, "stop")
    after = web.state.read()
    assert (after.counts, after.document, after.choices) == (
        before.counts,
        before.document,
        before.choices,
    )
    assert web.state.applies() == web.state.applies()[:1], "it is no applied state of its own"


def test_twice_is_once(web: Rehearsal) -> None:
    web.apply(CHAT)
    assert plan_switch(web.here(), "start").is_empty
    switch(web, "stop")
    assert plan_switch(web.here(), "stop").is_empty


def test_a_replica_that_fell_meanwhile_is_not_its_business(web: Rehearsal) -> None:
    web.apply(CHAT)
    with web.driver.edit() as world:
        next(iter(world.instances.values())).exit("killed by signal 9")
    made = plan_switch(web.here(), "stop")
    assert {action.address for action in made.actions} == {"monitoring/prometheus"}


def test_what_is_not_applied_has_no_monitoring(web: Rehearsal) -> None:
    web.write(CHAT)
    here = open_named(web.surroundings, str(web.spec), env="")
    for ask in (
        lambda: plan_switch(here, "stop"),
        lambda: plan_switch(here, "start"),
        lambda: mon_status(here),
        lambda: mon_check(here),
    ):
        with pytest.raises(Refused, match="Run: enova apply"):
            ask()


def test_a_stopped_part_cannot_be_checked(web: Rehearsal) -> None:
    web.apply(CHAT)
    switch(web, "stop")
    with pytest.raises(Refused, match="enova mon start web"):
        mon_check(web.here())


def test_a_saved_plan_that_would_start_it_is_stale_once_it_is_stopped(web: Rehearsal) -> None:
    web.apply(CHAT.rstrip() + "\nmonitoring: {prometheus: off}\n")
    web.write(CHAT)
    made = web.plan().plan
    assert any(isinstance(action.do, StartMonitor) for action in made.actions)
    switch(web, "stop")
    with pytest.raises(Refused, match="stale"):
        web.carry_out(made, web.here())


def test_the_plan_travels_as_text(web: Rehearsal) -> None:
    web.apply(CHAT)
    made = plan_switch(web.here(), "stop")
    assert plan_from_json(plan_to_json(made)) == made


def test_status_says_what_is_wanted_what_runs_and_that_it_is_stopped(web: Rehearsal) -> None:
    web.apply(CHAT + "monitoring: {alertmanager: off}\n")
    now = mon_status(web.here())
    parts = {part.name: part for part in now.parts}
    assert (parts["prometheus"].wanted, parts["prometheus"].state) == ("yes", State.SERVING)
    assert parts["alertmanager"].wanted == "no"
    assert parts["grafana"].wanted == "not here"
    assert now.silent and not now.well, "nothing listens in the world of the rehearsal"
    switch(web, "stop")
    now = mon_status(web.here())
    assert now.stopped and now.well
    assert {part.state for part in now.parts} == {None}


def test_a_record_of_before_is_of_a_part_that_runs(web: Rehearsal) -> None:
    web.apply(CHAT)
    path = web.state.folder / "record.json"
    data = json.loads(path.read_text())
    del data["record"]["monitors_stopped"], data["sum"]
    path.write_text(json.dumps({**data, "sum": digest(data)}))
    assert not web.state.read().monitors_stopped
