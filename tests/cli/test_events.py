"""The progress of an execution in its three forms."""

from __future__ import annotations

import io
import json
import sys

import click
import pytest

from enova.cli.views.events import event_view
from enova.stack import events
from enova.stack.actions import Action, StopMonitor
from enova.stack.plan import Base, Cost, Plan

PLAN = Plan(
    stack="shop",
    env="",
    base=Base("", "", "", ""),
    serial=1,
    changes=(),
    actions=tuple(
        Action(number, address, StopMonitor("p"), cause="destroyed", group="g")
        for number, address in enumerate(["chat/replica/0", "gateway"])
    ),
    counts=(),
    cost=Cost(None, None),
)

STORY: tuple[events.Event, ...] = (
    events.ExecutionStarted(1.0, 2),
    events.ActionStarted(1.0, 0, "chat/replica/0", "wait-serving", "new", "g"),
    events.ActionProgress(3.0, 0, "chat/replica/0", "wait-serving", "weights", 2.0),
    events.ActionProgress(33.0, 0, "chat/replica/0", "wait-serving", "weights", 32.0, True),
    events.ActionFailed(40.0, 0, "chat/replica/0", "wait-serving", "out of memory"),
    events.ActionUndone(41.0, 0, "chat/replica/0", "stop-replica"),
    events.ActionSkipped(41.0, 1, "gateway", "start-gateway", "an action before it failed"),
    events.ExecutionEnded(41.0, "failed", (), (0,), (1,)),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with event_view("text", PLAN) as emit:
        for event in STORY:
            emit(event)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "[1/2] chat/replica/0  wait-serving: started (new)",
        "[1/2] chat/replica/0  wait-serving: weights, 2 s",
        "[1/2] chat/replica/0  wait-serving: still weights, 32 s",
        "[1/2] chat/replica/0  wait-serving: failed: out of memory",
        "[1/2] chat/replica/0  stop-replica: undone",
    ]


def test_json_lines_are_all_that_standard_output_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with event_view("json", PLAN) as emit:
        for event in STORY:
            emit(event)
    shown = capsys.readouterr()
    assert shown.err == ""
    documents = [json.loads(line) for line in shown.out.splitlines()]
    assert [document["kind"] for document in documents] == [event.kind for event in STORY]
    assert {document["schema"] for document in documents} == {1}


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with event_view("text", PLAN) as emit:
        for event in STORY:
            emit(event)
    last = click.unstyle(screen.getvalue())
    assert "chat/replica/0" in last
    assert "out of memory" in last
    assert "0 of 2 steps done" in last


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "dumb")
    with event_view("text", PLAN) as emit:
        emit(STORY[1])
    assert screen.getvalue() == "[1/2] chat/replica/0  wait-serving: started (new)\n"
