"""The engine and the images are what the scenarios take them for."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import httpx
import pytest

import enova
from tests.parts import containers, real

HARDENED = (
    "--init",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--user=12345:12345",
    "--pids-limit=512",
)
"""How every rendered service runs, as words for `docker run`."""

START_DEADLINE_S = 180


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`scripts/image_archive.py`, which is no part of a package."""
    monkeypatch.syspath_prepend(str(real.ROOT / "scripts"))
    import image_archive

    monkeypatch.delitem(sys.modules, "image_archive")
    return image_archive


def test_an_image_that_was_not_made_skips_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(real, "CACHE", tmp_path)
    monkeypatch.delenv("ENOVA_REQUIRE_REAL", raising=False)
    entry = {"path": None, "version": None, "reason": "no Docker engine answers"}
    (tmp_path / "real-parts.json").write_text(json.dumps({"image vllm": entry}), encoding="utf-8")
    engine = containers.DockerEngine(host="unix:///nowhere", environment={})
    with pytest.raises(pytest.skip.Exception, match="no image vllm: no Docker engine answers"):
        containers.docker_image(engine, "vllm")


def test_an_engine_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real.part_binary("docker")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    monkeypatch.setenv("ENOVA_REQUIRE_REAL", "1")
    with pytest.raises(pytest.fail.Exception, match=r"nothing answers at unix://.*docker\.sock"):
        containers.docker_engine()


def test_a_changed_file_changes_the_digest_of_an_image(
    archives: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "module.py").write_text("a = 1\n", encoding="utf-8")
    image = archives.Image("x:1", (archives.Tree(tmp_path, "opt/x"),))
    before = archives.digest(image)
    assert archives.digest(image) == before
    (tmp_path / "module.py").write_text("a = 10\n", encoding="utf-8")
    assert archives.digest(image) != before


def test_an_archive_holds_what_its_image_names_readable_by_everybody(
    archives: ModuleType, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "tests").mkdir(parents=True)
    (tree / "tests" / "test_x.py").touch()
    (tree / "secret.txt").write_text("text", encoding="utf-8")
    (tree / "secret.txt").chmod(0o600)
    (tree / "run").write_text("#!/bin/sh\n", encoding="utf-8")
    (tree / "run").chmod(0o700)
    image = archives.Image(
        "x:1",
        (archives.Tree(tree, "opt/x", ("*tests",)),),
        links={"usr/bin/run": "/opt/x/run", "opt/x/run": "elsewhere"},
    )
    out = io.BytesIO()
    archives.write_archive(image, out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        entries = {entry.name: entry for entry in archive}
        names = archive.getnames()
    assert len(names) == len(set(names))
    assert entries["opt/x/secret.txt"].mode == 0o644
    assert entries["opt/x/run"].isreg()
    assert entries["opt/x/run"].mode == 0o755
    assert entries["usr/bin/run"].linkname == "/opt/x/run"
    assert entries["tmp"].mode == 0o1777
    assert not [name for name in names if "tests" in name]
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}


@pytest.mark.real
def test_compose_is_a_plugin_of_the_client(docker_engine: containers.DockerEngine) -> None:
    assert docker_engine.docker("compose", "version", "--short").startswith("2.")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("alertmanager", ["--version"], "alertmanager, version"),
        ("enova", ["--version"], f"enova, version {enova.__version__}"),
        ("envoy", ["envoy", "--version"], "envoy  version"),
        ("node-exporter", ["--version"], "node_exporter, version"),
        ("prometheus", ["--version"], "prometheus, version"),
    ],
)
def test_an_image_runs_hardened_as_any_user(
    docker_engine: containers.DockerEngine,
    docker_image: Callable[[str], str],
    name: str,
    words: list[str],
    expected: str,
) -> None:
    image = docker_image(name)
    told = docker_engine.attempt("run", "--rm", "--network=none", *HARDENED, image, *words)
    assert expected in told.stdout + told.stderr


@pytest.mark.real
def test_the_image_of_enova_is_what_a_user_would_install(
    docker_engine: containers.DockerEngine, docker_image: Callable[[str], str]
) -> None:
    script = (
        "set -e; docker --version >/dev/null; docker compose version >/dev/null;"
        "cd /; python3 -c 'import enova; print(enova.__file__)'; ! python3 -c 'import pytest' 2>&-"
    )
    words = ["--rm", "--network=none", *HARDENED, "--entrypoint=sh", docker_image("enova")]
    told = docker_engine.docker("run", *words, "-c", script)
    assert told.strip() == "/opt/venv/lib/python3.11/site-packages/enova/__init__.py"


