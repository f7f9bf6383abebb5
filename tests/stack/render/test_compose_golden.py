"""Compose files of some stacks, as people review them, and as Compose itself reads them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings

from enova.stack.render import compose
from enova.stack.render.compose_text import secrets_in
from tests.parts import containers
from tests.stack.render.compose_worlds import WORLDS, documents

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_the_file_is_as_reviewed(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN / f"compose-{name}.yaml", compose.dump(WORLDS[name]()))


@settings(max_examples=50, deadline=None)
@given(documents())
def test_the_text_says_what_the_data_says(document: compose.Document) -> None:
    text = compose.dump(document)
    assert yaml.safe_load(text) == document
    assert text == compose.dump(document)
    assert "&id" not in text


def test_the_comment_names_what_the_file_needs_and_what_is_not_pinned() -> None:
    text = compose.dump(WORLDS["hub-model"]())
    comment = text.split("\nname:")[0]
    assert "enova-shop_prod" in comment
    assert "ENOVA_CHAT__HF_TOKEN  (environment variable HF_TOKEN)" in comment
    assert "envoyproxy/envoy:v1.40.0" in comment
    pinned = WORLDS["gpu-pool"]()
    for service in pinned["services"].values():
        service["image"] += "@sha256:" + 64 * "0"
    assert "Pinned by tag" not in compose.dump(pinned)


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(WORLDS))
def test_compose_reads_it_and_gives_back_every_dollar(
    name: str, docker_engine: containers.DockerEngine, tmp_path: Path
) -> None:
    document = WORLDS[name]()
    (tmp_path / "compose.yaml").write_text(compose.dump(document))
    said = configured(docker_engine, tmp_path, dict.fromkeys(secrets_in(document), "a $ecret"))
    assert said.returncode == 0, said.stderr
    read = yaml.safe_load(said.stdout)
    assert read["name"] == document["name"]
    for service, wanted in document["services"].items():
        got = read["services"][service]
        assert got["command"] == wanted["command"]
        for variable, value in wanted.get("environment", {}).items():
            shown = "a $$ecret" if value.startswith("${ENOVA_") else value
            assert got["environment"][variable] == shown
        assert got["labels"] == wanted["labels"]


@pytest.mark.real
def test_compose_refuses_to_go_without_a_secret(
    docker_engine: containers.DockerEngine, tmp_path: Path
) -> None:
    (tmp_path / "compose.yaml").write_text(compose.dump(WORLDS["hub-model"]()))
    said = configured(docker_engine, tmp_path, {})
    assert said.returncode != 0
    assert "ENOVA_CHAT__HF_TOKEN" in said.stderr
    assert "environment variable HF_TOKEN" in said.stderr


def configured(
    engine: containers.DockerEngine, folder: Path, secrets: dict[str, str]
) -> containers.Result:
    """What Compose makes of the file in a folder."""
    return subprocess.run(
        ["docker", "compose", "config"],
        cwd=folder,
        env={**os.environ, **engine.environment, **secrets},
        capture_output=True,
        text=True,
        timeout=60,
    )
