"""Prefix affinity: what starts alike goes to the replica that has the start in its cache."""

from __future__ import annotations

import json
from collections import Counter

import httpx
import pytest
from gateway_world import Backend, Gateway, Load, Start, Stream

from enova.stack.render.envoy_settings import GatewayService

pytestmark = pytest.mark.real

SERVICE = GatewayService("chat", ("tiny",), routing="prefix")


def who(gateway: Gateway, path: str = "/v1/chat/completions", **body: object) -> str:
    return str(gateway.post(path, **body).json()["from"])


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_the_turns_of_a_conversation_stay_together(start: Start, backends: list[Backend]) -> None:
    gateway = start(SERVICE)
    gateway.serve("chat", *(engine.member() for engine in backends))
    first_turns = set()
    for number in range(30):
        messages = [say("system", "You help." * 100), say("user", f"question {number}")]
        places = set()
        for turn in range(4):
            places.add(who(gateway, messages=messages, temperature=turn))
            messages += [say("assistant", f"answer {turn}"), say("user", "x" * 2000 * turn)]
        assert len(places) == 1, number
        first_turns |= places
    assert len(first_turns) == 3


def test_long_prompts_and_documents_that_start_alike_stay_together(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(SERVICE)
    gateway.serve("chat", *(engine.member() for engine in backends))
    for number in range(10):
        document = f"document {number} " + "word " * 400
        asked = [f"{document} {question}" for question in ("what", "why", '"model": \\ {[')]
        assert len({who(gateway, "/v1/completions", prompt=text) for text in asked}) == 1
        assert len({who(gateway, messages=[say("user", text)]) for text in asked}) == 1
        tokens = [number, *range(1000)]
        prompts = [[*tokens, end] for end in range(3)]
        assert len({who(gateway, "/v1/completions", prompt=prompt) for prompt in prompts}) == 1


def test_the_order_of_keys_and_the_way_in_do_not_matter(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(SERVICE)
    gateway.serve("chat", *(engine.member() for engine in backends))
    for number in range(10):
        messages = [say("user", f"question {number}")]
        bodies = [
            {"model": "tiny", "messages": messages},
            {"messages": messages, "n": 1, "model": "tiny"},
        ]
        places = {
            httpx.post(gateway.url + path, content=json.dumps(body)).json()["from"]
            for body in bodies
            for path in ("/v1/chat/completions", "/chat/v1/chat/completions")
        }
        assert len(places) == 1


def test_a_new_replica_moves_only_a_part(start: Start, backends: list[Backend]) -> None:
    gateway = start(SERVICE)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))

    def places() -> list[str]:
        return [who(gateway, messages=[say("user", f"question {n}")]) for n in range(120)]

    before = places()
    assert places() == before
    gateway.serve("chat", *(engine.member() for engine in backends))
    after = places()
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert moved.count("chat-replica-2") > len(moved) / 2
    assert 15 < len(moved) < 70


def test_one_hot_prefix_does_not_overload_its_replica(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(SERVICE)
    gateway.serve("chat", *(engine.member() for engine in backends))
    streams = [Stream(gateway, chunks=2, gap_s=600) for _ in range(18)]
    opened = [int(str(engine.seen()["open"])) for engine in backends]
    assert sum(opened) == 18
    assert max(opened) <= 9, opened
    for stream in streams:
        stream.close()


def test_a_dead_replica_is_replaced_by_its_neighbour(start: Start, backends: list[Backend]) -> None:
    gateway = start(SERVICE)
    gateway.serve("chat", *(engine.member() for engine in backends))
    with Load(gateway) as load:
        load.more(20)
        backends[0].kill()
        for number in range(30):
            messages = [say("user", f"question {number}")]
            assert gateway.post(messages=messages).status_code == 200
        load.more(20)
    assert Counter(load.results).keys() == {"200"}
