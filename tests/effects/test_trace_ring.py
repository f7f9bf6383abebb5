"""The access log as a trace, and its bound on disk."""

from __future__ import annotations

import json
from pathlib import Path

from enova.effects.trace_ring import KEPT_FILES, LOG_NAME, keep_bounded, read_trace


def line(start: float, **more: object) -> str:
    entry: dict[str, object] = {
        "start": f"{start:.3f}",
        "service": "chat",
        "route": "chat/by-model",
        "instance": "chat-replica-0-a1",
        "upstream": "127.0.0.1:1",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "request_bytes": 100,
        "response_bytes": 900,
        "first_byte_ms": 120,
        "duration_ms": 1500,
        "attempts": 1,
        "flags": "-",
        "details": "via_upstream",
        "request_id": "id",
        "model": "tiny",
        "stream": True,
        "client": None,
    }
    return json.dumps({**entry, **more}) + "\n"


def log(folder: Path, *lines: str, name: str = LOG_NAME) -> None:
    with (folder / name).open("a") as file:
        file.write("".join(lines))


def test_requests_come_in_order_of_arrival_not_of_their_end(tmp_path: Path) -> None:
    log(tmp_path, line(1005.25), line(1001.0, service="code", duration_ms=9000), line(1003.0))
    trace = read_trace(tmp_path, since=1000.0)
    assert [(r.arrival_s, r.service) for r in trace.requests] == [
        (1.0, "code"),
        (3.0, "chat"),
        (5.25, "chat"),
    ]
    last = trace.requests[-1]
    assert (last.replica, last.ttft_s, last.total_s) == ("chat-replica-0-a1", 0.12, 1.5)
    assert (last.request_bytes, last.response_bytes, last.status) == (100, 900, 200)


def test_what_the_gateway_cannot_know_is_none(tmp_path: Path) -> None:
    log(tmp_path, line(1001.0, stream=False), line(1002.0, status=503, first_byte_ms=None))
    whole, refused = read_trace(tmp_path, since=1000.0).requests
    assert (whole.prompt_tokens, whole.output_tokens, whole.ttft_s) == (None, None, None)
    assert refused.ttft_s is None


def test_requests_without_a_replica_are_in_and_those_without_a_service_are_not(
    tmp_path: Path,
) -> None:
    log(
        tmp_path,
        line(1001.0, status=503, instance=None, upstream=None, first_byte_ms=None),
        line(1002.0, status=401, service=None, instance=None),
    )
    (found,) = read_trace(tmp_path, since=1000.0).requests
    assert (found.status, found.replica) == (503, "")


def test_a_part_of_the_time_or_one_service_can_be_asked_for(tmp_path: Path) -> None:
    log(tmp_path, line(1001.0), line(1002.0), line(1003.0), line(1002.5, service="code"))
    found = read_trace(tmp_path, since=1002.0, until=1003.0, service="chat")
    assert [r.arrival_s for r in found.requests] == [0.0]


def test_rotated_files_are_part_of_the_trace_and_no_line_counts_twice(tmp_path: Path) -> None:
    log(tmp_path, line(1001.0), name=f"{LOG_NAME}.2")
    log(tmp_path, line(1002.0), name=f"{LOG_NAME}.1")
    log(tmp_path, line(1003.0), '{"start": "1004')
    found = read_trace(tmp_path, since=1000.0).requests
    assert [r.arrival_s for r in found] == [1.0, 2.0, 3.0]


def test_no_log_is_an_empty_trace(tmp_path: Path) -> None:
    assert read_trace(tmp_path, since=0.0).requests == ()


def test_the_files_together_stay_bounded(tmp_path: Path) -> None:
    limit = 40_000
    reopened: list[int] = []

    def reopen() -> None:
        (tmp_path / LOG_NAME).touch()
        reopened.append(1)

    for number in range(1000):
        log(tmp_path, line(1000.0 + number))
        keep_bounded(tmp_path, [reopen], max_bytes=limit)
    files = sorted(tmp_path.iterdir())
    assert len(files) == KEPT_FILES + 1
    assert sum(f.stat().st_size for f in files) <= limit + (KEPT_FILES + 1) * 1000
    assert reopened
    kept = read_trace(tmp_path, since=0.0).requests
    assert kept[-1].arrival_s == 1999.0
    assert [r.arrival_s for r in kept] == [float(n) for n in range(2000 - len(kept), 2000)]