@pytest.mark.real
def test_device_reservations_reach_the_container(
    docker_engine: containers.DockerEngine, docker_image: Callable[[str], str], docker_project: str
) -> None:
    real.part_binary("docker devices")
    told = docker_engine.docker(
        "run", "--rm", "--network=none", f"--label={containers.PROJECT_LABEL}={docker_project}",
        "--gpus", '"device=1,3"', "--entrypoint=sh", docker_image("envoy"), "-c", "env",
    )  # fmt: skip
    assert "NVIDIA_VISIBLE_DEVICES=1,3" in told.splitlines()


@pytest.mark.real
def test_what_belongs_to_a_project_is_found_and_removed(
    docker_engine: containers.DockerEngine, docker_image: Callable[[str], str], docker_project: str
) -> None:
    label = f"--label={containers.PROJECT_LABEL}={docker_project}"
    image = docker_image("node-exporter")
    docker_engine.docker("network", "create", "--internal", label, docker_project)
    docker_engine.docker("volume", "create", label, docker_project)
    docker_engine.docker("create", "--name", docker_project, label, "--network=none", image)
    kinds = ("container", "network", "volume")
    assert docker_engine.belongings(docker_project) == [f"{k} {docker_project}" for k in kinds]
    docker_engine.sweep(docker_project)
    assert docker_engine.belongings(docker_project) == []


@pytest.mark.vllm
def test_vllm_serves_hardened_without_any_capability(
    docker_engine: containers.DockerEngine,
    docker_image: Callable[[str], str],
    docker_project: str,
    tiny_model: Path,
) -> None:
    environment = real.VLLM_ENVIRONMENT | {"HOME": "/tmp"}
    docker_engine.docker(
        "run", "--detach", "--name", docker_project,
        f"--label={containers.PROJECT_LABEL}={docker_project}", *HARDENED, "--shm-size=256m",
        "--publish=127.0.0.1::8000", f"--volume={tiny_model}:/model:ro",
        *(f"--env={name}={value}" for name, value in environment.items()),
        docker_image("vllm"), "/model", "--host", "0.0.0.0", "--port", "8000",
        "--served-model-name", "tiny", *real.VLLM_ARGUMENTS,
    )  # fmt: skip
    address = docker_engine.docker("port", docker_project, "8000").strip()
    deadline = time.monotonic() + START_DEADLINE_S
    while not healthy(f"http://{address}/health"):
        running = docker_engine.docker("inspect", "-f", "{{.State.Running}}", docker_project)
        assert running.strip() == "true", docker_engine.attempt("logs", docker_project).stderr
        assert time.monotonic() < deadline, docker_engine.attempt("logs", docker_project).stdout
        time.sleep(0.5)
    body = {"model": "tiny", "prompt": "We the licensors", "max_tokens": 4}
    answer = httpx.post(f"http://{address}/v1/completions", json=body, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 4
    docker_engine.docker("stop", "--time=60", docker_project)
    code = docker_engine.docker("inspect", "-f", "{{.State.ExitCode}}", docker_project)
    assert code.strip() == "0"


def healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


# --- the Dockerfile for users ----------------------------------------------------------------


def instructions(name: str) -> list[list[str]]:
    """The arguments of every such instruction of the Dockerfile, lines joined."""
    text = (real.ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split()[1:] for line in text.splitlines() if line.startswith(f"{name} ")]


def test_the_dockerfile_sees_what_the_wheel_is_built_from() -> None:
    """A wheel's parts that the ignore file keeps out would be missing in the image alone."""
    seen = {
        line[1:]
        for line in (real.ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    build = tomllib.loads((real.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = {*wheel["packages"], *wheel["force-include"], build["project"]["readme"]}
    assert parts | {"pyproject.toml"} <= seen
    assert all((real.ROOT / name).exists() for name in seen)


def test_the_dockerfile_starts_enova_as_nobody_on_a_pinned_base() -> None:
    project = tomllib.loads((real.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(" ".join(entry)) == ["enova"]
    assert "enova" in project["scripts"]
    assert instructions("USER") == [["65534:65534"]]
    for base in instructions("FROM"):
        assert re.search(r":\d", base[0]), f"{base[0]} is not pinned to a version"
