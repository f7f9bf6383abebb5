"""Bodies of ``/v1/completions`` and ``/v1/chat/completions`` into one ``Ask``.

In: the request's bytes and what is served. Out: what to generate, or a ``Rejection`` with the
status and the words vLLM uses. Fields that only steer sampling are accepted and ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from enova.services.emulator.tokens import Prompt, chat_text, ids_prompt, text_prompt

Kind = Literal["completion", "chat"]

_PHRASES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
_COMPLETION_TOKENS = 16
"""What vLLM generates for a completion that does not say how much."""


class Rejection(Exception):
    """An answer in place of tokens: HTTP status and vLLM's error object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or _PHRASES[status]
        self.param = param

    def body(self) -> dict[str, object]:
        """vLLM's error object."""
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.status,
            }
        }


@dataclass(frozen=True)
class Ask:
    """One request for tokens. ``max_tokens`` fits into the context after the prompt."""

    kind: Kind
    model: str
    prompt: Prompt
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    seed: int | None
    stream: bool
    include_usage: bool
    usage_in_every_chunk: bool


def parse_body(data: bytes) -> dict[str, object]:
    """A JSON object. Raises Rejection 400 in the words of vLLM's validation."""
    try:
        body = json.loads(data)
    except json.JSONDecodeError as error:
        raise _invalid(
            "json_invalid",
            f"body.{error.pos}",
            "JSON decode error",
            "<dict of 0 items>",
            f", 'ctx': {{'error': {error.msg!r}}}",
        ) from error
    except UnicodeDecodeError as error:
        raise Rejection(400, "There was an error parsing the body", kind="Bad Request") from error
    if not isinstance(body, dict):
        raise _invalid(
            "model_attributes_type",
            "body",
            "Input should be a valid dictionary or object to extract fields from",
            body,
        )
    return body


def parse_ask(kind: Kind, data: bytes, *, names: Sequence[str], max_model_len: int) -> Ask:
    """The request in ``data``. Raises Rejection for what vLLM would refuse, and for ``n`` above 1
    and several prompts in one request, which are not emulated."""
    body = parse_body(data)
    model = check_model(body, names)
    _check_numbers(body)
    _check_not_emulated(body)
    stream_options = body.get("stream_options")
    options = stream_options if isinstance(stream_options, dict) else {}
    stream = body.get("stream") is True
    if stream_options is not None and not stream:
        raise Rejection(
            400,
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            param="stream_options",
        )
    if kind == "completion":
        prompt = _completion_prompt(body.get("prompt"))
        limit_name, limit = "max_tokens", _integer(body, "max_tokens", _COMPLETION_TOKENS)
    else:
        prompt = text_prompt(chat_prompt(body))
        limit_name, limit = "max_completion_tokens", _integer(body, "max_completion_tokens", None)
        if limit is None:
            limit_name, limit = "max_tokens", _integer(body, "max_tokens", None)
    min_tokens = _integer(body, "min_tokens", 0) or 0
    return Ask(
        kind=kind,
        model=model,
        prompt=prompt,
        max_tokens=_room(prompt, limit, limit_name=limit_name, max_model_len=max_model_len),
        min_tokens=min_tokens,
        ignore_eos=body.get("ignore_eos") is True,
        seed=_integer(body, "seed", None),
        stream=stream,
        include_usage=stream and options.get("include_usage") is True,
        usage_in_every_chunk=stream
        and options.get("include_usage") is True
        and options.get("continuous_usage_stats") is True,
    )


def check_model(body: Mapping[str, object], names: Sequence[str]) -> str:
    """The served name asked for; the first when none is given. Raises Rejection 404."""
    asked = body.get("model")
    if not asked:
        return names[0]
    if asked not in names:
        raise Rejection(
            404,
            f"The model `{asked}` does not exist. Valid aliases: {', '.join(names)}.",
            param="model",
        )
    return str(asked)


def chat_prompt(body: Mapping[str, object]) -> str:
    """The text the messages become. Raises Rejection 400."""
    messages = body.get("messages")
    if "messages" not in body:
        raise _invalid("missing", "body.messages", "Field required", body)
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise _invalid("list_type", "body.messages", "Input should be a valid list", messages)
    if not messages:
        raise Rejection(400, "messages must not be empty. (parameter=messages)", param="messages")
    try:
        return chat_text(messages, body.get("tools"))
    except ValueError as error:
        raise Rejection(400, str(error)) from error


def _completion_prompt(prompt: object) -> Prompt:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return text_prompt(prompt)
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
            if min(prompt) < 0:
                raise Rejection(400, f"Token id {min(prompt)} is out of vocabulary")
            return ids_prompt(prompt)
        raise Rejection(400, "the emulator takes one prompt a request", param="prompt")
    raise Rejection(
        400,
        "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
        param="prompt",
    )


def _check_numbers(body: Mapping[str, object]) -> None:
    temperature = body.get("temperature")
    if isinstance(temperature, (int, float)) and temperature < 0:
        raise Rejection(
            400,
            f"temperature must be non-negative, got {float(temperature)}. "
            f"(parameter=temperature, value={float(temperature)})",
            param="temperature",
        )
    for name in ("max_tokens", "max_completion_tokens"):
        value = _integer(body, name, None)
        if value is not None and value < 1:
            raise Rejection(
                400,
                f"max_tokens must be at least 1, got {value}. "
                f"(parameter=max_tokens, value={value})",
                param="max_tokens",
            )


def _check_not_emulated(body: Mapping[str, object]) -> None:
    for name in ("n", "best_of"):
        if body.get(name) not in (None, 1):
            raise Rejection(400, f"the emulator gives one choice a request: {name}=1", param=name)
    if body.get("echo") is True:
        raise Rejection(400, "the emulator does not echo prompts", param="echo")


def _integer(body: Mapping[str, object], name: str, default: int | None) -> int | None:
    value = body.get(name, default)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            message = "Input should be a valid integer, unable to parse string as an integer"
            raise _invalid("int_parsing", f"body.{name}", message, value) from None
    raise _invalid("int_type", f"body.{name}", "Input should be a valid integer", value)


def _room(prompt: Prompt, limit: int | None, *, limit_name: str, max_model_len: int) -> int:
    if limit is not None and limit > max_model_len:
        raise Rejection(
            400,
            f"{limit_name}={limit} cannot be greater than max_model_len={max_model_len}. "
            f"Please request fewer output tokens. (parameter={limit_name}, value={limit})",
            param=limit_name,
        )
    room = max_model_len - prompt.tokens
    if room < 1:
        counted = max_model_len + 1
        raise Rejection(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt "
            f"contains at least {counted} input tokens, which exceeds this limit even without any "
            f"output tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={counted})",
            param="input_tokens",
        )
    return room if limit is None else min(room, limit)


def _invalid(code: str, where: str, message: str, given: object, more: str = "") -> Rejection:
    """One error in the form vLLM gives pydantic's."""
    if isinstance(given, Mapping):
        given = f"<dict of {len(given)} items>"
    elif isinstance(given, list):
        given = f"<list of {len(given)} items>"
    return Rejection(
        400,
        f"1 validation error:\n  {{'type': {code!r}, 'loc': {where!r}, 'msg': {message!r}, "
        f"'input': {given!r}{more}}}",
        param=where,
        kind="Bad Request",
    )
