"""Prometheus, Alertmanager and node exporter as detached processes, on the real programs."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from enova.base.errors import ActionFailed
from enova.base.secret import SecretRef
from enova.effects.drivers.process_folder import Folder
from enova.stack.actions import ChangeMonitor, RemoveStack, StartMonitor, StopMonitor
from enova.stack.observed import Component, State
from enova.stack.resources import MonitorResource
from enova.stack.watched import LatencyGoal, Limit, Watched, WatchedService
from tests.effects.process_world import World, until
from tests.parts import real

pytestmark = pytest.mark.real

AT = "monitoring/{}"
NODE = MonitorResource("node-exporter")
NOBODY = MonitorResource("alertmanager")
TOLD = replace(NOBODY, secrets=(("webhook", SecretRef(env="ALERTS_URL")),))


def watched(limit_s: float) -> Watched:
    goal = LatencyGoal("ttft_p95", Limit("ttft", limit_s, (limit_s,)), 0.95)
    service = WatchedService("chat", "vllm", "0.32.0", 0.999, goals=(goal,))
    return Watched((service,), scrape_interval_s=1.0)


def prometheus(limit_s: float = 0.5) -> MonitorResource:
    return MonitorResource(
        "prometheus",
        settings=(("retention", 3600.0), ("scrape_interval", 1.0)),
        watched=watched(limit_s),
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    here = World(tmp_path / "demo")
    parts = {"prometheus": "prometheus", "alertmanager": "alertmanager"}
    here.programs = replace(
        here.programs,
        monitors={
            **{name: real.part_binary(part) for name, part in parts.items()},
            "node-exporter": real.part_binary("node_exporter"),
        },
    )
    here.driver = here.another()
    yield here
    here.end()


class Receiver(BaseHTTPRequestHandler):
    """Takes what Alertmanager sends."""

    got: ClassVar[list[dict[str, Any]]]

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's URL, and what it was sent."""
    got: list[dict[str, Any]] = []
    server = HTTPServer(("127.0.0.1", 0), type("Own", (Receiver,), {"got": got}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def seen(world: World, component: str) -> Component:
    (found,) = [one for one in world.driver.observe().components if one.id == component]
    return found


def start(world: World, component: str, resource: MonitorResource) -> Component:
    world.do(resource.address, StartMonitor(component, resource))
    return seen(world, component)


def pid(world: World, component: str) -> int:
    process = Folder(world.ground.components / component).process()
    assert process is not None
    return process.pid


def get(component: Component, path: str) -> Any:
    with urllib.request.urlopen(f"http://{component.endpoint}{path}", timeout=5) as answer:
        return json.load(answer)


def send_alert(component: Component, name: str) -> None:
    alert = [{"labels": {"alertname": name, "severity": "page", "stack": "demo"}}]
    request = urllib.request.Request(
        f"http://{component.endpoint}/api/v2/alerts",
        data=json.dumps(alert).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        assert answer.status == 200


def test_prometheus_finds_the_others_and_forgets_them(world: World) -> None:
    asked = start(world, "prometheus-a", prometheus())
    alerts = start(world, "alertmanager-a", NOBODY)
    start(world, "node-a", NODE)

    def up() -> dict[str, str]:
        found = get(asked, "/api/v1/query?query=up")["data"]["result"]
        return {one["metric"]["job"]: one["value"][1] for one in found}

    everyone = {"prometheus": "1", "alertmanager": "1", "node-exporter": "1"}
    until(lambda: up() == everyone, deadline_s=30)

    def told() -> list[str]:
        active = get(asked, "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        return [one["url"] for one in active]

    until(lambda: told() == [f"http://{alerts.endpoint}/api/v2/alerts"])
    world.do(AT.format("alertmanager"), StopMonitor("alertmanager-a"))
    world.do(AT.format("node-exporter"), StopMonitor("node-a"))
    until(lambda: set(up()) == {"prometheus"}, deadline_s=30)
    until(lambda: told() == [])


def test_another_goal_changes_the_rules_of_the_same_process(world: World) -> None:
    asked = start(world, "prometheus-a", prometheus(0.5))
    before = pid(world, "prometheus-a")

    def rules() -> str:
        return json.dumps(get(asked, "/api/v1/rules"))

    until(lambda: "0.5" in rules())
    assert "0.25" not in rules()
    world.do(asked.address, ChangeMonitor("prometheus-a", prometheus(0.25)))
    assert "0.25" in rules(), "it has read them when the action ends"
    after = seen(world, "prometheus-a")
    assert after.digest == prometheus(0.25).digest
    assert (pid(world, "prometheus-a"), after.endpoint) == (before, asked.endpoint)
    world.do(asked.address, ChangeMonitor("prometheus-a", prometheus(0.25)))


def test_another_receiver_is_told_and_a_wrong_one_leaves_the_old(world: World) -> None:
    with receiver() as (first, got), receiver() as (second, got_then):
        world.surroundings["ALERTS_URL"] = first
        world.driver = world.another()
        found = start(world, "alertmanager-a", TOLD)
        send_alert(found, "One")
        until(lambda: bool(got))
        assert got[0]["commonLabels"]["alertname"] == "One"

        world.surroundings["ALERTS_URL"] = "neither a URL"
        world.driver = world.another()
        other = replace(TOLD, secrets=(("webhook", SecretRef(file=str(world.state / "url"))),))
        (world.state / "url").write_text("neither a URL")
        with pytest.raises(ActionFailed, match="rejects its new files; the old ones are kept"):
            world.do(found.address, ChangeMonitor("alertmanager-a", other))
        assert seen(world, "alertmanager-a").digest == TOLD.digest
        send_alert(found, "Two")
        until(lambda: len(got) == 2)

        (world.state / "url").write_text(second)
        world.do(found.address, ChangeMonitor("alertmanager-a", other))
        assert seen(world, "alertmanager-a").digest == other.digest
        send_alert(found, "Three")
        until(lambda: bool(got_then))
        assert got_then[-1]["commonLabels"]["alertname"] == "Three"


def test_a_secret_is_only_in_a_file_of_this_user(world: World) -> None:
    secret = "http://127.0.0.1:1/canary-4711"
    world.surroundings["ALERTS_URL"] = secret
    world.driver = world.another()
    start(world, "alertmanager-a", TOLD)
    holding = [
        path
        for path in world.state.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert [path.name for path in holding] == ["alertmanager.yml"]
    assert holding[0].stat().st_mode & 0o077 == 0
    assert not any(secret in word for word in world.told)


def test_each_lives_from_start_to_stop(world: World) -> None:
    resources = {"p": prometheus(), "a": NOBODY, "n": NODE}
    for name, resource in resources.items():
        found = start(world, name, resource)
        assert (found.address, found.state) == (resource.address, State.SERVING)
        assert (found.digest, found.fields) == (resource.digest, resource.fields())
        world.do(resource.address, StartMonitor(name, resource))
        with pytest.raises(ActionFailed, match="another configuration"):
            world.do(resource.address, StartMonitor(name, replace(resource, port=1)))
    with pytest.raises(ActionFailed, match="still runs"):
        world.do("stack", RemoveStack())
    for name, resource in resources.items():
        world.do(resource.address, StopMonitor(name))
    assert world.driver.observe().components == ()
    assert world.mine() == []
    world.do("stack", RemoveStack())
    assert not (world.state / "run").exists()


def test_a_port_of_somebody_else_is_named(world: World) -> None:
    with receiver() as (url, _):
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(ActionFailed, match=f"port {port} is taken by .*monitoring.node.port"):
            start(world, "node-a", replace(NODE, port=port))
