"""The gateway itself changes while requests flow: in place by files, or by a second process."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gateway_world import LUA, Backend, Load, Start, Stream, free_port, until

from enova.base.errors import ActionFailed, Unreachable
from enova.effects.gateway import apply_files, write_members
from enova.stack.render.envoy import render_bootstrap, render_files
from enova.stack.render.envoy_settings import GatewayService, RateLimit

pytestmark = pytest.mark.real

CHAT = GatewayService("chat", ("tiny",))
CODE = GatewayService("code", ("coder",))


@pytest.mark.parametrize("keep_alive", [True, False])
def test_services_come_and_go_under_load_in_one_process(
    start: Start, backends: list[Backend], folder: Path, keep_alive: bool
) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(gateway, clients=6, keep_alive=keep_alive) as load:
        load.more(50)
        for _ in range(3):
            write_members(gateway.members, "code", [backends[2].member()])
            gateway.change(CHAT, CODE)
            answer = httpx.post(gateway.url + "/v1/completions", json={"model": "coder"})
            assert answer.json()["from"] == "chat-replica-2"
            load.more(20)
            stream = Stream(gateway, model="coder", chunks=10, gap_s=0.1)
            gateway.change(CHAT)
            answer = httpx.post(gateway.url + "/v1/completions", json={"model": "coder"})
            assert answer.status_code == 404
            assert "chat-replica-2 9" in stream.rest()
            load.more(20)
    assert set(load.results) == {"200"}


def test_limits_of_the_listener_change_under_load(start: Start, backends: list[Backend]) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(gateway, clients=4, keep_alive=True) as kept, Load(gateway, clients=4) as fresh:
        fresh.more(50)
        stream = Stream(gateway, chunks=20, gap_s=0.1)
        for burst in (10**6, 2 * 10**6, 3 * 10**6):
            gateway.change(rate_limit=RateLimit(1e6, burst))
            fresh.more(50)
            kept.more(50)
        assert "[DONE]" in stream.rest()
    assert set(fresh.results) == {"200"}
    assert set(kept.results) == {"200"}
    gateway.change(rate_limit=RateLimit(0.01, 1))
    answers = [gateway.post().status_code for _ in range(3)]
    assert answers == [200, 429, 429]


def test_the_port_changes_and_streams_at_the_old_one_finish(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    stream = Stream(gateway, chunks=20, gap_s=0.1)
    before = gateway.url
    gateway.change(port=free_port())
    assert gateway.post().status_code == 200

    def closed() -> bool:
        try:
            httpx.get(before + "/health")
        except httpx.TransportError:
            return True
        return False

    until(closed)
    assert "[DONE]" in stream.rest()


def test_a_change_envoy_rejects_is_reported_and_leaves_what_was(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    config = Path(gateway.settings.config_dir or "")
    files = render_files(gateway.settings, "this is no lua (")
    with pytest.raises(ActionFailed, match=r"apply listeners\.json.*script load error"):
        apply_files(config, files, gateway.admin, deadline_s=10)
    assert gateway.post().status_code == 200
    assert apply_files(config, render_files(gateway.settings, LUA), gateway.admin)
    assert apply_files(config, render_files(gateway.settings, LUA + "-- other"), gateway.admin)
    moved = replace(gateway.settings, admin_path=str(folder / "other.sock"))
    assert not apply_files(config, render_files(moved, LUA), gateway.admin)


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_second_process_takes_over_the_port(
    start: Start, backends: list[Backend], keep_alive: bool
) -> None:
    old = start(CHAT)
    old.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(old, clients=6, keep_alive=keep_alive) as load:
        load.more(50)
        stream = Stream(old, chunks=30, gap_s=0.1)
        streams_old = old.admin.server_load().requests > 0
        new = start(CHAT, CODE, port=old.settings.port)
        old.admin.drain_listeners()
        load.more(100)
        drains = backends[0].member(state="draining")
        new.serve("chat", drains, backends[1].member())
        assert old.admin.wait_applied("chat", [drains, backends[1].member()], deadline_s=10)
        assert "[DONE]" in stream.rest()
        assert old.admin.wait_quiet(deadline_s=60)
        for gateway in (old, new):
            assert gateway.admin.wait_idle("chat", drains.instance_id, deadline_s=10)
        old.stop()
        load.more(50)
    assert streams_old
    failed = [result for result in load.results if result != "200"]
    print(f"{len(failed)} of {len(load.results)} requests failed")
    if keep_alive:
        assert failed == []
    # A connection made in the very moment the old process closes its socket may be reset; no
    # request may get a wrong answer. Changes in place (above) do not even have that.
    assert all("Error" in result for result in failed), failed
    assert len(failed) <= len(load.results) / 100


def test_after_a_crash_a_gateway_starts_anew_on_the_same_files(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    gateway.stop(signal.SIGKILL)
    gateway.start()
    until(lambda: gateway.post().status_code == 200)


def test_a_drained_gateway_stops_accepting_and_finishes_its_streams(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    stream = Stream(gateway, chunks=20, gap_s=0.1)
    gateway.admin.drain_listeners()

    def refused() -> bool:
        try:
            gateway.post()
        except httpx.TransportError:
            return True
        return False

    until(refused)
    assert not gateway.admin.wait_quiet(deadline_s=0.1)
    assert "[DONE]" in stream.rest()
    assert gateway.admin.wait_quiet(deadline_s=10)


def test_a_gateway_that_is_gone_is_unreachable(start: Start) -> None:
    gateway = start(CHAT)
    assert gateway.admin.ready()
    gateway.stop()
    assert not gateway.admin.ready()
    with pytest.raises(Unreachable, match=r"admin-0\.sock"):
        gateway.admin.request_totals()


def test_the_document_in_one_piece_serves_as_well(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    """``render_bootstrap`` is what targets without watched files run."""
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    gateway.stop()
    config = Path(gateway.settings.config_dir or "")
    gateway.start(bootstrap=render_bootstrap(gateway.settings, LUA))
    assert not (config / "clusters.json").exists()
    until(lambda: gateway.post().status_code == 200)
