"""Requests are understood and refused in vLLM's words (recorded from 0.32.0)."""

from __future__ import annotations

import json

import pytest

from enova.services.emulator.requests import Rejection, parse_ask


def ask(kind, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_ask(kind, data, names=("tiny",), max_model_len=1024)


def test_a_completion_without_max_tokens_gets_16() -> None:
    assert ask("completion", {"prompt": "Hello"}).max_tokens == 16


def test_a_chat_without_max_tokens_gets_the_rest_of_the_context() -> None:
    found = ask("chat", {"messages": [{"role": "user", "content": "Hello"}]})
    assert found.max_tokens == 1024 - found.prompt.tokens


def test_max_tokens_is_cut_to_the_context() -> None:
    assert ask("completion", {"prompt": [1] * 1000, "max_tokens": 500}).max_tokens == 24


def test_max_completion_tokens_goes_before_max_tokens() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 3}
    assert ask("chat", body | {"max_tokens": 9}).max_tokens == 3


def test_stream_options() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    found = ask("completion", {"prompt": "a", "stream": True, "stream_options": options})
    assert (found.stream, found.include_usage, found.usage_in_every_chunk) == (True, True, True)


RECORDED = [
    (
        "completion",
        {"model": "nope", "prompt": "Hello", "max_tokens": 4},
        {
            "message": "The model `nope` does not exist. Valid aliases: tiny.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        },
    ),
    (
        "completion",
        {"prompt": [1] * 1500, "max_tokens": 4},
        {
            "message": "This model's maximum context length is 1024 tokens. However, your prompt "
            "contains at least 1025 input tokens, which exceeds this limit even without any output "
            "tokens. Please reduce the length of the input prompt. "
            "(parameter=input_tokens, value=1025)",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        },
    ),
    (
        "chat",
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2000},
        {
            "message": "max_tokens=2000 cannot be greater than max_model_len=1024. "
            "Please request fewer output tokens. (parameter=max_tokens, value=2000)",
            "type": "BadRequestError",
            "param": "max_tokens",
            "code": 400,
        },
    ),
    (
        "completion",
        {"max_tokens": 4},
        {
            "message": "Either prompt or prompt_embeds must be provided and non-empty. "
            "(parameter=prompt)",
            "type": "BadRequestError",
            "param": "prompt",
            "code": 400,
        },
    ),
    (
        "chat",
        {"model": "tiny"},
        {
            "message": "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', "
            "'msg': 'Field required', 'input': '<dict of 1 items>'}",
            "type": "Bad Request",
            "param": "body.messages",
            "code": 400,
        },
    ),
    (
        "completion",
        b'{"model":',
        {
            "message": "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.9', "
            "'msg': 'JSON decode error', 'input': '<dict of 0 items>', "
            "'ctx': {'error': 'Expecting value'}}",
            "type": "Bad Request",
            "param": "body.9",
            "code": 400,
        },
    ),
    (
        "completion",
        {"prompt": "Hello", "max_tokens": "many"},
        {
            "message": "1 validation error:\n  {'type': 'int_parsing', 'loc': 'body.max_tokens', "
            "'msg': 'Input should be a valid integer, unable to parse string as an integer', "
            "'input': 'many'}",
            "type": "Bad Request",
            "param": "body.max_tokens",
            "code": 400,
        },
    ),
    (
        "completion",
        {"prompt": "Hello", "max_tokens": 0},
        {
            "message": "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            "type": "BadRequestError",
            "param": "max_tokens",
            "code": 400,
        },
    ),
    (
        "completion",
        {"prompt": "Hello", "temperature": -1},
        {
            "message": "temperature must be non-negative, got -1.0. "
            "(parameter=temperature, value=-1.0)",
            "type": "BadRequestError",
            "param": "temperature",
            "code": 400,
        },
    ),
]


@pytest.mark.parametrize(("kind", "body", "error"), RECORDED, ids=lambda value: str(value)[:30])
def test_refuses_as_vllm_does(kind, body, error) -> None:
    with pytest.raises(Rejection) as refused:
        ask(kind, body)
    assert refused.value.body() == {"error": error}
    assert refused.value.status == error["code"]


@pytest.mark.parametrize(
    "body", [{"prompt": "a", "n": 2}, {"prompt": ["a", "b"]}, {"prompt": "a", "echo": True}, b"[]"]
)
def test_what_is_not_emulated_is_refused_not_faked(body) -> None:
    with pytest.raises(Rejection) as refused:
        ask("completion", body)
    assert refused.value.status == 400
