"""``enova render`` for the compose target: the folder runs by hand, and is the plan's outcome."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import yaml

from enova.effects.drivers.fake import FakeDriver, World
from enova.effects.drivers.ports import free_port
from enova.stack.actions import StartReplica
from enova.stack.render.compose_lint import lint
from enova.workflows.loading import Source
from enova.workflows.plan import plan
from enova.workflows.render import render, write_files
from enova.workflows.wiring import Surroundings
from tests.parts import containers
from tests.workflows.rehearsal import Rehearsal, hosts

CANARY = "sk-canary-0123456789abcdef"

SPEC = """
version: 1
name: {name}
services:
  chat:
    model: Qwen/Qwen2.5-7B-Instruct
    engine: {{name: vllm, env: {{HF_TOKEN: {{env: HF_TOKEN}}}}}}
    traffic: {{peak: 2/s}}
    scale: {{min: {count}}}
  drill:
    model: Qwen/Qwen2.5-0.5B-Instruct
    engine: emulator
    traffic: {{peak: 1/s}}
gateway:
  api_keys: [{{name: ops, secret: {{env: OPS_KEY}}}}]
pool: {{target: compose}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Rehearsal:
    """A stack on the compose target, of which the fake stands for the containers."""
    found = Rehearsal(tmp_path, hosts(8))
    environment = {**found.surroundings.environment, "HF_TOKEN": CANARY, "OPS_KEY": CANARY}
    found.surroundings = replace(found.surroundings, environment=environment)
    found.write(SPEC.format(name="web", count=2))
    return found


def rendered(of: Rehearsal) -> tuple[dict[str, str], dict[str, Any]]:
    """The files of the plan, and ``compose.yaml`` as data."""
    planned = of.plan()
    files = render(planned.plan, planned.site)
    return files, yaml.safe_load(files["compose.yaml"])


def replicas(document: dict[str, Any]) -> dict[str, str]:
    """Instances by their slots."""
    return {
        service["labels"]["enova.address"]: name
        for name, service in document["services"].items()
        if service["labels"]["enova.kind"] == "replica"
    }


def test_what_is_there(shop: Rehearsal) -> None:
    files, document = rendered(shop)
    assert {
        ".env.example",
        "compose.yaml",
        "enova-web.service",
        "gateway/bootstrap.json",
        "gateway/keys.json",
        "gateway/run/.keep",
        "log/.keep",
        "members/chat.json",
        "members/drill.json",
        "monitoring/prometheus/config/prometheus.yml",
        "monitoring/prometheus/data/.keep",
        "monitoring/targets/engines.json",
        "plan.json",
    } <= set(files)
    assert not [name for name in files if name.startswith("engines/")]
    assert sorted(replicas(document)) == ["chat/replica/0", "chat/replica/1", "drill/replica/0"]


def test_every_folder_that_is_mounted_is_written(shop: Rehearsal) -> None:
    files, document = rendered(shop)
    for service in document["services"].values():
        for mount in service.get("volumes", ()):
            if mount["type"] == "bind":
                folder = mount["source"].removeprefix("./") + "/"
                assert any(name.startswith(folder) for name in files), mount


def test_no_secret_is_in_it_and_each_is_asked_for(shop: Rehearsal) -> None:
    files, document = rendered(shop)
    assert not [name for name, text in files.items() if CANARY in text]
    chat = document["services"][replicas(document)["chat/replica/0"]]
    assert chat["environment"]["HF_TOKEN"].startswith("${ENOVA_CHAT__HF_TOKEN:?")
    example = files[".env.example"].splitlines()
    assert "ENOVA_CHAT__HF_TOKEN=" in example
    assert any("ops (environment variable OPS_KEY)" in line for line in example)


def test_gateway_and_prometheus_know_the_replicas(shop: Rehearsal) -> None:
    files, document = rendered(shop)
    services = document["services"]
    chat = [name for slot, name in replicas(document).items() if slot.startswith("chat/")]
    for name in chat:
        address = services[name]["networks"]["inside"]["ipv4_address"]
        assert f'"{address}"' in files["members/chat.json"]
        assert name in files["members/chat.json"]
        assert f"{address}:8000" in files["monitoring/targets/engines.json"]
    targets = json.loads(files["monitoring/targets/gateway.json"])
    assert [target["labels"]["instance"] in services for target in targets] == [True]


def test_it_is_the_file_after_the_plan_is_done(shop: Rehearsal) -> None:
    _, before = rendered(shop)
    applied = shop.apply()
    assert applied.outcome.result == "succeeded"
    _, after = rendered(shop)
    assert after["services"].keys() == before["services"].keys()
    assert set(replicas(after).values()) == {i.id for i in shop.driver.observe().instances}
    held = {i.id: i.placement.gpus for i in shop.driver.observe().instances}
    for slot, name in replicas(after).items():
        resources = after["services"][name]["deploy"]["resources"]
        if slot.startswith("drill/"):
            assert "reservations" not in resources, "the emulator takes no device"
            continue
        (device,) = resources["reservations"]["devices"]
        assert device["device_ids"] == [str(index) for index in held[name]]
    # The user is whoever runs the tests, who may be root.
    assert {finding.rule for finding in lint(after)} <= {"C05"}


def test_what_the_plan_stops_is_gone_and_what_it_starts_is_there(shop: Rehearsal) -> None:
    shop.apply()
    old = set(replicas(rendered(shop)[1]).values())
    text = SPEC.format(name="web", count=2).replace("name: vllm,", "name: vllm, args: {seed: 7},")
    shop.write(text)
    planned = shop.plan()
    started = {a.do.instance for a in planned.plan.actions if isinstance(a.do, StartReplica)}
    new = set(replicas(rendered(shop)[1]).values())
    assert new - old == started
    assert len(old - new) == len(started) == 2


BY_HAND = """
version: 1
name: {name}
services:
  chat:
    model: Qwen/Qwen2.5-0.5B-Instruct
    engine: emulator
    traffic: {{peak: 1/s}}
    scale: {{min: 2}}
gateway: {{port: {port}}}
monitoring: {{prometheus: {{port: {metrics}}}, node: on}}
pool: {{target: compose}}
"""


@dataclass(frozen=True)
class ByHand:
    """A rendered folder whose containers run."""

    engine: containers.DockerEngine
    folder: Path
    port: int
    metrics: int

    def compose(self, *words: str) -> str:
        return self.engine.docker("compose", *words, cwd=self.folder)


@pytest.fixture
def by_hand(
    tmp_path: Path,
    docker_engine: containers.DockerEngine,
    docker_image: Callable[[str], str],
    docker_project: str,
) -> ByHand:
    for name in ("enova", "envoy", "node-exporter", "prometheus"):
        docker_image(name)
    port = free_port(set(), seed=docker_project)
    metrics = free_port({port}, seed=docker_project)
    spec = tmp_path / "by.enova.yaml"
    name = docker_project.removeprefix("enova-")
    spec.write_text(BY_HAND.format(name=name, port=port, metrics=metrics))
    world = World(
        inventory=replace(hosts(2), emulated=True),
        monitors=["node-exporter", "prometheus"],
    )
    surroundings = Surroundings(
        {"ENOVA_STATE_DIR": str(tmp_path / "state")}, open_driver=lambda *_, **__: FakeDriver(world)
    )
    planned = plan(Source(str(spec)), surroundings)
    out = tmp_path / "out"
    write_files(render(planned.plan, planned.site), out, force=False)
    return ByHand(docker_engine, out, port, metrics)


@pytest.mark.real
def test_the_folder_runs_by_hand(by_hand: ByHand, docker_project: str) -> None:
    by_hand.compose("up", "--detach", "--wait", "--wait-timeout", "90")
    question = {"model": "chat", "prompt": "one two three", "max_tokens": 4}
    url = f"http://127.0.0.1:{by_hand.port}/v1/completions"
    answers = [httpx.post(url, json=question, timeout=30) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 8
    jobs = dict.fromkeys(("engines", "gateway", "node-exporter", "prometheus"), 1.0)
    deadline = monotonic() + 40
    while (seen := up(f"127.0.0.1:{by_hand.metrics}")) != jobs and monotonic() < deadline:
        sleep(0.5)
    assert seen == jobs
    with_volumes = by_hand.engine.docker(
        "inspect",
        "--format",
        '{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}} {{end}}{{end}}',
        *by_hand.compose("ps", "--quiet").split(),
    )
    assert with_volumes.split() == [], "no image's own volume is made without a name"
    by_hand.compose("down", "--volumes", "--timeout", "10")
    assert by_hand.engine.belongings(docker_project) == []


def up(address: str) -> dict[str, float]:
    """``up`` of every target by job, the least of each."""
    asked = {"query": "min by (job) (up)"}
    found = httpx.get(f"http://{address}/api/v1/query", params=asked, timeout=10).json()
    return {one["metric"]["job"]: float(one["value"][1]) for one in found["data"]["result"]}
