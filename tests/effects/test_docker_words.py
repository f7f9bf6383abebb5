"""What is decided about Docker without asking it: which engine, which subnet, what ended."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from enova.base.errors import Refused, Unreachable
from enova.effects.drivers import docker_check, docker_container, docker_endpoint
from enova.effects.drivers.docker_container import Container
from enova.effects.drivers.docker_ground import free_address, free_subnet, routed
from tests.parts import real

INSPECTED = {
    "Id": "c0ffee",
    "Name": "/enova-demo-chat-1",
    "Created": "2026-11-21T10:00:00.1Z",
    "Image": "sha256:1",
    "RestartCount": 0,
    "State": {"Status": "running", "ExitCode": 0, "OOMKilled": False, "Error": ""},
    "Config": {
        "Labels": {"enova.stack": "demo", "com.docker.compose.config-hash": "h"},
        "Env": ["HF_TOKEN=secret", "A=1"],
        "Entrypoint": ["vllm", "serve"],
        "Cmd": ["tiny"],
        "User": "1000:1000",
    },
    "HostConfig": {
        "DeviceRequests": [{"Driver": "nvidia", "Count": 0, "DeviceIDs": ["0", "3"]}],
        "CpusetCpus": "0-2,5",
        "Memory": 1024,
        "RestartPolicy": {"Name": "unless-stopped"},
    },
    "NetworkSettings": {"Networks": {"enova-demo_inside": {"IPAMConfig": {"IPv4Address": "1.2"}}}},
}
RUNNING = docker_container.from_inspect(INSPECTED)


@pytest.fixture
def listening(tmp_path: Path) -> Path:
    """The path of a socket that is there."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


# --- which engine ------------------------------------------------------------------------------


def test_docker_host_names_the_engine(listening: Path) -> None:
    assert docker_endpoint.socket({"DOCKER_HOST": f"unix://{listening}"}) == listening


@pytest.mark.parametrize("host", ["tcp://10.0.0.1:2375", "ssh://somebody@host"])
def test_an_engine_elsewhere_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(Refused, match=r"not a socket of this machine.*unset DOCKER_HOST") as caught:
        docker_endpoint.socket({"DOCKER_HOST": host})
    assert host in str(caught.value)
    assert "ansible" in str(caught.value)


