"""`examples/compose` from its first plan to nothing: what its README shows, on a real Docker.

The example's own files, with free ports and a name of this test's in place of theirs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.parts import real
from tests.parts.containers import DockerEngine
from tests.scenario.containers import ContainerStack
from tests.scenario.test_obligations import nothing_failed
from tests.scenario.world import DIFFERENT, OK, Stack, free_ports, step, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

EXAMPLE = real.ROOT / "examples" / "compose"
IMAGES = ("enova", "envoy", "alertmanager", "node-exporter", "prometheus")
SERVICE = "chat"
PROMETHEUS, ALERTMANAGER = "32826", "9093"


@dataclass(kw_only=True)
class Example(ContainerStack):
    """The example's folder, copied, and where its programs are."""

    prometheus: str
    alertmanager: str

    @property
    def file(self) -> Path:
        return self.folder / "chat.enova.yaml"

    @property
    def environment(self) -> dict[str, str]:
        programs = Path(sys.executable).parent
        return {**super().environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def known(self, query: str) -> dict[str, float]:
        """What Prometheus answers, by instance."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query})
        found = answer.raise_for_status().json()["data"]["result"]
        return {one["metric"]["instance"]: float(one["value"][1]) for one in found}

    def alerts(self) -> set[tuple[str, str]]:
        """Name and address of every alert that Alertmanager has."""
        found = httpx.get(f"{self.alertmanager}/api/v2/alerts").raise_for_status().json()
        return {(one["labels"]["alertname"], one["labels"]["address"]) for one in found}


@pytest.fixture
def example(
    docker_engine: DockerEngine, docker_image: Callable[[str], str], stacks: list[Stack]
) -> Iterator[Example]:
    """The example, of which nothing runs yet."""
    for image in IMAGES:
        docker_image(image)
    folder = Path(tempfile.mkdtemp(prefix="enova-s-"))
    name = f"containers-{folder.name.rpartition('-')[2].lower().replace('_', '')}"
    ports = free_ports()
    swapped = {p: str(next(ports)) for p in ("9199", PROMETHEUS, ALERTMANAGER)}
    text = (EXAMPLE / "chat.enova.yaml").read_text().replace("name: containers", f"name: {name}")
    for shown, free in swapped.items():
        text = re.sub(rf"port: {shown}\b", f"port: {free}", text)
    made = Example(
        folder,
        yaml.safe_load(text),
        docker=docker_engine,
        prometheus=f"http://127.0.0.1:{swapped[PROMETHEUS]}",
        alertmanager=f"http://127.0.0.1:{swapped[ALERTMANAGER]}",
    )
    # As it is, with its comments.
    made.file.write_text(text)
    shutil.copy(EXAMPLE / "run.sh", folder)
    stacks.append(made)
    yield made
    made.clean()
    stacks.remove(made)
    shutil.rmtree(folder)


def test_the_example_does_what_its_readme_shows(example: Example) -> None:
    with step("run.sh plans, applies, asks and shows"):
        ran = subprocess.run(
            ["sh", "run.sh"],
            cwd=example.folder,
            env=example.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == OK, f"{ran.stdout}{ran.stderr}"
        assert "+ monitoring/alertmanager  new" in ran.stdout
        assert re.search(r"chat-replica-1-\w+ +enova:\S+ +Up", ran.stdout), ran.stdout
        assert ran.stdout.count("curl http") == 3
        assert f"{SERVICE}  2 of 2 ordered serving" in ran.stdout
    with step("scaled to three, under load"):
        first = example.in_rotation(SERVICE)
        with example.load(5.0, tokens=8) as load:
            load.more(5)
            example.edit("min: 2", "min: 3")
            example.apply()
            (third,) = example.in_rotation(SERVICE) - first
            load.more(10)
        nothing_failed(load)
    with step("Prometheus has numbers of the new one within 15 s after it serves"):
        until(
            "it is read",
            lambda: third in example.known("vllm:num_requests_running"),
            within_s=15,
        )
    with step("everything else is read, too, and no alert fires"):
        until("all answer", lambda: set(example.known("up").values()) == {1.0}, within_s=15)
        assert len(example.known('up{job="engines"}')) == 3
        assert len(example.known("up")) == 3 + 4
        assert example.alerts() == set()
    with step("one is stopped by hand: diff says so, an alert reaches Alertmanager"):
        victim = sorted(first)[0]
        address = victim.rpartition("-")[0].replace("-replica-", "/replica/")
        example.docker.docker("stop", example.container(victim))
        told = example.enova("diff", str(example.file), expect=DIFFERENT)
        assert "stopped by hand" in told.out, told
        until("it fires", lambda: ("ReplicaDown", address) in example.alerts(), within_s=90)
        assert "ReplicaDown" in example.enova("mon", "status", example.name, expect=None).out
    with step("the reconciler mends it, and the alert resolves"), example.reconciling(every="5s"):
        until("three serve", lambda: len(example.in_rotation(SERVICE) - {victim}) == 3, within_s=60)
        until("it is over", lambda: example.alerts() == set(), within_s=90)
    with step("nothing is left to do"):
        example.enova("diff", str(example.file), expect=OK)
    with step("destroy leaves no container, network or volume, and no file but the journal"):
        example.enova("destroy", example.name, "--yes")
        assert example.docker.belongings(example.project) == []
        files = {p.name for p in example.state.rglob("*") if not p.is_dir()}
        assert files == {"journal.jsonl"}


def test_its_spec_is_what_the_readme_says() -> None:
    spec = yaml.safe_load((EXAMPLE / "chat.enova.yaml").read_text())
    readme = (EXAMPLE / "README.md").read_text()
    assert spec["name"] in readme
    for port in ("9199", PROMETHEUS, ALERTMANAGER):
        assert port in json.dumps(spec)
        assert port in readme
