"""A reconciler's log has a line when something changes and none when nothing does."""

from __future__ import annotations

import json

import pytest

from enova.cli.views.reconciling import Reconciling
from enova.effects.clock import ManualClock
from enova.policy.scaling import Decision
from enova.services.reconciler.loop import Report
from enova.stack import events
from enova.stack.changes import Change, Symbol
from enova.stack.owners import Reason
from enova.stack.plan import Base, Cost, Plan

START = 1_750_000_000.0


def decided(replicas: int, reason: str) -> Report:
    return Report({"chat": Decision(replicas=replicas, reason=reason, inputs=())})


def planned(report: Report, *changes: Change) -> Report:
    made = Plan(
        stack="shop",
        env="",
        base=Base("", "", "", ""),
        serial=1,
        changes=changes,
        actions=(),
        counts=(),
        cost=Cost(None, None),
    )
    return Report(report.decisions, made, begun=True, problem=report.problem)


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("2025-06-15 15:06:40 UTC  ") for line in lines)
    return [line.split("UTC  ", 1)[1] for line in lines]


def test_a_decision_is_told_when_its_number_moves(capsys: pytest.CaptureFixture[str]) -> None:
    view = Reconciling("text", clock=ManualClock(START), verbose=False)
    view.report(decided(2, "4.1/s needs 2"))
    view.report(decided(2, "4.2/s needs 2"))
    view.report(decided(3, "6.9/s needs 3"))
    assert shown(capsys) == ["chat  2 replicas: 4.1/s needs 2", "chat  3 replicas: 6.9/s needs 3"]


def test_every_look_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    view = Reconciling("text", clock=ManualClock(START), verbose=True)
    view.report(decided(1, "4.1/s needs 1"))
    view.report(decided(1, "4.2/s needs 1"))
    assert shown(capsys) == ["chat  1 replica: 4.1/s needs 1", "chat  1 replica: 4.2/s needs 1"]


def test_what_is_healed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    view = Reconciling("text", clock=ManualClock(START), verbose=False)
    change = Change("chat/replica/0", Symbol.ADD, Reason.FAILED_BEFORE, detail="killed by 9")
    view.report(planned(Report({}), change))
    view.event(events.ActionStarted(1, 0, "chat/replica/0", "start-replica", "new", "g"))
    view.event(events.ActionDone(1, 0, "chat/replica/0", "start-replica", 1.5))
    assert shown(capsys) == [
        "+ chat/replica/0  failed before: killed by 9",
        "chat/replica/0  start-replica: done in 1.5 s",
    ]


def test_a_problem_is_told_once_and_so_is_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    view = Reconciling("text", clock=ManualClock(START), verbose=False)
    for report in (Report({}, problem="gpu-a is silent"),) * 2 + (Report({}), Report({})):
        view.report(report)
    assert shown(capsys) == ["gpu-a is silent", "goes on"]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    view = Reconciling("json", clock=ManualClock(START), verbose=False)
    view.report(decided(2, "4.1/s needs 2"))
    (line,) = capsys.readouterr().out.splitlines()
    document = json.loads(line)
    assert (document["kind"], document["at"]) == ("tick", START)
    assert document["decisions"]["chat"]["replicas"] == 2
