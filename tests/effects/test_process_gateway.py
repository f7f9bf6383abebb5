"""Envoy and Prometheus as detached processes, on the real programs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from enova.base.errors import ActionFailed
from enova.base.secret import SecretRef
from enova.capacity.workload import Trace
from enova.effects import gateway as envoy
from enova.effects import trace_ring
from enova.effects.access_log import numbered
from enova.effects.drivers import gateway_files, members
from enova.effects.drivers.ports import free_port
from enova.effects.gateway_admin import GatewayAdmin
from enova.stack.actions import (
    ChangeGateway,
    Drain,
    Join,
    Leave,
    StartGateway,
    StartMonitor,
    StopGateway,
    StopMonitor,
    StopReplica,
)
from enova.stack.observed import State
from enova.stack.resources import KeyReference, MonitorResource, Route
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


class Load:
    """Clients that ask in a loop, half of them on a connection they keep, within ``with``."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.results: list[str] = []
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(keeps,))
            for keeps in (True, True, False, False)
        ]

    def _ask(self, keeps: bool) -> None:
        port = self.port
        client = httpx.Client(timeout=20)
        while not self._end.is_set():
            if not keeps:
                client.close()
                client = httpx.Client(timeout=20)
            try:
                answer = client.post(
                    f"http://127.0.0.1:{port}/v1/completions",
                    json={"model": "chat", "prompt": "Hello"},
                    headers={"authorization": f"Bearer {self.key}"},
                )
                self.results.append(str(answer.status_code))
            except httpx.TransportError as error:
                if port == self.port:
                    self.results.append(repr(error))
                port = self.port  # the old one is closed: as a client would, go to the new one
        client.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        target = len(self.results) + count
        until(lambda: len(self.results) >= target)


def test_a_gateway_is_changed_while_requests_come(world: World, port: int) -> None:
    world.surroundings |= {"ALICE": "key-a", "BOB": "key-b"}
    world.driver = world.another()
    alice = KeyReference("alice", SecretRef(env="ALICE"))
    bob = KeyReference("bob", SecretRef(env="BOB"), rate=2.0)
    both = (Route("chat", "chat"), Route("code", "coder"))
    other = free_port((port,), seed="gateway-tests-other")
    steps: tuple[dict[str, object], ...] = (
        {"max_pending": 7, "max_requests": 99},
        {"rate": 1e6, "idle_timeout_s": 30.0, "max_body_bytes": 2**20},
        {"routes": both, "routing": "prefix"},
        {"keys": (alice,)},
        {"keys": (replace(alice, rate=1e6), bob), "routes": both},
        {"host": "0.0.0.0"},
        {"host": "0.0.0.0", "keys": (bob, alice)},
        {},
    )
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    process = world.folder(A).process()
    assert process is not None
    (folder,) = [f for f in world.ground.owned() if f.id == GATE]
    pid = folder.process()
    slow: list[object] = []
    waiting = threading.Thread(target=lambda: slow.append(post(port, wait_s=3)))
    waiting.start()
    with Load(port, "key-a") as load:
        load.more(20)
        for step in steps:
            wanted = gateway(port, **step)
            world.do("gateway", ChangeGateway(GATE, wanted))
            (found,) = world.driver.observe().components
            assert (found.id, found.digest, found.state) == (GATE, wanted.digest, State.SERVING)
            load.more(20)
            if "keys" in step:
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    post(port, key="wrong")
        moved = gateway(other)
        load.port = other
        world.do("gateway", ChangeGateway(GATE, moved))
        assert world.driver.observe().components[0].endpoint == f"127.0.0.1:{other}"
        load.more(20)
    waiting.join()
    assert set(load.results) == {"200"}
    assert len(slow) == 1
    assert folder.process() == pid
    assert not (folder.path / "keys.json").exists()
    with pytest.raises(urllib.error.URLError, match="refused"):
        post(port)


