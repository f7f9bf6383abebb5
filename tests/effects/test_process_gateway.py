"""Envoy and Prometheus as detached processes, on the real programs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enova.base.errors import ActionFailed
from enova.base.secret import SecretRef
from enova.effects import gateway as envoy
from enova.effects.drivers import process_members
from enova.effects.drivers.ports import free_port
from enova.effects.gateway_admin import GatewayAdmin
from enova.stack.actions import (
    Drain,
    Join,
    Leave,
    StartGateway,
    StartPrometheus,
    StopGateway,
    StopPrometheus,
    StopReplica,
)
from enova.stack.observed import State
from enova.stack.resources import KeyReference, PrometheusResource, Route
from tests.effects.process_world import World, gateway, until
from tests.parts import real

pytestmark = pytest.mark.real

A, B = "chat-replica-0-a", "chat-replica-1-b"
GATE = "gateway-a"


@pytest.fixture
def world() -> Iterator[World]:
    real.envoy_binary()
    folder = Path(tempfile.mkdtemp(prefix="enova-process-"))
    made = World(folder / "demo")
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def port() -> int:
    return free_port((), seed="gateway-tests")


def post(port: int, *, key: str | None = None, **body: object) -> dict[str, object]:
    """One completion through the gateway."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        data=json.dumps({"model": "chat", "prompt": "Hello", **body}).encode(),
        headers={"content-type": "application/json"}
        | ({"authorization": f"Bearer {key}"} if key else {}),
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        data = json.load(answer)
    assert isinstance(data, dict)
    return data


def serve(world: World, *instances: str) -> None:
    for instance in instances:
        world.start(instance)
        world.wait(instance)
        world.do("chat/replica/0", Join("chat", instance, 100))


def test_a_joined_replica_answers_through_the_gateway(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    assert post(port)["choices"]
    (component,) = world.driver.observe().components
    assert (component.state, component.endpoint) == (State.SERVING, f"127.0.0.1:{port}")


def test_after_join_every_request_may_go_there_and_after_leave_none(
    world: World, port: int
) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A, B)
    until(lambda: len({post(port)["pid"] for _ in range(8)}) == 2)
    world.do("chat/replica/0", Drain("chat", A, 5.0))
    alone = world.folder(B).process()
    assert alone is not None
    assert {post(port)["pid"] for _ in range(8)} == {alone.pid}
    world.do("chat/replica/0", Leave("chat", A))
    world.do("chat/replica/0", StopReplica(A, 5.0))
    assert {post(port)["pid"] for _ in range(8)} == {alone.pid}


def test_a_drain_waits_for_the_open_request(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(post(port, wait_s=1.5)))
    asking.start()
    admin = GatewayAdmin(world.ground.components / GATE / "admin.sock")
    until(lambda: any(e.rq_active for e in admin.endpoint_stats("chat")))
    world.do("chat/replica/0", Drain("chat", A, 30.0))
    until(lambda: len(answers) == 1, deadline_s=1.0)
    asking.join()


