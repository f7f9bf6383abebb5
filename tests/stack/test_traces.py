"""Where spans go: wired to gateway and engines of a stack that has a collector, and to no other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from enova.capacity.sizing.choice import Choice
from enova.spec.load import load_document
from enova.stack import desired
from enova.stack.observed import Placement
from enova.stack.plan import Ask
from enova.stack.render import engine
from enova.stack.render.compose_parts import MIB, Limits, Mark, Project, program
from enova.stack.render.gateway_settings import GatewayPlaces, otlp_address, settings_of
from enova.stack.resources import Stack, Traces
from tests.stack.worlds import asked

COLLECTOR = {"otel-collector"}
ENDPOINT = "http://otel-collector:4317"


def stack(monitors: set[str], *, otel: object = "auto", **engine_: object) -> Stack:
    """A stack of one vLLM service."""
    ask = asked()
    document = json.loads(json.dumps(ask.document))
    document["monitoring"] = {**document.get("monitoring", {}), "otel": otel}
    document["services"]["chat"]["engine"] = {"name": "vllm", **engine_}
    spec = load_document(document)
    return desired.build(spec, {"chat": vllm(ask)}, monitors=monitors)


def vllm(ask: Ask) -> Choice:
    choice = ask.choices["chat"]
    return replace(choice, engine="vllm", engine_version="0.32.0")


def environment(made: Stack) -> dict[str, str]:
    template = made.services[0].template
    return engine.environment(
        template, Placement("local"), address="chat/replica/2", instance="chat-replica-2-3fa9c1"
    )


def test_engines_and_gateway_send_their_spans_to_the_collector() -> None:
    made = stack(COLLECTOR, otel={"sampling": "10%"})
    template = made.services[0].template
    assert dict(template.args)["otlp-traces-endpoint"] == ENDPOINT
    assert environment(made)["OTEL_SERVICE_NAME"] == "chat"
    assert made.gateway is not None
    assert made.gateway.traces == Traces(ENDPOINT, 0.1)
    places = GatewayPlaces("/c", "/m", "/log", "/keys", "/cert", None, admin_path="/a.sock")
    settings = settings_of(made.gateway, stack="demo", places=places)
    assert (settings.otlp_endpoint, settings.trace_sampling) == (("otel-collector", 4317), 0.1)


@pytest.mark.parametrize(("monitors", "otel"), [(set(), "auto"), (COLLECTOR, "off")])
def test_without_a_collector_nothing_is_sent(monitors: set[str], otel: str) -> None:
    made = stack(monitors, otel=otel)
    assert "otlp-traces-endpoint" not in dict(made.services[0].template.args)
    assert not [name for name in environment(made) if name.startswith("OTEL_")]
    assert made.gateway is not None
    assert made.gateway.traces is None


def test_spans_say_which_replica_they_are_of() -> None:
    mine = "enova.address=chat/replica/2,enova.instance=chat-replica-2-3fa9c1"
    assert environment(stack(COLLECTOR))["OTEL_RESOURCE_ATTRIBUTES"] == mine
    stated = stack(COLLECTOR, env={"OTEL_RESOURCE_ATTRIBUTES": "team=search"})
    assert environment(stated)["OTEL_RESOURCE_ATTRIBUTES"] == f"team=search,{mine}"


def test_sending_spans_does_not_make_it_another_replica() -> None:
    sends, silent = (stack(which).services[0].template for which in (COLLECTOR, set[str]()))
    assert sends != silent
    assert sends.digest == silent.digest


def test_what_the_spec_states_wins() -> None:
    own = "http://traces.example:4317"
    made = stack(
        set(), args={"otlp-traces-endpoint": own}, env={"OTEL_SERVICE_NAME": "search-chat"}
    )
    assert dict(made.services[0].template.args)["otlp-traces-endpoint"] == own
    assert environment(made)["OTEL_SERVICE_NAME"] == "search-chat"


def test_an_emulator_sends_none() -> None:
    ask = asked()
    made = desired.build(ask.spec, ask.choices, monitors=COLLECTOR)
    assert ask.choices["chat"].engine == "emulator"
    assert "otlp-traces-endpoint" not in dict(made.services[0].template.args)
    assert made.gateway is not None
    assert made.gateway.traces is not None


@pytest.mark.parametrize("text", ["otel:4317", "https://otel:4317", "http://otel", "http://:1"])
def test_an_endpoint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no endpoint for spans: write http://host:4317"):
        otlp_address(text)


def test_a_collector_in_a_container_answers_to_its_name() -> None:
    project = Project("demo", "", subnet="10.213.7.0/24", user="0:0")
    service = program(
        project,
        mark=Mark("monitor", "otel-collector-77aa10", "monitoring/otel-collector", "d", (), "a"),
        image="otel/opentelemetry-collector-contrib:0.93.0",
        entrypoint=(),
        command=(),
        ip="10.213.7.9",
        limits=Limits(MIB, pids=8),
        health=None,
        alias="otel-collector",
    )
    assert service["networks"] == {
        "inside": {"ipv4_address": "10.213.7.9", "aliases": ["otel-collector"]}
    }
