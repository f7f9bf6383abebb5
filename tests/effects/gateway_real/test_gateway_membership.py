"""Replicas come, get their weight, drain and go by a file, while requests keep flowing."""

from __future__ import annotations

import signal
import time

import httpx
import pytest
from gateway_world import OFTEN, Backend, Load, Start, Stream, until

from enova.effects.gateway import read_members
from enova.effects.gateway_admin import GatewayAdmin
from enova.stack.render.envoy_members import Member
from enova.stack.render.envoy_settings import GatewayService

pytestmark = pytest.mark.real


def test_members_are_added_and_removed_under_load(start: Start, backends: list[Backend]) -> None:
    one, two, three = (engine.member() for engine in backends)
    gateway = start()
    gateway.serve("chat", one)
    with Load(gateway) as load:
        load.more(20)
        gateway.serve("chat", one, two, three)
        until(lambda: all(engine.requests() > 10 for engine in backends))
        gateway.serve("chat", two, three)
        load.more(10)
        before = backends[0].requests()
        load.more(50)
        assert backends[0].requests() == before
    assert set(load.results) == {"200"}
    assert read_members(gateway.members, "chat") == (two, three)
    assert sorted(path.name for path in gateway.members.iterdir()) == ["chat.json"]


def test_requests_are_shared_by_weight(start: Start, backends: list[Backend]) -> None:
    heavy, light = backends[0].member(weight=300), backends[1].member(weight=100)
    gateway = start()
    gateway.serve("chat", heavy, light)
    with httpx.Client(timeout=30) as client:
        for _ in range(400):
            client.post(gateway.url + "/v1/completions", json={"model": "tiny"})
    share = backends[0].requests() / 400
    assert 0.7 < share < 0.8


def test_replicas_with_fewer_open_requests_are_preferred(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member())
    busy = [Stream(gateway, chunks=2, gap_s=30) for _ in range(6)]
    gateway.serve("chat", *(engine.member() for engine in backends))
    busy += [Stream(gateway, chunks=2, gap_s=30) for _ in range(12)]
    opened = [int(str(engine.seen()["open"])) for engine in backends]
    assert sum(opened) == 18
    assert max(opened) <= 9, opened
    for stream in busy:
        stream.close()


def test_a_new_replica_may_start_slowly(start: Start, backends: list[Backend]) -> None:
    window_s = 2.0
    gateway = start(GatewayService("chat", ("tiny",), slow_start_s=window_s))
    gateway.serve("chat", backends[0].member(), backends[1].member())
    grown_up = time.monotonic() + window_s + 0.3
    until(lambda: time.monotonic() > grown_up)
    gateway.serve("chat", *(engine.member() for engine in backends))
    with httpx.Client(timeout=30) as client:
        for _ in range(120):
            client.post(gateway.url + "/v1/completions", json={"model": "tiny"})
    # An equal share would be 40.
    assert 0 < backends[2].requests() < 28


def test_a_draining_member_finishes_its_streams_and_gets_nothing_new(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member())
    stream = Stream(gateway, chunks=15, gap_s=0.1)
    drains = backends[0].member(state="draining")
    with Load(gateway, clients=2) as load:
        gateway.serve("chat", drains, backends[1].member())
        (stats, _) = gateway.admin.endpoint_stats("chat")
        assert (stats.instance_id, stats.draining, stats.healthy) == (
            drains.instance_id,
            True,
            False,
        )
        assert not gateway.admin.wait_idle("chat", drains.instance_id, deadline_s=0.2)
        until(lambda: backends[0].seen()["open"] == 1)
        before = backends[0].requests()
        load.more(50)
        assert backends[0].requests() == before
        assert gateway.admin.wait_idle("chat", drains.instance_id, deadline_s=30)
        assert backends[0].seen()["open"] == 0
        assert "chat-replica-0 14" in stream.rest()
        gateway.serve("chat", backends[1].member())
    assert set(load.results) == {"200"}
    assert read_members(gateway.members, "chat") == (backends[1].member(),)