@pytest.mark.real
def test_a_context_names_the_engine(listening: Path, tmp_path: Path) -> None:
    docker = real.part_binary("docker")
    told = {"DOCKER_CONFIG": str(tmp_path), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def context(*words: str) -> None:
        subprocess.run([docker, "context", *words], env=told, check=True, capture_output=True)

    context("create", "near", "--docker", f"host=unix://{listening}")
    context("create", "far", "--docker", "host=tcp://10.0.0.1:2375")
    assert docker_endpoint.socket({**told, "DOCKER_CONTEXT": "near"}) == listening
    with pytest.raises(Refused, match=r"DOCKER_CONTEXT far names the engine tcp://10.0.0.1:2375"):
        docker_endpoint.socket({**told, "DOCKER_CONTEXT": "far"})
    with pytest.raises(Refused, match="DOCKER_CONTEXT none cannot be read"):
        docker_endpoint.socket({**told, "DOCKER_CONTEXT": "none"})
    context("use", "near")
    assert docker_endpoint.socket(told) == listening


def test_an_engine_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="systemctl start docker"):
        docker_endpoint.socket({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_an_engine_of_others_is_refused_with_the_group(listening: Path) -> None:
    for folder in listening.parents[:3]:
        folder.chmod(0o755)
    listening.chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(Refused, match="usermod -aG docker"):
            docker_endpoint.socket({"DOCKER_HOST": f"unix://{listening}"})
    finally:
        os.seteuid(0)


def test_without_the_command_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no `docker` command on PATH. Install"):
        docker_endpoint.client({"PATH": str(tmp_path)})
    found = docker_check.look({"PATH": str(tmp_path)})
    assert "no `docker` command" in found.problem
    assert "Install Docker" in found.remedy


def test_compose_hears_of_no_other_file_or_project() -> None:
    told = docker_endpoint.environment(
        {
            "COMPOSE_FILE": "other.yaml",
            "COMPOSE_PROJECT_NAME": "other",
            "HF_TOKEN": "x",
            "HOME": "/h",
        }
    )
    assert told == {"HOME": "/h", "PATH": os.defpath}


# --- addresses ---------------------------------------------------------------------------------


def test_a_subnet_overlaps_nothing_that_is_used() -> None:
    first = free_subnet([], seed="demo")
    assert first.prefixlen == 24
    assert free_subnet([], seed="demo") == first
    second = free_subnet([first], seed="demo")
    assert not second.overlaps(first)
    wide = IPv4Network((int(first.network_address) & 0xFFFF0000, 16))
    assert not free_subnet([wide, IPv4Network("192.168.0.0/16")], seed="demo").overlaps(wide)


def test_a_machine_without_room_says_so() -> None:
    halves = list(IPv4Network("10.0.0.0/8").subnets(prefixlen_diff=1))
    with pytest.raises(Refused, match="no /24 network is free"):
        free_subnet(halves, seed="demo")


def test_addresses_are_given_once() -> None:
    first = free_address("10.1.2.0/24", ())
    assert first == "10.1.2.10"
    assert free_address("10.1.2.0/24", {first}) == "10.1.2.11"
    full = {f"10.1.2.{n}" for n in range(255)}
    with pytest.raises(Refused, match=r"every address of 10.1.2.0/24 is taken"):
        free_address("10.1.2.0/24", full)


def test_routes_are_read_in_the_machines_order(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "br0\t0007D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert routed(table) == [IPv4Network("10.213.7.0/24")]


# --- states ------------------------------------------------------------------------------------


def ended(container: Container | None, *, served: bool = True, created: bool = True) -> str | None:
    return docker_container.ended(container, created=created, served=served)


def test_what_runs_has_not_ended() -> None:
    for status in ("running", "paused", "restarting"):
        assert ended(replace(RUNNING, status=status)) is None
    assert ended(replace(RUNNING, restarts=3)) is None


def test_one_that_never_served_is_not_waited_for() -> None:
    assert ended(RUNNING, served=False) is None
    assert "again" in str(ended(replace(RUNNING, restarts=1), served=False))
    again = replace(RUNNING, status="restarting", exit_code=3)
    assert ended(again, served=False) == "exited with code 3"


def test_hands_are_told_from_failures() -> None:
    assert ended(None) == "its container was removed by hand"
    assert "never started" in str(ended(None, created=False))
    stopped = replace(RUNNING, status="exited", exit_code=137)
    assert ended(stopped) == "stopped by hand (exit code 137)"
    assert "memory" in str(ended(replace(stopped, out_of_memory=True)))
    assert "no such device" in str(ended(replace(stopped, error="no such device")))
    assert "never started" in str(ended(replace(RUNNING, status="created")))


def test_the_line_that_says_why_is_added_where_nobody_stopped_it() -> None:
    lines = ["INFO start", "ValueError: max_model_len is too long"]
    assert docker_container.with_cause("exited with code 1", lines).endswith(": " + lines[1])
    by_hand = "stopped by hand (exit code 0)"
    assert docker_container.with_cause(by_hand, lines) == by_hand


# --- drift -------------------------------------------------------------------------------------


def test_a_container_is_as_it_was_started() -> None:
    kept = docker_container.plain_facts(RUNNING, secret={"HF_TOKEN"})
    assert "secret" not in str(kept)
    assert docker_container.differences(RUNNING, kept, secret={"HF_TOKEN"}) == ()


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("Config", {"Labels": {"enova.stack": "x"}}, "its label enova.stack was changed from demo"),
        ("Config", {"Env": ["HF_TOKEN=secret", "A=2"]}, "its variable A was changed"),
        ("Config", {"Cmd": ["big"]}, "it runs another command"),
        ("Config", {"User": "0"}, "it runs as another user"),
        ("HostConfig", {"Memory": 7}, "its limit memory was changed from 1024 to 7"),
        ("HostConfig", {"DeviceRequests": []}, "it was given other devices"),
        ("HostConfig", {"Privileged": True}, "its right privileged was changed"),
        ("NetworkSettings", {"Networks": {}}, "it is in other networks"),
    ],
)
def test_what_was_changed_is_named(part: str, change: dict[str, object], words: str) -> None:
    kept = docker_container.plain_facts(RUNNING, secret=())
    changed = docker_container.from_inspect({**INSPECTED, part: {**INSPECTED[part], **change}})  # type: ignore[dict-item]
    found = docker_container.differences(changed, kept, secret=())
    assert any(words in line for line in found), found


def test_the_value_of_a_variable_is_never_shown() -> None:
    kept = docker_container.plain_facts(RUNNING, secret=())
    changed = {**INSPECTED["Config"], "Env": ["HF_TOKEN=other", "A=1"]}  # type: ignore[dict-item]
    now = docker_container.from_inspect({**INSPECTED, "Config": changed})
    (line,) = docker_container.differences(now, kept, secret=())
    assert line == "its variable HF_TOKEN was changed"


def test_devices_and_cores_are_read() -> None:
    assert RUNNING.gpus == ("0", "3")
    assert RUNNING.cores == (0, 1, 2, 5)
