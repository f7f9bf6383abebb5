"""The journal is appended whole, read past torn ends, chained, and bounded."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import enova
from enova.base.errors import ActionFailed
from enova.effects.clock import ManualClock
from enova.effects.state.files import Files
from enova.effects.state.journal import KEPT_FILES, Journal, Kind
from enova.stack import events

PYTHON_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(enova.__file__).parents[1])}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start=100.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def numbered(journal: Journal, count: int, clock: ManualClock) -> None:
    for number in range(count):
        journal.append(Kind.DECISION, "chat", {"number": number})
        clock.advance(1.0)


def test_entries_come_back_in_order(path: Path, clock: ManualClock) -> None:
    journal = Journal(path, clock=clock)
    assert journal.tail(3) == ()
    numbered(journal, 5, clock)
    assert [entry.detail["number"] for entry in journal.tail(2)] == [3, 4]
    assert [entry.detail["number"] for entry in journal.since(103.0)] == [3, 4]
    first = journal.tail(99)[0]
    assert (first.at, first.kind, first.address, first.schema) == (100.0, "decision", "chat", 1)
    assert journal.tail(0) == ()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_an_execution_tells_becomes_entries(path: Path, clock: ManualClock) -> None:
    journal = Journal(path, clock=clock)
    address, step = "chat/replica/0", "start-replica"
    told: list[events.Event] = [
        events.ExecutionStarted(1.0, 2),
        events.ActionStarted(1.0, 0, address, step, "missing", "g"),
        events.ActionProgress(1.0, 0, address, step, "weights", 1.0),
        events.ActionDone(1.0, 0, address, step, 2.5),
        events.ActionStarted(1.0, 1, address, step, "missing", "g"),
        events.ActionFailed(1.0, 1, address, step, "exit 1", tuple(map(str, range(99)))),
        events.ActionUndone(1.0, 0, address, "stop-replica"),
        events.ActionSkipped(1.0, 2, address, step, "it comes after 1"),
        events.ExecutionEnded(1.0, "failed", (0,), (1,), (2,)),
    ]
    for event in told:
        journal.note(event)
    entries = journal.tail(99)
    assert [entry.kind for entry in entries] == [
        "plan-began",
        "action-began",
        "action-done",
        "action-began",
        "action-failed",
        "action-undone",
        "action-skipped",
        "plan-ended",
    ]
    failed = entries[4]
    assert failed.address == address
    assert failed.detail["reason"] == "exit 1"
    assert failed.detail["log_tail"] == [str(number) for number in range(79, 99)]
    assert entries[-1].detail["not_started"] == [2]
    assert journal.verify().broken == ()


@given(cut=st.integers(1, 200))
def test_a_torn_end_is_passed_over_and_written_after(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    clock = ManualClock()
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    journal = Journal(path, clock=clock)
    numbered(journal, 4, clock)
    data = path.read_bytes()
    last_line = len(data) - data[:-1].rindex(b"\n") - 1
    cut = min(cut, last_line)
    path.write_bytes(data[:-cut])
    # Without its line end the last line is still whole; less than that, it is gone.
    whole = [0, 1, 2, 3] if cut == 1 else [0, 1, 2]
    assert [entry.detail["number"] for entry in journal.tail(9)] == whole
    journal.append(Kind.HEAL, "chat/replica/0", {"number": 9})
    assert [entry.detail["number"] for entry in journal.tail(9)] == [*whole, 9]
    found = journal.verify()
    assert found.broken == ()
    assert len(found.torn) == (0 if cut in (1, last_line) else 1)


@pytest.mark.parametrize("line", range(6))
def test_a_changed_line_shows(path: Path, clock: ManualClock, line: int) -> None:
    journal = Journal(path, clock=clock)
    numbered(journal, 6, clock)
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace(f'"number":{line}', '"number":42')
    path.write_text("".join(lines))
    assert [entry.detail["number"] for entry in journal.tail(9)] == [
        number for number in range(6) if number != line
    ]
    found = journal.verify()
    assert found.broken == (("journal.jsonl", line + 1),)


@pytest.mark.parametrize("line", range(1, 5))
def test_a_removed_line_shows(path: Path, clock: ManualClock, line: int) -> None:
    journal = Journal(path, clock=clock)
    numbered(journal, 6, clock)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:line] + lines[line + 1 :]))
    assert journal.verify().broken == (("journal.jsonl", line + 1),)


def test_it_stays_bounded_and_chained_over_rotation(path: Path, clock: ManualClock) -> None:
    journal = Journal(path, clock=clock, rotate_bytes=2000)
    numbered(journal, 200, clock)
    files = sorted(path.parent.iterdir())
    assert len(files) == KEPT_FILES + 1
    assert all(file.stat().st_size < 2300 for file in files)
    numbers = [entry.detail["number"] for entry in journal.since(0.0)]
    assert numbers == list(range(numbers[0], 200))
    assert [entry.detail["number"] for entry in journal.tail(25)] == list(range(175, 200))
    assert journal.verify() == type(journal.verify())(lines=len(numbers))
    path.unlink()
    assert journal.verify().broken == ()
    numbered(journal, 1, clock)
    assert journal.verify().broken == ()


def test_texts_are_redacted(path: Path, clock: ManualClock) -> None:
    journal = Journal(path, clock=clock, redact=lambda text: text.replace("hunter2", "[secret]"))
    journal.append(Kind.HEAL, "chat", {"why": "bad key hunter2", "deep": [{"x": "hunter2"}]})
    assert "hunter2" not in path.read_text()
    assert journal.tail(1)[0].detail["why"] == "bad key [secret]"


class FullDisk(Files):
    def write(self, descriptor: int, data: bytes) -> int:
        if len(data) > 40:
            return super().write(descriptor, data[:40])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_and_costs_one_line_only(path: Path, clock: ManualClock) -> None:
    journal = Journal(path, clock=clock)
    numbered(journal, 2, clock)
    with pytest.raises(ActionFailed, match="No space left"):
        Journal(path, clock=clock, files=FullDisk()).append(Kind.HEAL, "chat", {"a": "b" * 90})
    journal.append(Kind.HEAL, "chat", {"number": 2})
    assert [entry.detail["number"] for entry in journal.tail(9)] == [0, 1, 2]
    assert journal.verify().broken == ()
    assert len(journal.verify().torn) == 1


APPENDER = """
import sys
from pathlib import Path
from enova.effects.clock import SystemClock
from enova.effects.state.journal import Journal, Kind
journal = Journal(Path(sys.argv[1]), clock=SystemClock(), rotate_bytes=6000)
for number in range(20):
    journal.append(Kind.DECISION, sys.argv[2], {"number": number})
"""


@pytest.mark.real
def test_processes_append_side_by_side(path: Path, clock: ManualClock) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(path), f"p{name}"], env=PYTHON_ENVIRONMENT
        )
        for name in range(4)
    ]
    try:
        assert [process.wait(timeout=100) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
            process.wait()
    journal = Journal(path, clock=clock)
    assert journal.verify() == type(journal.verify())(lines=80)
    for name in range(4):
        mine = [entry for entry in journal.since(0.0) if entry.address == f"p{name}"]
        assert [entry.detail["number"] for entry in mine] == list(range(20))
