"""The linter finds nothing in what is rendered, and everything that is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings

from enova.stack.render.compose_lint import BORNE, RULES, lint
from tests.stack.render.compose_worlds import PUBLIC, WORLDS, documents

Break = Callable[[dict[str, Any]], None]

CHAT, DOOR, GRAFANA = "chat-replica-0-3fa9c1", "gateway-77aa10", "monitoring-grafana-ab12cd"
NODE, DCGM = "monitoring-node-exporter-ab12cd", "monitoring-dcgm-exporter-ab12cd"
KEEPER = "reconciler-5d5d5d"


@settings(max_examples=200, deadline=None)
@given(documents())
def test_nothing_is_found_in_what_is_rendered(document: dict[str, object]) -> None:
    assert [finding.line() for finding in lint(document)] == []


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_nothing_is_found_in_the_reviewed_files(name: str) -> None:
    public = PUBLIC.get(name, frozenset())
    assert [finding.line() for finding in lint(WORLDS[name](), public=public)] == []


def put(service: str, *path: str, to: object) -> Break:
    """Set what is at a path of a service."""

    def change(document: dict[str, Any]) -> None:
        at = document["services"][service]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return change


def drop(service: str, *path: str) -> Break:
    """Take away what is at a path of a service."""

    def change(document: dict[str, Any]) -> None:
        at = document["services"][service]
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


def mount(service: str, source: str, *, writable: bool = False, create: bool = False) -> Break:
    """Mount one more folder."""

    def change(document: dict[str, Any]) -> None:
        document["services"][service].setdefault("volumes", []).append(
            {
                "type": "bind",
                "source": source,
                "target": "/mnt",
                "read_only": not writable,
                "bind": {"create_host_path": create},
            }
        )

    return change


def same_gpu(document: dict[str, Any]) -> None:
    document["services"]["chat-replica-9"] = deepcopy(document["services"][CHAT])
    document["services"]["chat-replica-9"]["networks"]["inside"]["ipv4_address"] = "10.213.7.9"


def not_internal(document: dict[str, Any]) -> None:
    document["networks"]["inside"]["internal"] = False


def no_subnet(document: dict[str, Any]) -> None:
    del document["networks"]["inside"]["ipam"]


DEVICES = ("deploy", "resources", "reservations", "devices")
BROKEN: list[tuple[str, Break]] = [
    ("C01", put(CHAT, "privileged", to=True)),
    ("C01", put(CHAT, "network_mode", to="host")),
    ("C01", put(CHAT, "pid", to="host")),
    ("C01", put(CHAT, "ipc", to="host")),
    ("C01", put(CHAT, "devices", to=["/dev/mem:/dev/mem"])),
    ("C02", drop(CHAT, "cap_drop")),
    ("C02", put(CHAT, "cap_add", to=["SYS_NICE"])),
    ("C02", put(DCGM, "cap_add", to=["SYS_ADMIN", "NET_ADMIN"])),
    ("C02", drop(DCGM, "cap_drop")),
    ("C03", drop(CHAT, "security_opt")),
    (
        "C03",
        put(CHAT, "security_opt", to=["no-new-privileges:true", "seccomp:unconfined"]),
    ),
    ("C04", drop(CHAT, "read_only")),
    ("C05", drop(CHAT, "user")),
    ("C05", put(CHAT, "user", to="root")),
    ("C05", put(CHAT, "user", to="0:0")),
    ("C06", drop(CHAT, "deploy", "resources", "limits", "memory")),
    ("C06", drop(CHAT, "deploy", "resources", "limits", "pids")),
    ("C06", drop(DOOR, "deploy", "resources", "limits", "cpus")),
    ("C07", put(CHAT, "ports", to=["127.0.0.1:8000:8000"])),
    ("C07", put(DOOR, "ports", to=["0.0.0.0:9199:9199"])),
    ("C07", put(DOOR, "ports", to=["9199:9199"])),
    ("C07", put(DOOR, "ports", to=["[::]:9199:9199"])),
    ("C08", mount(CHAT, "/var/run/docker.sock")),
    ("C08", mount(CHAT, "/etc")),
    ("C08", mount(CHAT, "/")),
    ("C08", mount(CHAT, "/home/ops/models", writable=True)),
    ("C08", mount(CHAT, "./../other")),
    ("C08", mount(CHAT, "/home/ops/models", create=True)),
    ("C08", put(CHAT, "volumes", to=["/srv:/srv"])),
    ("C08", mount(NODE, "/home", writable=True)),
    ("C08", mount(KEEPER, "/etc", writable=True)),
    ("C09", put(CHAT, "environment", "HF_TOKEN", to="abc")),
    ("C09", put(CHAT, "environment", "HF_TOKEN", to="${HF_TOKEN:-abc}")),
    ("C09", put(CHAT, "environment", "NOTE", to="costs $5")),
    ("C09", put(CHAT, "environment", "NOTE", to="hf_abcdefghijklmnopqrstuvwxyz")),
    ("C09", put(CHAT, "command", to=["--api-key", "sk-abcdefghijklmnopqrst"])),
    ("C09", put(CHAT, "labels", "enova.fields", to="${HF_TOKEN:?}")),
    ("C09", put(GRAFANA, "environment", "GF_SECURITY_ADMIN_PASSWORD", to="admin")),
    ("C10", put(CHAT, "image", to="vllm/vllm-openai")),
    ("C10", put(CHAT, "image", to="registry.local:5000/vllm")),
    ("C10", put(CHAT, "image", to="vllm/vllm-openai:latest")),
    ("C11", drop(CHAT, "healthcheck")),
    ("C11", put(CHAT, "healthcheck", "disable", to=True)),
    ("C12", drop(CHAT, "logging")),
    ("C12", drop(CHAT, "logging", "options", "max-size")),
    ("C13", drop(CHAT, "init")),
    ("C13", put(CHAT, "restart", to="always")),
    ("C13", drop(CHAT, "pull_policy")),
    ("C13", drop(CHAT, "stop_grace_period")),
    ("C14", drop(CHAT, "labels", "enova.digest")),
    ("C14", put(CHAT, "labels", "enova.kind", to="pet")),
    ("C15", same_gpu),
    (
        "C15",
        put(CHAT, *DEVICES, to=[{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]),
    ),
    ("C16", drop(CHAT, "networks", "inside", "ipv4_address")),
    ("C16", put(CHAT, "networks", "inside", "ipv4_address", to="10.9.9.9")),
    ("C16", put(CHAT, "networks", "inside", "ipv4_address", to="10.213.7.10")),
    ("C16", not_internal),
    ("C16", no_subnet),
]


@pytest.mark.parametrize(
    ("rule", "breaks"), BROKEN, ids=[f"{rule}-{n}" for n, (rule, _) in enumerate(BROKEN)]
)
def test_what_is_broken_is_found(rule: str, breaks: Break) -> None:
    document = deepcopy(WORLDS["everything"]())
    breaks(document)
    assert {finding.rule for finding in lint(document)} == {rule}


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _ in BROKEN} == set(RULES)


def test_what_is_borne_is_needed() -> None:
    """Without its address nothing of it is let pass, so no exception is there for nothing."""
    document = deepcopy(WORLDS["everything"]())
    for service in document["services"].values():
        service["labels"]["enova.address"] = service["labels"]["enova.instance"]
    found = {(finding.service, finding.rule) for finding in lint(document)}
    names = {
        labels["enova.address"]: name
        for name, service in WORLDS["everything"]()["services"].items()
        for labels in [service["labels"]]
    }
    assert found == {(names[address], rule) for address, rule in BORNE}


def test_a_finding_says_where_and_what_is_wanted() -> None:
    document = deepcopy(WORLDS["gpu-pool"]())
    put(CHAT, "privileged", to=True)(document)
    (finding,) = lint(document)
    assert finding.line() == (
        f"C01 {CHAT}: privileged (wanted: no privileges, no namespace of the host)"
    )
