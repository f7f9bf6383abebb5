"""Traces: a real Envoy and a real vLLM send their spans to a real OTLP receiver."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from gateway_world import OFTEN, Backend, Gateway, Start, free_port, until

from enova.capacity.catalog import engines
from enova.stack.observed import Placement
from enova.stack.render import engine
from enova.stack.render.envoy_members import Member
from enova.stack.resources import Needs, ReplicaTemplate
from tests.parts import real

pytestmark = pytest.mark.real

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAID = "zanzibar"
"""A word of the prompt that must be in no span."""


@dataclass(frozen=True)
class Span:
    """One span as it arrived, with the attributes of its resource."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str]
    resource: dict[str, str]


@dataclass(frozen=True)
class Receiver:
    """A running receiver: where it is, and what it got."""

    port: int
    file: Path

    def text(self) -> str:
        return self.file.read_text(encoding="utf-8") if self.file.exists() else ""

    def spans(self, service: str) -> list[Span]:
        """What a service sent, in the order of arrival."""
        found = [
            read(span, attributes(group["resource"]))
            for line in self.text().splitlines()
            for group in json.loads(line)["resourceSpans"]
            for scope in group["scopeSpans"]
            for span in scope["spans"]
        ]
        return [span for span in found if span.resource.get("service.name") == service]


def read(span: dict[str, str], resource: dict[str, str]) -> Span:
    hexadecimal = {
        key: base64.b64decode(span.get(key, "")).hex()
        for key in ("traceId", "spanId", "parentSpanId")
    }
    ids = tuple(hexadecimal.values())
    return Span(span["name"], span["kind"], *ids, attributes(span), resource)


def attributes(holder: dict) -> dict[str, str]:
    """Name and value, whatever the value's type."""
    return {
        entry["key"]: str(next(iter(entry["value"].values()), ""))
        for entry in holder.get("attributes", [])
    }


@pytest.fixture
def receiver(vllm_binary: Path, tmp_path: Path) -> Iterator[Receiver]:
    script, file = Path(__file__).with_name("otlp_receiver.py"), tmp_path / "spans.jsonl"
    command = [vllm_binary.with_name("python"), script, file]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Receiver(int(process.stdout.readline()), file)
        process.terminate()


def traced(start: Start, receiver: Receiver, **more: object) -> Gateway:
    return start(OFTEN, otlp_endpoint=("127.0.0.1", receiver.port), **more)


def handed_on(backend: Backend) -> str | None:
    """The ``traceparent`` that an engine got with its last request."""
    headers = backend.seen()["headers"]
    assert isinstance(headers, dict)
    return headers.get("traceparent")


def of_trace(receiver: Receiver, trace: str) -> list[Span]:
    return [span for span in receiver.spans("enova-demo-gateway") if span.trace == trace]


@pytest.mark.vllm
def test_the_gateway_starts_a_trace_and_every_try_is_a_span_of_it(
    start: Start, backends: list[Backend], receiver: Receiver
) -> None:
    gateway = traced(start, receiver)
    failing, well, *_ = backends
    failing.control(fail=503)
    gateway.serve("chat", failing.member(), well.member())
    until(lambda: gateway.post(prompt=SAID).status_code == 200 and failing.requests() > 0)
    trace = (handed_on(failing) or "").split("-")[1]
    until(lambda: len(of_trace(receiver, trace)) == 3)
    tries = [s for s in of_trace(receiver, trace) if s.kind == "SPAN_KIND_CLIENT"]
    (whole,) = [s for s in of_trace(receiver, trace) if s.kind == "SPAN_KIND_SERVER"]
    instances = {s.attributes["enova.instance"]: s.attributes for s in tries}
    assert set(instances) == {failing.member().instance_id, well.member().instance_id}
    assert instances[failing.member().instance_id]["http.status_code"] == "503"
    assert instances[well.member().instance_id]["retry.count"] == "1"
    assert {s.parent for s in tries} == {whole.id}
    assert whole.parent == ""
    assert SAID not in receiver.text()


@pytest.mark.vllm
def test_a_trace_of_the_client_goes_on(
    start: Start, backends: list[Backend], receiver: Receiver
) -> None:
    gateway = traced(start, receiver)
    gateway.serve("chat", backends[0].member())
    ask(gateway, traceparent=PARENT)
    _, trace, parent, _ = PARENT.split("-")
    until(lambda: len(of_trace(receiver, trace)) == 2)
    (whole,) = [s for s in of_trace(receiver, trace) if s.kind == "SPAN_KIND_SERVER"]
    assert whole.parent == parent
    version, same, span, flags = (handed_on(backends[0]) or "").split("-")
    assert (version, same, flags) == ("00", trace, "01")
    assert span not in (parent, whole.id)


