"""The access log of a real Envoy: one record per request, and a rotation that loses none."""

from __future__ import annotations

import time
from collections import Counter

import httpx
import pytest
from gateway_world import Backend, Load, Start, Stream, until

from enova.effects.access_log import START, AccessRecord, arrival_rate, read_new, rotate

pytestmark = pytest.mark.real


def test_each_request_is_one_record(start: Start, backends: list[Backend]) -> None:
    gateway = start()
    before = time.time()
    backends[1].control(fail=503)
    gateway.serve("chat", backends[0].member(), backends[1].member())
    assert gateway.post().status_code == 200
    backends[1].control(fail=0)
    gateway.serve("chat", backends[0].member())
    Stream(gateway, chunks=3, gap_s=0.1).rest()
    assert gateway.post("/chat/v1/embeddings?key=secret").status_code == 200
    assert gateway.post(model="nope").status_code == 404
    stream = Stream(gateway, chunks=10, gap_s=3600)
    stream.close()
    until(lambda: len(read_new(gateway.log)[0]) == 5)
    records, _ = read_new(gateway.log)
    plain, streamed, named, unknown, left = records
    assert (plain.service, plain.instance, plain.status) == ("chat", "chat-replica-0.g1", 200)
    assert plain.retries in (0, 1)
    assert before - 1 < plain.arrival_s < time.time() + 1
    assert plain.request_bytes == len('{"model": "tiny"}')
    assert plain.model == "tiny"
    assert streamed.stream
    assert not plain.stream
    assert streamed.duration_s >= 0.2
    assert streamed.first_byte_s is not None
    assert streamed.first_byte_s < streamed.duration_s
    assert named.path == "/v1/embeddings"
    assert "secret" not in gateway.log.read_text()
    assert (unknown.service, unknown.status, unknown.model) == (None, 404, "nope")
    assert (left.flags, left.failed) == ("DC", False)
    assert len({record.request_id for record in records}) == 5
    assert arrival_rate(records, time.time(), 60) == pytest.approx(4 / 60)


def test_a_rotation_under_load_loses_and_doubles_nothing(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    gateway.serve("chat", *(engine.member() for engine in backends))
    found: list[AccessRecord] = []
    position = START
    rotations = 0
    with Load(gateway, clients=4, keep_alive=True) as load:
        for _ in range(40):
            load.more(20)
            rotations += rotate(gateway.log, [gateway.admin.reopen_logs], max_bytes=20_000, keep=3)
            records, position = read_new(gateway.log, position)
            found += records
    httpx.get(gateway.url + "/health")
    sent = len(load.results) + 1

    def all_read() -> bool:
        nonlocal position
        records, position = read_new(gateway.log, position)
        found.extend(records)
        return len(found) >= sent

    until(all_read)
    assert rotations >= 2
    assert Counter(record.request_id for record in found).most_common(1)[0][1] == 1
    assert len(found) == sent
    kept = [path.name for path in gateway.folder.iterdir() if path.name.startswith("access.log")]
    assert len(kept) <= 4
