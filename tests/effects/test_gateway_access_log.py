"""Reading the access log: in order, once, across rotation, whatever state the files are in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enova.effects.access_log import (
    AccessRecord,
    Position,
    arrival_rate,
    numbered,
    read_new,
    rotate,
)

LINE = {
    "attempts": 2,
    "client": "alice",
    "details": "via_upstream",
    "duration_ms": 1500,
    "first_byte_ms": 250,
    "flags": "-",
    "instance": "chat-replica-0.g1",
    "method": "POST",
    "model": "tiny",
    "path": "/v1/chat/completions",
    "request_bytes": 73,
    "request_id": "r0",
    "response_bytes": 46,
    "route": "chat/by-model",
    "service": "chat",
    "start": "1795228946.241",
    "status": 200,
    "stream": True,
    "upstream": "127.0.0.1:18001",
}


def line(number: int, **change: object) -> str:
    return json.dumps({**LINE, "request_id": f"r{number}", **change}) + "\n"


def ids(records: list[AccessRecord]) -> list[str]:
    return [record.request_id for record in records]


def test_a_line_becomes_a_record(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line(0))
    (record,), _ = read_new(log)
    assert record == AccessRecord(
        arrival_s=1795228946.241,
        service="chat",
        instance="chat-replica-0.g1",
        method="POST",
        path="/v1/chat/completions",
        status=200,
        request_bytes=73,
        response_bytes=46,
        first_byte_s=0.25,
        duration_s=1.5,
        retries=1,
        flags="",
        request_id="r0",
        stream=True,
        model="tiny",
        client="alice",
    )
    assert not record.failed


def test_what_reached_no_service_has_none(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    nobody = {"service": "enova_nowhere", "instance": None, "first_byte_ms": None, "attempts": 0}
    log.write_text(line(0, **nobody, stream=None, model=None, client=None, status=429, flags="RL"))
    (record,), _ = read_new(log)
    assert (record.service, record.first_byte_s, record.retries) == (None, None, 0)
    assert (record.stream, record.model, record.failed) == (False, None, False)


@pytest.mark.parametrize(
    ("status", "flags", "failed"),
    [
        (200, "-", False),
        (404, "-", False),
        (503, "UH", True),
        (200, "UPE", True),
        (200, "DC", False),
    ],
)
def test_failed_is_what_is_our_fault(tmp_path: Path, status: int, flags: str, failed: bool) -> None:
    log = tmp_path / "access.log"
    log.write_text(line(0, status=status, flags=flags))
    (record,), _ = read_new(log)
    assert record.failed is failed


def test_each_line_is_read_once_and_a_half_line_later(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    assert read_new(log) == ([], Position())
    whole = line(1)
    log.write_text(line(0) + whole[:40])
    records, position = read_new(log)
    assert ids(records) == ["r0"]
    assert read_new(log, position) == ([], position)
    with log.open("a") as file:
        file.write(whole[40:] + line(2))
    records, position = read_new(log, position)
    assert ids(records) == ["r1", "r2"]
    assert read_new(log, position) == ([], position)


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line(0) + "\x00\x00\n{}\n[1]\nno json\n" + line(1, start="x") + "\n" + line(2))
    assert ids(read_new(log)[0]) == ["r0", "r2"]


def test_reading_goes_on_across_rotations(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    asked: list[str] = []
    log.write_text(line(0) + line(1))
    records, position = read_new(log)
    assert not rotate(log, [lambda: asked.append("a")], max_bytes=10_000)
    assert rotate(log, [lambda: asked.append("a"), lambda: asked.append("b")], max_bytes=10)
    assert asked == ["a", "b"]
    with numbered(log, 1).open("a") as late:  # Envoy has not opened the new file yet
        late.write(line(2))
    records, position = read_new(log, position)
    assert ids(records) == ["r2"]
    with numbered(log, 1).open("a") as late:
        late.write(line(3))
    log.write_text(line(4))
    records, position = read_new(log, position)
    assert ids(records) == ["r3", "r4"]
    rotate(log, [], max_bytes=1)
    log.write_text(line(5))
    rotate(log, [], max_bytes=1)
    log.write_text(line(6))
    records, position = read_new(log, position)
    assert ids(records) == ["r5", "r6"]
    assert ids(read_new(log)[0]) == ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]


def test_the_ring_keeps_so_many_files(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    for number in range(6):
        log.write_text(line(number))
        assert rotate(log, [], max_bytes=1, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access.log.1", "access.log.2"]
    assert not rotate(log, [], max_bytes=1, keep=2)
    assert ids(read_new(log)[0]) == ["r4", "r5"]
    assert ids(read_new(log, Position(inode=1, offset=10**9))[0]) == ["r4", "r5"]


def test_a_position_beyond_the_file_belongs_to_another_file(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(line(0))
    inode = log.stat().st_ino
    assert ids(read_new(log, Position(inode, 10**6))[0]) == ["r0"]


def test_the_rate_counts_what_arrived_in_the_window(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    starts = [100.0, 104.9, 105.0, 107.5, 110.0, 110.1]
    log.write_text(
        "".join(line(n, start=f"{start:.3f}") for n, start in enumerate(starts))
        + line(9, start="108.000", service=None)
    )
    records, _ = read_new(log)
    assert arrival_rate(records, 110.0, 5.0) == pytest.approx(2 / 5)
    assert arrival_rate(records, 110.0, 10.0) == pytest.approx(4 / 10)
    assert arrival_rate([], 110.0, 10.0) == 0
    with pytest.raises(ValueError, match="window"):
        arrival_rate(records, 110.0, 0)
