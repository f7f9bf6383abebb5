"""A new bootstrap by hot restart: the port never refuses, no request fails, streams finish."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gateway_world import Backend, Load, Start, Stream, until

from enova.base.errors import ActionFailed, Unreachable
from enova.effects.gateway import first_launch, forget_shared_memory, launch_after
from enova.stack.render.envoy_settings import GatewayService

pytestmark = pytest.mark.real

CHAT = GatewayService("chat", ("tiny",))
CODE = GatewayService("code", ("coder",))


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_new_service_is_added_under_load(
    start: Start, backends: list[Backend], folder: Path, keep_alive: bool
) -> None:
    old = start(CHAT)
    old.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(old, clients=8, keep_alive=keep_alive) as load:
        load.more(100)
        stream = Stream(old, chunks=25, gap_s=0.1)
        new = start(CHAT, CODE, launch=launch_after(old.launch), port=old.settings.port)
        new.serve("code", backends[2].member())
        load.more(100)
        answer = httpx.post(new.url + "/v1/completions", json={"model": "coder"}, timeout=30)
        assert answer.json()["from"] == "chat-replica-2"
        assert new.admin.server_load().before > 0
        assert "[DONE]" in stream.rest()
        assert new.admin.wait_taken_over(deadline_s=60)
        old.stop()
        load.more(100)
    assert set(load.results) == {"200"}
    assert new.process is not None
    assert new.process.poll() is None
    new.serve("chat", backends[2].member())
    assert new.post().json()["from"] == "chat-replica-2"
    assert new.admin.request_totals()["chat"].arrivals > 200


def test_a_stream_at_the_old_process_keeps_its_replica_from_being_idle(
    start: Start, backends: list[Backend]
) -> None:
    old = start(CHAT)
    old.serve("chat", backends[0].member())
    stream = Stream(old, chunks=60, gap_s=0.1)
    new = start(CHAT, launch=launch_after(old.launch), port=old.settings.port)
    drains = backends[0].member(state="draining")
    new.serve("chat", drains, backends[1].member())
    assert not new.admin.wait_idle("chat", drains.instance_id, deadline_s=3)
    assert "[DONE]" in stream.rest()
    assert new.admin.wait_idle("chat", drains.instance_id, deadline_s=30)


def test_several_take_overs_in_a_row(start: Start, backends: list[Backend]) -> None:
    running = start(CHAT)
    running.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(running, clients=4) as load:
        for _ in range(4):
            load.more(20)
            after = start(CHAT, launch=launch_after(running.launch), port=running.settings.port)
            assert after.admin.wait_taken_over(deadline_s=60)
            running.stop()
            running = after
        load.more(20)
    assert set(load.results) == {"200"}
    assert running.launch.epoch == 4


def test_after_a_crash_a_gateway_starts_anew(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    old = start(CHAT)
    old.serve("chat", backends[0].member())
    old.stop(signal.SIGKILL)
    new = start(CHAT, launch=first_launch(folder / "base-id"), port=old.settings.port)
    assert new.post().json()["from"] == "chat-replica-0"


def test_a_drained_gateway_stops_accepting(start: Start, backends: list[Backend]) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    stream = Stream(gateway, chunks=100, gap_s=0.1)
    gateway.admin.drain_listeners()

    def refused() -> bool:
        try:
            gateway.post()
        except httpx.TransportError:
            return True
        return False

    until(refused, 30)
    assert "[DONE]" in stream.rest()
    assert gateway.admin.wait_quiet(deadline_s=10)


def test_nothing_is_left_in_shared_memory(start: Start, folder: Path) -> None:
    gateway = start(CHAT)
    base_id = (folder / "base-id").read_text()
    left = Path(f"/dev/shm/envoy_shared_memory_{base_id}0")
    assert left.exists()
    gateway.stop()
    forget_shared_memory(gateway.launch)
    assert not left.exists()
    forget_shared_memory(replace(gateway.launch, base_id_path=folder / "none"))


def test_a_take_over_of_nothing_is_refused_in_words(folder: Path) -> None:
    with pytest.raises(ActionFailed, match="no base id"):
        launch_after(first_launch(folder / "none"))


def test_a_gateway_that_is_gone_is_unreachable(start: Start) -> None:
    gateway = start(CHAT)
    gateway.stop()
    with pytest.raises(Unreachable, match=r"admin-0\.sock"):
        gateway.admin.request_totals()