@pytest.mark.parametrize(
    ("sampling", "headers", "flags"),
    [
        (1.0, {}, "01"),
        (0.0, {}, "00"),
        # A client can have its request left out, but not have more traced than is to be.
        (1.0, {"traceparent": PARENT.removesuffix("01") + "00"}, "00"),
        (0.0, {"traceparent": PARENT}, "00"),
    ],
)
def test_what_is_not_sampled_is_handed_on_as_such(
    start: Start, backends: list[Backend], sampling: float, headers: dict[str, str], flags: str
) -> None:
    gateway = start(OFTEN, otlp_endpoint=("127.0.0.1", free_port()), trace_sampling=sampling)
    gateway.serve("chat", backends[0].member())
    ask(gateway, **headers)
    assert (handed_on(backends[0]) or "").split("-")[3] == flags


def test_without_a_collector_the_header_passes_as_it_came(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(OFTEN)
    gateway.serve("chat", backends[0].member())
    ask(gateway, traceparent=PARENT)
    assert handed_on(backends[0]) == PARENT
    ask(gateway)
    assert handed_on(backends[0]) is None


def test_a_collector_that_is_gone_costs_no_request(start: Start, backends: list[Backend]) -> None:
    gateway = start(OFTEN, otlp_endpoint=("127.0.0.1", free_port()))
    gateway.serve("chat", backends[0].member())
    assert [gateway.post().status_code for _ in range(20)] == [200] * 20


def ask(gateway: Gateway, **headers: str) -> None:
    url = f"{gateway.url}/v1/completions"
    httpx.post(url, json={"model": "tiny"}, headers=headers, timeout=60).raise_for_status()


# --- a real engine ---------------------------------------------------------------------------


@pytest.fixture
def traced_engine(
    receiver: Receiver, vllm_binary: Path, tiny_model: Path, tmp_path: Path
) -> Iterator[int]:
    """The port of a vLLM that runs as rendered for a stack with a collector."""
    args = {
        "otlp-traces-endpoint": f"http://127.0.0.1:{receiver.port}",
        "enforce-eager": True,
        "max-model-len": 1024,
        "kv-cache-memory-bytes": 67108864,
        "distributed-executor-backend": "uni",
    }
    template = ReplicaTemplate(
        service="chat",
        engine="vllm",
        engine_version=engines.newest("vllm"),
        executable="",
        model=str(tiny_model),
        served_name="tiny",
        args=tuple(sorted(args.items())),
        env=(("OTEL_SERVICE_NAME", "chat"),),
        secret_env=(),
        needs=Needs(None, 0, 1, 0),
    )
    port = free_port()
    words = engine.command(
        template, program=(str(vllm_binary), "serve"), host="127.0.0.1", port=port
    )
    rendered = engine.environment(
        template, Placement(""), address="chat/replica/2", instance="chat-replica-2-3fa9c1"
    )
    environment = {**os.environ, **real.VLLM_ENVIRONMENT, **rendered}
    with (tmp_path / "engine.log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: serves(process, port, tmp_path / "engine.log"), 180)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=60)


def serves(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.vllm
def test_the_span_of_a_real_engine_is_part_of_the_gateways_trace(
    start: Start, receiver: Receiver, traced_engine: int
) -> None:
    gateway = traced(start, receiver)
    gateway.serve("chat", Member("chat-replica-2-3fa9c1", "127.0.0.1", traced_engine))
    body = {"model": "tiny", "prompt": f"tell me of {SAID}", "max_tokens": 5}
    answer = httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 5

    def requests() -> list[Span]:
        return [span for span in receiver.spans("chat") if span.name == "llm_request"]

    until(lambda: len(requests()) == 1, 60)
    (request,) = requests()
    assert request.resource["enova.address"] == "chat/replica/2"
    assert request.resource["enova.instance"] == "chat-replica-2-3fa9c1"
    assert request.attributes["gen_ai.usage.completion_tokens"] == "5"
    assert float(request.attributes["gen_ai.latency.time_to_first_token"]) > 0
    assert float(request.attributes["gen_ai.latency.e2e"]) > 0
    until(lambda: len(of_trace(receiver, request.trace)) == 2)
    tries = [s for s in of_trace(receiver, request.trace) if s.kind == "SPAN_KIND_CLIENT"]
    assert [(s.id, s.attributes["enova.instance"]) for s in tries] == [
        (request.parent, "chat-replica-2-3fa9c1")
    ]
    said = [SAID, answer.json()["choices"][0]["text"].strip()]
    assert [word for word in said if word in receiver.text()] == []
