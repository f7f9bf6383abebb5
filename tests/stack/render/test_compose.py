"""What the services of a compose file are made of, and what the engine makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enova.base.secret import SecretRef
from enova.stack import monitoring
from enova.stack.render import compose
from tests.parts import containers
from tests.stack.render.compose_worlds import (
    GIB,
    PROJECT,
    WORLDS,
    gateway,
    monitor,
    replica,
    stack,
    template,
)


def service(of: tuple[str, compose.Document]) -> dict[str, Any]:
    return dict(of[1])


def test_the_project_is_named_by_stack_and_environment() -> None:
    assert PROJECT.name == "enova-shop_prod"
    assert replace(PROJECT, env="").name == "enova-shop"


def test_gpus_are_reserved_by_id_and_numbered_anew_inside() -> None:
    made = service(replica(template(gpus=2), 0, gpus=(2, 5)))
    (device,) = made["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["2", "5"], "capabilities": ["gpu"]}
    assert "CUDA_VISIBLE_DEVICES" not in made["environment"]
    assert "cpuset" not in made
    assert made["shm_size"] == "2048m"


def test_a_processor_is_pinned_and_bounded_by_what_was_placed() -> None:
    made = service(replica(template(gpus=0, cores=3), 0, cores=(1, 4, 5)))
    assert made["cpuset"] == "1,4,5"
    assert made["deploy"]["resources"] == {"limits": {"cpus": "3", "memory": "6144m", "pids": 4096}}
    assert made["environment"]["OMP_NUM_THREADS"] == "3"


def test_no_limit_is_above_what_the_host_has() -> None:
    small = replace(PROJECT, cores=2)
    made = service(gateway(["chat"], project=small))
    assert made["deploy"]["resources"]["limits"]["cpus"] == "2"


def test_host_memory_an_argument_takes_is_on_top() -> None:
    def memory(**args: int) -> int:
        made = service(replica(template(gpus=2, args=args), 0, gpus=(0, 1)))
        return int(made["deploy"]["resources"]["limits"]["memory"].removesuffix("m"))

    assert memory(**{"cpu-offload-gb": 10}) - memory() == 2 * 10 * 1024


def test_a_folder_is_mounted_where_it_is_and_kept_off_the_network() -> None:
    of = template(model="/srv/models/a", args={"chat-template": "/srv/t.jinja", "x": "/no/path"})
    made = service(replica(of, 0, gpus=(0,)))
    bound = {m["source"]: m for m in made["volumes"] if m["type"] == "bind"}
    assert sorted(bound) == ["/srv/models/a", "/srv/t.jinja"]
    assert all(m["target"] == s and m["read_only"] for s, m in bound.items())
    assert made["environment"]["HF_HUB_OFFLINE"] == "1"
    assert sorted(made["networks"]) == ["inside"]


def test_a_model_of_a_hub_is_downloaded_into_the_volume() -> None:
    made = service(replica(template(secrets=(("HF_TOKEN", SecretRef(env="T")),)), 0, gpus=(0,)))
    assert made["volumes"] == [
        {"type": "volume", "source": "models", "target": "/var/tmp"},
    ]
    assert made["environment"]["HF_HOME"].startswith("/var/tmp/")
    assert "HF_HUB_OFFLINE" not in made["environment"]
    assert sorted(made["networks"]) == ["inside", "outside"]
    assert made["environment"]["HF_TOKEN"] == "${ENOVA_CHAT__HF_TOKEN:?environment variable T}"


def test_the_spec_wins_over_the_environment_of_the_image() -> None:
    made = service(replica(template(env={"HF_HOME": "/tmp/mine"}), 0, gpus=(0,)))
    assert made["environment"]["HF_HOME"] == "/tmp/mine"


def test_the_emulator_takes_no_device_no_cache_and_no_network() -> None:
    of = template(engine="emulator", gpus=1)
    made = service(replica(of, 0, gpus=(0,)))
    assert made["entrypoint"] == ["enova", "emulator"]
    assert "volumes" not in made
    assert sorted(made["networks"]) == ["inside"]
    assert "reservations" not in made["deploy"]["resources"]


def test_times_follow_the_model_and_the_drain() -> None:
    made = service(replica(template(drain_s=90.0), 0, gpus=(0,)))
    assert made["healthcheck"]["start_period"] == "390s"
    assert made["stop_grace_period"] == "105s"
    assert "/health" in made["healthcheck"]["test"][-1]


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1:9199:9199"),
        ("localhost", "127.0.0.1:9199:9199"),
        ("0.0.0.0", "0.0.0.0:9199:9199"),
        ("::1", "[::1]:9199:9199"),
    ],
)
def test_the_gateway_is_published_where_the_spec_says(host: str, shown: str) -> None:
    assert service(gateway(["chat"], host=host))["ports"] == [shown]


def test_certificates_are_mounted_by_their_folders() -> None:
    made = service(gateway(["chat"], pems=("/etc/tls/a.crt", "/srv/keys/a.key")))
    bound = {m["target"]: m["read_only"] for m in made["volumes"]}
    assert bound["/etc/tls"] and bound["/srv/keys"]


def test_the_gateway_hears_clients_everywhere_and_prometheus_inside_only() -> None:
    places = compose.gateway_places("10.213.7.2")
    assert (places.listen_host, places.metrics_host) == ("0.0.0.0", "10.213.7.2")


def test_a_password_is_asked_for_also_when_the_spec_names_none() -> None:
    made = service(monitor(monitoring.GRAFANA))
    assert made["environment"]["GF_SECURITY_ADMIN_PASSWORD"].startswith("${ENOVA_GRAFANA__")


def test_only_what_tells_somebody_has_a_way_out() -> None:
    hook = ((monitoring.WEBHOOK, SecretRef(env="URL")),)
    assert sorted(service(monitor(monitoring.ALERTMANAGER))["networks"]) == ["inside"]
    told = service(monitor(monitoring.ALERTMANAGER, secrets=hook))
    assert sorted(told["networks"]) == ["inside", "outside"]


def test_a_secret_has_the_same_variable_for_all_replicas_and_no_others() -> None:
    names = {compose.secret_variable(s, n) for s in ("a", "a-b") for n in ("C", "B_C")}
    assert len(names) == 4


def test_networks_and_volumes_are_those_that_are_used() -> None:
    alone = stack(replica(template(model="/m", engine="emulator"), 0, gpus=(0,)))
    assert sorted(alone["networks"]) == ["inside"]
    assert "volumes" not in alone
    everything = WORLDS["everything"]()
    assert sorted(everything["networks"]) == ["inside", "outside"]
    assert sorted(everything["volumes"]) == ["models"]
    assert compose.document(PROJECT, {})["services"] == {}


@pytest.mark.real
def test_the_engine_makes_what_the_file_says(
    docker_engine: containers.DockerEngine,
    docker_image: Callable[[str], str],
    docker_project: str,
    tmp_path: Path,
) -> None:
    # The image is not run: any will do, and this one is the smallest.
    of = template(gpus=2, model=str(tmp_path), image=docker_image("node-exporter"))
    part = int(docker_project[-2:], 16)
    project = replace(
        PROJECT, stack=docker_project.removeprefix("enova-"), env="", subnet=f"10.251.{part}.0/24"
    )
    name, made = replica(of, 0, gpus=(0, 1), project=project)
    (tmp_path / "compose.yaml").write_text(compose.dump(stack((name, made), project=project)))
    docker_engine.docker("compose", "create", name, cwd=tmp_path)
    shown = docker_engine.docker("container", "inspect", f"{docker_project}-{name}-1")
    (seen,) = json.loads(shown)
    host, config = seen["HostConfig"], seen["Config"]
    assert [one["DeviceIDs"] for one in host["DeviceRequests"]] == [["0", "1"]]
    assert (host["Memory"], host["PidsLimit"]) == (48 * GIB, 8192)
    assert host["ShmSize"] == 2 * GIB
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["ReadonlyRootfs"] and host["Init"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["LogConfig"]["Config"] == {"max-size": "8m", "max-file": "4"}
    assert config["User"] == "1000:1000"
    assert config["StopTimeout"] == 135
    assert config["Labels"]["enova.fields"] == made["labels"]["enova.fields"].replace("$$", "$")
    inside = seen["NetworkSettings"]["Networks"][f"{docker_project}_inside"]
    assert inside["IPAMConfig"]["IPv4Address"] == compose.ip_of(made)
    assert [m["Source"] for m in seen["Mounts"] if m["Type"] == "bind"] == [str(tmp_path)]