def test_tls_comes_changes_and_goes(world: World, port: int) -> None:
    """An open request goes on through all of it; new ones find what was asked for."""

    def certificate(name: str) -> dict[str, str]:
        paths = [str(world.state.parent / f"{name}.{end}") for end in ("pem", "key")]
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        words = (*command.split(), "-days", "2", "-subj", f"/CN={name}")
        subprocess.run(
            [*words, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True
        )
        return {"tls_certificate": paths[0], "tls_key": paths[1]}

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    slow: list[object] = []
    waiting = threading.Thread(target=lambda: slow.append(post(port, wait_s=2)))
    waiting.start()
    for name in ("one", "two"):
        files = certificate(name)
        world.do("gateway", ChangeGateway(GATE, gateway(port, **files)))
        assert shown() == Path(files["tls_certificate"]).read_text()
        answer = httpx.get(f"https://127.0.0.1:{port}/v1/models", verify=False, timeout=20)
        assert answer.json()["data"][0]["id"] == "chat"
    world.do("gateway", ChangeGateway(GATE, gateway(port)))
    assert post(port)["choices"]
    waiting.join()
    assert len(slow) == 1


def test_a_change_that_was_not_noted_is_done_again(world: World, port: int) -> None:
    """As when enova is killed after Envoy took it: the port is the gateway's own by then."""
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    folder = next(f for f in world.ground.owned() if f.id == GATE)
    before = folder.meta()
    assert before is not None
    other = free_port((port,), seed="gateway-tests-other")
    wanted = gateway(other, routes=(Route("chat", "chat"), Route("code", "coder")))
    world.do("gateway", ChangeGateway(GATE, wanted))
    folder.write_meta(before)
    world.do("gateway", ChangeGateway(GATE, wanted))
    (found,) = world.driver.observe().components
    assert (found.digest, found.endpoint) == (wanted.digest, f"127.0.0.1:{other}")
    assert post(other)["choices"]
    folder.write_meta(before)
    world.do("gateway", ChangeGateway(GATE, gateway(port)))
    assert post(port)["choices"]


def test_a_service_that_joins_later_is_there_at_once(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    both = (Route("chat", "chat"), Route("code", "coder"))
    world.do("gateway", ChangeGateway(GATE, gateway(port, routes=both)))
    world.start(B, service="code", served_name="coder")
    world.wait(B)
    world.do("code/replica/0", Join("code", B, 100))
    assert post(port, model="coder")["choices"]
    assert post(port)["choices"]


def test_each_key_has_its_own_rate(world: World, port: int) -> None:
    world.surroundings |= {"A": "key-a", "B": "key-b", "C": "key-c"}
    world.driver = world.another()
    keys = (
        KeyReference("a", SecretRef(env="A"), rate=0.01),
        KeyReference("b", SecretRef(env="B"), rate=3.0),
        KeyReference("c", SecretRef(env="C")),
    )
    world.do("gateway", StartGateway(GATE, gateway(port, keys=keys)))
    serve(world, A)

    def passed(key: str) -> list[bool]:
        found = []
        for _ in range(8):
            try:
                found.append(bool(post(port, key=key)["choices"]))
            except urllib.error.HTTPError as error:
                assert error.code == 429
                found.append(False)
        return found

    assert passed("key-a") == [True] + [False] * 7
    assert passed("key-b")[:3] == [True] * 3
    assert not all(passed("key-b"))
    assert passed("key-c") == [True] * 8


def test_the_access_log_is_bounded_and_loses_nothing(world: World, port: int) -> None:
    world.access_log_bytes = 8 * 6000
    world.driver = world.another()
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    began = time.time() - 1
    log = world.ground.gateway / trace_ring.LOG_NAME
    with Load(port, "any") as load:
        for _ in range(3):
            load.more(30)
            until(lambda: log.exists() and log.stat().st_size > 6000)
            inode = log.stat().st_ino
            world.driver.tend()
            assert numbered(log, 1).stat().st_ino == inode
    assert set(load.results) == {"200"}

    def trace() -> Trace:
        return trace_ring.read_trace(world.ground.gateway, since=began)

    until(lambda: log.exists() and len(trace().requests) >= len(load.results))
    assert len(trace().requests) == len(load.results)
    assert {(r.service, r.replica, r.status) for r in trace().requests} == {("chat", A, 200)}
    kept = [path for path in log.parent.iterdir() if path.name.startswith(log.name)]
    assert 4 == len(kept) <= 1 + trace_ring.KEPT_FILES


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


def test_a_port_somebody_has_is_not_moved_to(world: World, port: int) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    before = world.driver.observe()
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        taken = foreign.getsockname()[1]
        with pytest.raises(ActionFailed, match=rf"port {taken} .* taken by pid {os.getpid()}"):
            world.do("gateway", ChangeGateway(GATE, gateway(taken)))
    metrics = int(str(world.driver.gateway_metrics()).rpartition(":")[2])
    with pytest.raises(ActionFailed, match=f"port {metrics} .* taken by pid"):
        world.do("gateway", ChangeGateway(GATE, gateway(metrics)))
    assert world.driver.observe() == before
    assert post(port)["choices"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tls_certificate": "/nowhere/c.pem", "tls_key": "/nowhere/k.pem"}, "/nowhere/c.pem"),
        ({"routes": TWICE}, "two services serve the same model name: same"),
        ({"host": "203.0.113.7"}, "203.0.113.7 is not an address of this machine"),
        ({"keys": (KeyReference("a", SecretRef(env="NOT_SET")),)}, "NOT_SET"),
    ],
)
def test_a_refused_change_leaves_the_running_gateway(
    world: World, port: int, more: dict[str, object], reason: str
) -> None:
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    before = world.driver.observe()
    with pytest.raises(ActionFailed) as caught:
        world.do("gateway", ChangeGateway(GATE, gateway(port, **more)))
    assert reason in caught.value.reason
    assert world.driver.observe() == before
    assert post(port)["choices"]


def test_what_envoy_refuses_is_put_back(
    world: World, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its check beforehand finds most of it: here it finds nothing."""
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    before = world.driver.observe()
    monkeypatch.setattr(gateway_files, "template_text", lambda _: "no lua (")
    with pytest.raises(ActionFailed, match="script load error"):
        world.do("gateway", ChangeGateway(GATE, gateway(port, max_pending=7)))
    monkeypatch.setattr(envoy, "validate", lambda *_: [])
    with pytest.raises(ActionFailed, match="script load error"):
        world.do("gateway", ChangeGateway(GATE, gateway(port, max_pending=7)))
    assert world.driver.observe() == before
    assert post(port)["choices"]
    monkeypatch.undo()
    world.do("gateway", ChangeGateway(GATE, gateway(port, max_pending=7)))


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
    monkeypatch.setattr(members, "APPLIED_S", 0.5)
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

PROMETHEUS = MonitorResource(
    "prometheus", settings=(("retention", 3600.0), ("scrape_interval", 1.0))
)


def test_prometheus_scrapes_engines_and_gateway(
    world: World, port: int, prometheus_binary: Path
) -> None:
    world.programs = replace(world.programs, monitors={"prometheus": prometheus_binary})
    world.driver = world.another()
    assert world.driver.runs_monitors() == {"prometheus"}
    world.do("gateway", StartGateway(GATE, gateway(port)))
    serve(world, A)
    world.do("monitoring/prometheus", StartMonitor("prometheus-a", PROMETHEUS))
    (found,) = [c for c in world.driver.observe().components if c.id == "prometheus-a"]
    assert found.state is State.SERVING
    assert found.endpoint is not None

    def up() -> dict[str, str]:
        url = f"http://{found.endpoint}/api/v1/query?query=up"
        with urllib.request.urlopen(url, timeout=5) as answer:
            series = json.load(answer)["data"]["result"]
        return {one["metric"]["instance"]: one["value"][1] for one in series}

    own = {"prometheus-a": "1"}
    until(lambda: up() == {A: "1", GATE: "1", **own}, deadline_s=30)
    world.do("chat/replica/1", StopReplica(A, 5.0))
    until(lambda: set(up()) == {GATE, *own}, deadline_s=30)
    world.do("monitoring/prometheus", StopMonitor("prometheus-a"))
    assert [c.id for c in world.driver.observe().components] == [GATE]


def test_without_prometheus_its_start_says_so(world: World) -> None:
    world.programs = replace(world.programs, monitors={})
    world.driver = world.another()
    assert world.driver.runs_monitors() == frozenset()
    with pytest.raises(ActionFailed, match="no prometheus on PATH"):
        world.do("monitoring/prometheus", StartMonitor("prometheus-a", PROMETHEUS))
