"""Configurations of the programs that cannot be run here: collector, Tempo, DCGM's exporter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enova.stack.queries_gpu import COUNTERS, Counter, expressions
from enova.stack.render.dcgm import counter_file
from enova.stack.render.otel import CollectorPorts, collector
from enova.stack.render.tempo import TempoPorts, tempo

EXPECTED = Path(__file__).parent / "expected"

Golden = Callable[[Path, str], None]


def text(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


def collected(tempo_at: str | None = "10.213.7.9:4317") -> Any:
    return collector(CollectorPorts(), host="0.0.0.0", tempo=tempo_at)


def test_the_collector_takes_otlp_and_hands_it_to_tempo_and_prometheus(golden: Golden) -> None:
    golden(EXPECTED / "otel.json", text(collected()))


def test_without_tempo_spans_are_still_counted() -> None:
    document = collected(None)
    assert list(document["exporters"]) == ["prometheus"]
    pipelines = document["service"]["pipelines"]
    assert pipelines["traces"]["exporters"] == ["spanmetrics", "servicegraph"]
    assert pipelines["metrics"]["receivers"] == ["spanmetrics", "servicegraph"]


@pytest.mark.parametrize("tempo_at", ["tempo:4317", None])
def test_pipelines_use_what_is_configured_and_nothing_is_left_over(tempo_at: str | None) -> None:
    """The collector refuses a pipeline that names what is not there."""
    document = collected(tempo_at)
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in document["service"]["pipelines"].values():
        for kind in used:
            used[kind] |= set(pipeline.get(kind, ()))
    connectors = set(document["connectors"])
    assert connectors <= used["receivers"] & used["exporters"]
    assert used["receivers"] - connectors == set(document["receivers"])
    assert used["exporters"] - connectors == set(document["exporters"])
    assert used["processors"] == set(document["processors"])
    assert document["service"]["extensions"] == list(document["extensions"])


@pytest.mark.parametrize(
    ("attribute", "dropped"),
    [
        ("gen_ai.prompt", True),
        ("gen_ai.prompt.0.content", True),
        ("gen_ai.completion.0.content", True),
        ("gen_ai.input.messages", True),
        ("gen_ai.output.messages", True),
        ("gen_ai.usage.prompt_tokens", False),
        ("gen_ai.usage.completion_tokens", False),
        ("gen_ai.latency.time_to_first_token", False),
    ],
)
def test_the_collector_drops_what_was_said_and_keeps_counts(attribute: str, dropped: bool) -> None:
    (action,) = collected()["processors"]["attributes/no_content"]["actions"]
    assert bool(re.match(action["pattern"], attribute)) is dropped


def test_ports_are_those_that_were_asked_for() -> None:
    ports = CollectorPorts(grpc=1, http=2, span_metrics=3, own_metrics=4, health=5)
    found = re.findall(r'"10\.0\.0\.1:(\d)"', text(collector(ports, host="10.0.0.1", tempo=None)))
    assert sorted(found) == ["1", "2", "3", "4", "5"]


def test_tempo_keeps_traces_in_its_folder_for_as_long_as_asked(golden: Golden) -> None:
    document = tempo(TempoPorts(), host="0.0.0.0", folder="/var/tempo", retention_s=3 * 86400)
    golden(EXPECTED / "tempo.json", text(document))


def test_the_counter_file_names_each_field_once_with_type_and_help(golden: Golden) -> None:
    golden(EXPECTED / "dcgm-counters.csv", counter_file())
    lines = [line for line in counter_file().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"DCGM_FI_\w+, (gauge|counter|label), [^,]+", line) for line in lines)


def test_the_counter_file_has_every_field_that_a_query_asks_for() -> None:
    asked = set(re.findall(r"DCGM_FI_\w+", " ".join(expressions().values())))
    exported = set(re.findall(r"^(DCGM_FI_\w+)", counter_file(), re.M))
    assert asked <= exported
    assert {"DCGM_FI_PROF_NVLINK_TX_BYTES", "DCGM_FI_PROF_NVLINK_RX_BYTES"} <= exported


def test_a_field_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="DCGM_FI_DEV_GPU_UTIL is in the counter file twice"):
        counter_file((*COUNTERS, Counter("DCGM_FI_DEV_GPU_UTIL", "gauge", "again")))