def test_a_drain_ends_with_its_time(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    asking = threading.Thread(target=lambda: post(port, wait_s=3))
    asking.start()
    admin = GatewayAdmin(world.ground.components / GATE / "admin.sock")
    until(lambda: any(e.rq_active for e in admin.endpoint_stats("chat")))
    world.do("chat/replica/0", Drain("chat", A, 0.3))
    assert any("still open" in word for word in world.told)
    asking.join()


def test_a_gateway_is_replaced_while_requests_come(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    end = threading.Event()
    results: list[object] = []

    def load() -> None:
        while not end.is_set():
            try:
                results.append(bool(post(port)["choices"]))
            except OSError as error:
                results.append(error)

    clients = [threading.Thread(target=load) for _ in range(2)]
    for client in clients:
        client.start()
    slow: list[object] = []
    waiting = threading.Thread(target=lambda: slow.append(post(port, wait_s=2)))
    waiting.start()
    until(lambda: len(results) > 20)
    world.do("gateway", StartGateway("gateway-b", gateway(port, max_pending=7)))
    world.do("gateway", StopGateway(GATE, 20.0))
    seen = len(results)
    until(lambda: len(results) > seen + 20)
    end.set()
    for client in (*clients, waiting):
        client.join()
    assert set(results) == {True}
    assert len(slow) == 1
    assert [c.id for c in world.driver.observe().components] == ["gateway-b"]


def test_a_port_somebody_has_is_named_with_its_owner(world: World, port: int) -> None:
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", port))
        foreign.listen()
        with pytest.raises(ActionFailed, match=rf"port {port} .* taken by pid {os.getpid()}"):
            world.do("gateway", StartGateway(GATE, gateway(port)))
    assert world.driver.observe().components == ()
    assert not world.ground.components.exists()


TWICE = (Route("chat", "same"), Route("code", "same"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tls_certificate": "/nowhere/c.pem", "tls_key": "/nowhere/k.pem"}, "/nowhere/c.pem"),
        ({"routes": TWICE}, "two services serve the same model name: same"),
        ({"host": "203.0.113.7"}, "203.0.113.7"),
    ],
)
def test_a_gateway_that_cannot_run_leaves_nothing(
    world: World, port: int, more: dict[str, object], reason: str
) -> None:
    with pytest.raises(ActionFailed) as caught:
        world.do("gateway", StartGateway(GATE, gateway(port, **more)))
    assert reason in caught.value.reason
    assert world.driver.observe().components == ()
    assert world.mine() == []


def test_a_refused_change_leaves_the_running_gateway(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    refused = gateway(port, tls_certificate="/nowhere/cert.pem", tls_key="/nowhere/key.pem")
    with pytest.raises(ActionFailed):
        world.do("gateway", StartGateway("gateway-b", refused))
    assert post(port)["choices"]


def test_keys_are_asked_for_and_kept_from_others(world: World, port: int) -> None:
    world.surroundings["ALICE"] = "canary-key-77"
    world.driver = world.another()
    keys = (KeyReference("alice", SecretRef(env="ALICE")),)
    world.do("gateway", StartGateway(GATE, gateway(port, keys=keys)))
    serve(world, A)
    assert post(port, key="canary-key-77")["choices"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post(port, key="wrong")
    holding = [
        path
        for path in world.state.rglob("*")
        if path.is_file() and "canary-key-77" in path.read_text(errors="replace")
    ]
    assert [path.name for path in holding] == ["keys.json"]
    assert holding[0].stat().st_mode & 0o077 == 0


def test_a_long_state_folder_still_has_an_admin_interface(world: World, port: int) -> None:
    far = World(world.state.parent / ("d" * 90) / "demo")
    try:
        far.state.parent.mkdir()
        far.do("gateway", StartGateway(GATE, gateway(port)))
        assert far.driver.observe().components[0].state is State.SERVING
    finally:
        far.end()


def test_a_killed_gateway_is_seen_and_replaced_on_the_same_members(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    process = world.ground.owned()[-1].process()
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: world.driver.observe().components[0].state is State.EXITED)
    world.do("gateway", StopGateway(GATE, 0.0))
    world.do("gateway", StartGateway("gateway-b", gateway(port)))
    until(lambda: bool(post(port)["choices"]))


def test_a_member_that_envoy_does_not_take_fails_the_join(
    world: World, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_members, "APPLIED_S", 0.5)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    world.start(A)
    world.wait(A)
    process = next(f for f in world.ground.owned() if f.id == GATE).process()
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ActionFailed, match="has not taken the membership of chat"):
            world.do("chat/replica/0", Join("chat", A, 100))
    finally:
        os.kill(process.pid, signal.SIGCONT)


def test_an_unreadable_membership_counts_as_empty(world: World) -> None:
    serve(world, A)
    envoy.members_path(world.ground.members, "chat").write_text("not JSON")
    assert world.driver.observe().members == {}
    world.do("chat/replica/0", Join("chat", A, 100))
    assert set(world.driver.observe().members) == {"chat"}


# --- Prometheus ------------------------------------------------------------------------------


def test_prometheus_scrapes_engines_and_gateway(
    world: World, port: int, prometheus_binary: Path
) -> None:
    world.programs = replace(world.programs, prometheus=prometheus_binary)
    world.driver = world.another()
    assert world.driver.runs_prometheus()
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    resource = PrometheusResource(None, 1.0, 3600.0)
    world.do("monitoring/prometheus", StartPrometheus("prometheus-a", resource))
    (found,) = [c for c in world.driver.observe().components if c.id == "prometheus-a"]
    assert found.state is State.SERVING
    assert found.endpoint is not None

    def up() -> dict[str, str]:
        url = f"http://{found.endpoint}/api/v1/query?query=up"
        with urllib.request.urlopen(url, timeout=5) as answer:
            series = json.load(answer)["data"]["result"]
        return {one["metric"]["instance"]: one["value"][1] for one in series}

    until(lambda: up() == {A: "1", GATE: "1"}, deadline_s=30)
    world.do("chat/replica/1", StopReplica(A, 5.0))
    until(lambda: set(up()) == {GATE}, deadline_s=30)
    world.do("monitoring/prometheus", StopPrometheus("prometheus-a"))
    assert [c.id for c in world.driver.observe().components] == [GATE]


def test_without_prometheus_its_start_says_so(world: World) -> None:
    world.programs = replace(world.programs, prometheus=None)
    world.driver = world.another()
    assert not world.driver.runs_prometheus()
    with pytest.raises(ActionFailed, match="no Prometheus"):
        world.do(
            "monitoring/prometheus",
            StartPrometheus("prometheus-a", PrometheusResource(None, 1.0, 3600.0)),
        )
