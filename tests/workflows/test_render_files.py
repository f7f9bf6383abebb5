"""Rendered files: what Envoy accepts, what systemd reads, and never a secret."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from enova.base.errors import Refused
from enova.capacity.inventory import from_plain
from enova.effects import gateway
from enova.effects.clock import ManualClock
from enova.effects.drivers.fake import World
from enova.stack.render.envoy_secrets import render_api_keys
from enova.stack.render.unit import ReconcileUnit, quoted, render_unit
from enova.workflows.destroy import plan_destroy
from enova.workflows.loading import Source
from enova.workflows.plan import plan
from enova.workflows.render import render, write_files
from enova.workflows.wiring import Surroundings
from tests.transcript.session import POOL, WatchedDriver

CANARY = "sk-canary-0123456789"

SPEC = """
version: 1
name: shop
services:
  chat:
    model: Qwen/Qwen2.5-7B-Instruct
    engine: {env: {HF_TOKEN: {env: HF_TOKEN}, NOTE: "two words"}}
    traffic: {peak: 5/s}
  drill:
    model: Qwen/Qwen2.5-0.5B-Instruct
    engine: emulator
    traffic: {peak: 5/s}
gateway:
  api_keys: [{name: ops, secret: {env: OPS_KEY}}]
pool:
  hosts: [{name: gpu-a, devices: [{gpu: h100-sxm-80gb, count: 4}]}]
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A state folder with a short name: the path of a socket in it may be 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="e") as name:
        yield Path(name) / "state of 100%"


@pytest.fixture
def surroundings(root: Path) -> Surroundings:
    driver = WatchedDriver(World(inventory=from_plain(POOL)))
    environment = {
        "ENOVA_STATE_DIR": str(root),
        "PATH": "/usr/bin",
        "HF_TOKEN": CANARY,
        "OPS_KEY": CANARY,
    }
    return Surroundings(environment, ManualClock(), lambda *_, **__: driver)


@pytest.fixture
def files(tmp_path: Path, surroundings: Surroundings) -> dict[str, str]:
    path = tmp_path / "shop.enova.yaml"
    path.write_text(SPEC)
    planned = plan(Source(str(path)), surroundings)
    return render(planned.plan, planned.site)


def test_what_is_there(files: dict[str, str]) -> None:
    assert list(files) == [
        "engines/chat.json",
        "engines/chat.sh",
        "engines/drill.json",
        "engines/drill.sh",
        "enova-shop.service",
        "gateway/bootstrap.json",
        "gateway/clusters.json",
        "gateway/listeners.json",
        "gateway/members/chat.json",
        "gateway/members/drill.json",
        "gateway/routes.json",
        "monitoring/prometheus/config/prometheus.yml",
        "monitoring/prometheus/config/rules.yml",
        "plan.json",
    ]


def test_no_secret_is_in_them_but_where_it_is_read(files: dict[str, str]) -> None:
    assert not any(CANARY in text for text in files.values())
    assert json.loads(files["engines/chat.json"])["secrets"] == {
        "HF_TOKEN": "environment variable HF_TOKEN"
    }
    assert "HF_TOKEN, OPS_KEY" in files["enova-shop.service"]


def test_the_command_of_an_engine(files: dict[str, str]) -> None:
    data = json.loads(files["engines/chat.json"])
    assert data["command"][:3] == ["vllm", "serve", "Qwen/Qwen2.5-7B-Instruct"]
    assert data["command"][-2:] == ["--port", "{port}"]
    script = files["engines/chat.sh"]
    assert "export NOTE='two words'\n" in script
    last = script.splitlines()[-1]
    assert shlex.split(last) == ["exec", *data["command"][:-1], "$PORT"]
    assert "CUDA_VISIBLE_DEVICES=" not in script
    drill = json.loads(files["engines/drill.json"])
    assert drill["command"][:2] == ["enova", "emulator"]


def test_the_unit_keeps_engines_alive(files: dict[str, str], root: Path) -> None:
    lines = files["enova-shop.service"].splitlines()
    assert "KillMode=process" in lines
    assert f'Environment="ENOVA_STATE_DIR={root}%"' in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert start.endswith("-m enova reconcile shop")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("plain-word/1.2", "plain-word/1.2"),
        ("two words", '"two words"'),
        ("100%", '"100%%"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("", '""'),
    ],
)
def test_quoting_for_systemd(word: str, shown: str) -> None:
    assert quoted(word) == shown


def test_a_dollar_is_a_variable_in_a_command_only() -> None:
    unit = ReconcileUnit("shop", "", ["run", "a$b"], "/", {"A": "x$y"})
    text = render_unit(unit, "{{ command }}|{{ environment[0] }}")
    assert text == 'run "a$$b"|"A=x$y"'


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_files({"a/b.sh": "text"}, folder, force=False)
    assert (folder / "a/b.sh").read_text() == "text"
    with pytest.raises(Refused, match="not empty"):
        write_files({"a/b.sh": "other"}, folder, force=False)
    write_files({"a/b.sh": "other"}, folder, force=True)
    assert (folder / "a/b.sh").read_text() == "other"


def test_a_plan_to_destroy_uses_no_files(tmp_path: Path, surroundings: Surroundings) -> None:
    path = tmp_path / "shop.enova.yaml"
    path.write_text(SPEC)
    here = plan(Source(str(path)), surroundings).site
    with pytest.raises(Refused, match="destroy"):
        render(plan_destroy(here), here)


@pytest.mark.real
def test_envoy_accepts_the_files(files: dict[str, str], envoy_binary: Path) -> None:
    bootstrap = json.loads(files["gateway/bootstrap.json"])
    clusters, listeners, routes = (
        json.loads(files[f"gateway/{name}.json"])["resources"]
        for name in ("clusters", "listeners", "routes")
    )
    source = bootstrap.pop("dynamic_resources")["cds_config"]["path_config_source"]
    folder = Path(source["path"]).parent
    # In one document, because Envoy's check does not read further files.
    manager = listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager.pop("rds")["config_source"]["path_config_source"]["path"] == str(
        folder / "routes.json"
    )
    (manager["route_config"],) = routes
    del manager["route_config"]["@type"]
    for resource in (*clusters, *listeners):
        del resource["@type"]
    bootstrap["static_resources"] = {"clusters": clusters, "listeners": listeners}
    members = Path(bootstrap_members(bootstrap))
    members.mkdir(parents=True)
    for name in ("chat", "drill"):
        (members / f"{name}.json").write_text(files[f"gateway/members/{name}.json"])
    gateway.write_files(folder, {"keys.json": render_api_keys({})})
    assert gateway.validate(bootstrap, envoy_binary) == []


def bootstrap_members(bootstrap: dict[str, object]) -> str:
    """The watched directory a bootstrap names."""
    found = [
        str(value)
        for key, value in walk(bootstrap)
        if key == "path" and str(value).endswith("/members/chat.json")
    ]
    return str(Path(found[0]).parent)


def walk(value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in [(str(k), v), *walk(v)]]
    if isinstance(value, list):
        return [pair for item in value for pair in walk(item)]
    return []
