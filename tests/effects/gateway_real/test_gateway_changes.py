"""The gateway itself changes while requests flow, in one process: nobody fails, nobody waits."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import httpx
import pytest
from gateway_world import LUA, Backend, Gateway, Load, Start, Stream, free_port, until

from enova.base.errors import ActionFailed, Unreachable
from enova.effects.gateway import write_members
from enova.effects.gateway_change import apply_files
from enova.stack.render.envoy import CLUSTERS, LISTENERS, ROUTES, render_files
from enova.stack.render.envoy_settings import GatewayService, RateLimit

pytestmark = pytest.mark.real

CHAT = GatewayService("chat", ("tiny",))
CODE = GatewayService("code", ("coder",))


def watched(gateway: Gateway) -> dict[str, bytes]:
    return {name: (gateway.config / name).read_bytes() for name in (CLUSTERS, ROUTES, LISTENERS)}


@pytest.mark.parametrize("keep_alive", [True, False])
def test_services_come_and_go_under_load_in_one_process(
    start: Start, backends: list[Backend], keep_alive: bool
) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(gateway, clients=6, keep_alive=keep_alive) as load:
        load.more(20)
        for _ in range(2):
            write_members(gateway.members, "code", [backends[2].member()])
            gateway.change(CHAT, CODE)
            answer = httpx.post(gateway.url + "/v1/completions", json={"model": "coder"})
            assert answer.json()["from"] == "chat-replica-2"
            load.more(20)
            stream = Stream(gateway, model="coder", chunks=5, gap_s=0.1)
            gateway.change(CHAT)
            answer = httpx.post(gateway.url + "/v1/completions", json={"model": "coder"})
            assert answer.status_code == 404
            assert "chat-replica-2 4" in stream.rest()
            load.more(20)
    assert set(load.results) == {"200"}


def test_everything_on_one_port_changes_under_load(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    """Fresh and kept connections, and a stream that is open all the time."""
    keys = folder / "config-0" / "keys.json"
    gateway = start(CHAT)
    gateway.keys = {"alice": "sk-a"}
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    changes: tuple[dict[str, object], ...] = (
        {"rate_limit": RateLimit(1e6, 10**6)},
        {"services": (GatewayService("chat", ("tiny",), routing="prefix"),)},
        {"services": (GatewayService("chat", ("tiny", "more"), max_pending=99),)},
        {"services": (GatewayService("chat", ("tiny",), max_requests=99, idle_timeout_s=30.0),)},
        {"max_body_bytes": 2**20},
        {"keys_path": str(keys), "key_rates": (("alice", RateLimit(1e6, 10**6)),)},
        {"key_rates": ()},
        {"keys_path": None},
        {"rate_limit": None, "services": (CHAT, CODE)},
    )
    write_members(gateway.members, "code", ())
    with Load(gateway, keep_alive=True) as kept, Load(gateway) as fresh:
        kept.headers = fresh.headers = {"authorization": "Bearer sk-a"}
        fresh.more(20)
        kept.more(20)
        stream = Stream(gateway, chunks=15, gap_s=0.1)
        for change in changes:
            services = change.pop("services", ())
            assert isinstance(services, tuple)
            gateway.change(*services, **change)
            assert httpx.get(gateway.url + "/health").status_code == 200
            fresh.more(20)
            kept.more(20)
        assert "[DONE]" in stream.rest()
    assert set(fresh.results) == {"200"}
    assert set(kept.results) == {"200"}
    updates = gateway.counter("listener_manager.listener_in_place_updated")
    assert updates == gateway.counter("listener_manager.listener_modified") == 7
    gateway.change(rate_limit=RateLimit(0.01, 1))
    assert [gateway.post().status_code for _ in range(3)] == [200, 429, 429]


def test_the_port_changes_under_load(start: Start, backends: list[Backend]) -> None:
    """No request that got to an engine fails. Who connects in the very moment the old port
    closes may be reset, as who connects a moment later is refused: both go to the new port."""
    gateway = start(CHAT)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    with (
        Load(gateway, clients=3, keep_alive=True, follows=True) as kept,
        Load(gateway, clients=3, follows=True) as fresh,
    ):
        for _ in range(3):
            fresh.more(20)
            stream = Stream(gateway, chunks=5, gap_s=0.1)
            before = gateway.settings.port
            gateway.change(port=free_port())
            assert gateway.post().status_code == 200
            with pytest.raises(ConnectionRefusedError):
                until(lambda port=before: socket.create_connection(("127.0.0.1", port)).close())  # type: ignore[misc]  # a default binds the loop variable
            assert "[DONE]" in stream.rest()
            kept.more(20)
            fresh.more(20)
    print(f"kept: {kept.refused} refused, {kept.reset} reset")
    print(f"fresh: {fresh.refused} refused, {fresh.reset} reset")
    assert set(fresh.results) == {"200"}
    assert set(kept.results) == {"200"}
    answered = len(fresh.results) + len(kept.results) + 3 * len(("stream", "post"))
    assert sum(engine.requests() for engine in backends) == answered


def test_the_address_widens_and_narrows_under_load(start: Start, backends: list[Backend]) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(gateway, clients=3, keep_alive=True) as kept, Load(gateway, clients=3) as fresh:
        for _ in range(4):
            fresh.more(20)
            gateway.change(listen_host="0.0.0.0", kept_hosts=("127.0.0.1",))
            fresh.more(20)
            kept.more(20)
            gateway.change(listen_host="127.0.0.1", kept_hosts=())
    assert set(fresh.results) == {"200"}
    assert set(kept.results) == {"200"}


def test_a_refused_change_is_reported_and_put_back(start: Start, backends: list[Backend]) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    before = watched(gateway)
    write_members(gateway.members, "code", [backends[1].member()])
    with Load(gateway, clients=2) as load:
        load.more(10)
        bad = render_files(gateway.settings, "this is no lua (")
        with pytest.raises(ActionFailed, match="script load error"):
            apply_files(gateway.config, bad, gateway.admin)
        load.more(10)
        assert {name: json.loads(text) for name, text in watched(gateway).items()} == {
            name: json.loads(text) for name, text in before.items()
        }
        gateway.change(CHAT, CODE)
        answer = httpx.post(gateway.url + "/v1/completions", json={"model": "coder"})
        assert answer.json()["from"] == "chat-replica-1"
    assert set(load.results) == {"200"}


def test_a_port_that_cannot_be_bound_leaves_the_old_one(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    """Clusters and routes were taken by then: they go back too, and so do the keys."""
    keys = folder / "config-0" / "keys.json"
    gateway = start(CHAT)
    gateway.keys = {"alice": "sk-a"}
    gateway.change(keys_path=str(keys))
    gateway.serve("chat", backends[0].member())
    write_members(gateway.members, "code", [backends[1].member()])

    def ask(key: str, model: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(
            gateway.url + "/v1/completions", json={"model": model}, headers=headers
        ).status_code

    assert ask("sk-a", "tiny") == 200
    old, kept = gateway.settings, keys.read_bytes()
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        gateway.keys = {"bob": "sk-b"}
        with pytest.raises(ActionFailed, match="Address already in use"):
            gateway.change(CHAT, CODE, port=foreign.getsockname()[1])
        gateway.url = f"http://127.0.0.1:{old.port}"
    until(lambda: ask("sk-b", "tiny") == 401)
    assert ask("sk-a", "tiny") == 200
    assert ask("sk-a", "coder") == 404
    assert json.loads(keys.read_text())["resources"] == json.loads(kept)["resources"]


def test_a_change_cut_short_is_finished_by_the_next(start: Start, backends: list[Backend]) -> None:
    """Whatever an interrupted change has left in the files, even what Envoy refuses."""
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    bad = render_files(gateway.settings, "this is no lua (")
    write_members(gateway.members, "code", ())
    for name in (CLUSTERS, LISTENERS):
        (gateway.config / name).write_text(json.dumps(bad[name]))
    gateway.change(CHAT, CODE)
    assert gateway.post().status_code == 200
    gateway.change(CHAT, CODE)


def test_requests_from_before_a_change_are_waited_for(
    start: Start, backends: list[Backend]
) -> None:
    """Envoy forgets which instance has them, and when the service is removed also the service."""
    gateway = start(CHAT, CODE)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    gateway.serve("code", backends[2].member())
    one = Stream(gateway, chunks=15, gap_s=0.1)
    two = Stream(gateway, model="coder", chunks=15, gap_s=0.1)
    gateway.change(GatewayService("chat", ("tiny",), max_pending=5))
    for engine in backends[:2]:
        instance = engine.member().instance_id
        assert not gateway.admin.wait_idle("chat", instance, deadline_s=0.2)
    assert not gateway.admin.wait_idle("code", backends[2].member().instance_id, deadline_s=0.2)
    with Load(gateway, clients=4) as load:
        load.more(20)
        assert not gateway.admin.wait_idle("chat", "chat-replica-9.g1", deadline_s=0.1)
        assert gateway.admin.wait_idle("chat", "chat-replica-9.g1", deadline_s=30)
        assert "[DONE]" in one.rest()
    assert gateway.admin.wait_idle("code", backends[2].member().instance_id, deadline_s=30)
    assert "[DONE]" in two.rest()


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
    stream = Stream(gateway, chunks=10, gap_s=0.1)
    assert gateway.admin.open_requests() == 1
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
    files = render_files(gateway.settings, LUA + "-- other")
    gateway.stop()
    assert not gateway.admin.ready()
    with pytest.raises(Unreachable, match=r"admin-0\.sock"):
        gateway.admin.open_requests()
    before = watched(gateway)
    with pytest.raises(Unreachable):
        apply_files(gateway.config, files, gateway.admin)
    assert watched(gateway) == before