def test_undrain_puts_a_member_back(start: Start, backends: list[Backend]) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member(state="draining"), backends[1].member(weight=0))
    assert gateway.post().status_code == 503
    gateway.serve("chat", backends[0].member(), backends[1].member(weight=0))
    assert gateway.post().json()["from"] == "chat-replica-0"


def test_when_all_members_drain_new_requests_are_refused_and_open_ones_finish(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    members = [engine.member() for engine in backends[:2]]
    gateway.serve("chat", *members)
    streams = [Stream(gateway, chunks=6, gap_s=0.1) for _ in range(2)]
    gateway.serve("chat", *(engine.member(state="draining") for engine in backends[:2]))
    for _ in range(20):
        answer = gateway.post()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["code"] == "service_unavailable"
    for stream, member in zip(streams, members, strict=True):
        assert gateway.admin.wait_idle("chat", member.instance_id, deadline_s=30)
        assert "[DONE]" in stream.rest()
    assert sum(engine.requests() for engine in backends) == 2


def test_a_removed_member_finishes_its_streams(start: Start, backends: list[Backend]) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member())
    stream = Stream(gateway, chunks=5, gap_s=0.1)
    gateway.serve("chat", backends[1].member())
    assert "chat-replica-0 4" in stream.rest()
    assert gateway.post().json()["from"] == "chat-replica-1"


def test_the_lower_priority_is_used_only_when_the_higher_is_gone(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(OFTEN)
    spare = backends[2].member(priority=1)
    gateway.serve("chat", backends[0].member(), backends[1].member(), spare)
    backends[0].control(health=503)
    until(lambda: not gateway.admin.endpoint_stats("chat")[0].healthy)
    for _ in range(30):
        assert gateway.post().json()["from"] == "chat-replica-1"
    gateway.serve("chat", spare)
    assert gateway.post().json()["from"] == "chat-replica-2"


def test_nobody_serves_a_service_without_members(start: Start) -> None:
    gateway = start()
    answer = gateway.post()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["type"] == "server_error"
    assert gateway.admin.endpoint_stats("chat") == ()
    assert gateway.admin.endpoint_stats("nobody") == ()


def test_membership_survives_a_kill_of_the_gateway(start: Start, backends: list[Backend]) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member(), backends[1].member(state="draining"))
    gateway.stop(signal.SIGKILL)
    assert not gateway.admin.ready()
    gateway.start()
    until(lambda: gateway.post().status_code == 200)
    assert backends[1].requests() == 0
    assert gateway.admin.wait_applied(
        "chat", read_members(gateway.members, "chat"), deadline_s=10, healthy=True
    )


def test_a_new_member_waits_for_its_health_check(start: Start, backends: list[Backend]) -> None:
    backends[1].control(health=503)
    gateway = start(OFTEN)
    gateway.serve("chat", backends[0].member(), backends[1].member(), healthy=False)
    for _ in range(30):
        assert gateway.post().json()["from"] == "chat-replica-0"
    backends[1].control(health=200)
    assert gateway.admin.wait_applied(
        "chat", read_members(gateway.members, "chat"), deadline_s=10, healthy=True
    )
    assert {gateway.post().json()["from"] for _ in range(30)} == {
        "chat-replica-0",
        "chat-replica-1",
    }


def test_waiting_for_what_does_not_come_ends_at_the_deadline(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member())
    stranger = Member("chat-replica-9.g1", "127.0.0.1", 1)
    assert not gateway.admin.wait_applied("chat", [stranger], deadline_s=0.2)
    assert not GatewayAdmin(gateway.folder / "no.sock").wait_ready(0.2)


def test_the_file_is_applied_quickly(start: Start, backends: list[Backend]) -> None:
    """The time is printed, not asserted."""
    gateway = start()
    one, two = backends[0].member(), backends[1].member()
    times = []
    for turn in range(10):
        members = [one, two] if turn % 2 else [one]
        before = time.perf_counter()
        gateway.serve("chat", *members, healthy=False)
        times.append(time.perf_counter() - before)
    print("applied after", ", ".join(f"{value * 1000:.0f} ms" for value in times))
