"""Bodies and chunks have vLLM's fields in vLLM's order (recorded from 0.32.0)."""

from __future__ import annotations

import json

import pytest

from enova.services.emulator.answers import DONE, Answer
from enova.services.emulator.requests import parse_ask


def answer(kind: str, **fields: object) -> Answer:
    what = (
        {"prompt": "Hello licensed world"}
        if kind == "completion"
        else {"messages": [{"role": "user", "content": "Hello"}]}
    )
    data = json.dumps(what | fields).encode()
    ask = parse_ask(kind, data, names=("tiny",), max_model_len=1024)
    return Answer(ask, "id-@@@@-1", created=17, fingerprint="fp")


def event(data: bytes) -> str:
    text = data.decode()
    assert text.startswith("data: ") and text.endswith("\n\n")
    return text.removeprefix("data: ").strip()


def test_completion_chunks() -> None:
    made = answer("completion", stream=True)
    first, last = made.words(0, 1).decode(), made.words(1, 1).decode()
    head = '{"id":"id-@@@@-1","object":"text_completion","created":17,"model":"tiny","choices":['
    assert event(made.token(0, 1)) == (
        f'{head}{{"index":0,"text":"{first}","logprobs":null,"finish_reason":null,'
        '"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}'
    )
    assert event(made.last(1, 1, "length")) == (
        f'{head}{{"index":0,"text":"{last}","logprobs":null,"finish_reason":"length",'
        '"stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"system_fingerprint":"fp"}'
    )
    assert made.opening() == b""
    assert made.closing(2) == DONE


def test_chat_chunks() -> None:
    made = answer("chat", stream=True, stream_options={"include_usage": True})
    head = (
        '{"id":"id-@@@@-1","object":"chat.completion.chunk","created":17,"model":"tiny","choices":['
    )
    assert event(made.opening()) == (
        f'{head}{{"index":0,"delta":{{"role":"assistant","content":""}},"logprobs":null,'
        '"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}'
    )
    word = made.words(0, 1).decode()
    assert event(made.token(0, 1)) == (
        f'{head}{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,'
        '"finish_reason":null,"token_ids":null}]}'
    )
    assert event(made.last(0, 1, "stop")) == (
        f'{head}{{"index":0,"delta":{{"content":"{word}"}},"logprobs":null,'
        '"finish_reason":"stop","stop_reason":null,"token_ids":null}]}'
    )
    prompt = made.ask.prompt.tokens
    usage, done, _ = made.closing(3).split(b"\n\n")
    assert usage.decode().removeprefix("data: ") == (
        f'{head}],"usage":{{"prompt_tokens":{prompt},"total_tokens":{prompt + 3},'
        '"completion_tokens":3},"system_fingerprint":"fp"}'
    )
    assert done + b"\n\n" == DONE


@pytest.mark.parametrize("kind", ["completion", "chat"])
def test_the_frame_around_a_word_makes_the_chunk(kind: str) -> None:
    made = answer(kind, stream=True)
    before, after = made.frame()
    assert before + made.words(5, 1) + after == made.token(5, 1)


def test_whole_bodies_have_the_recorded_keys() -> None:
    completion = answer("completion").whole(4, "length")
    assert list(completion) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint"),
        *("usage", "kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    chat = answer("chat").whole(4, "length")
    assert list(chat) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint"),
        *("usage", "prompt_logprobs", "prompt_token_ids", "prompt_text"),
        *("kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    assert chat["object"] == "chat.completion"
