"""Every answer the gateway makes itself, in the error form of the OpenAI API.

In: nothing. Out: Envoy's table of local replies. An answer that an engine gave passes as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

Document = dict[str, object]

MODEL_HEADER = "x-enova-model"
MODEL_NAMED: Document = {"name": MODEL_HEADER, "present_match": True}
"""Matches once the script has read a model from the body."""

_OWN_WORDS = "%LOCAL_REPLY_BODY%"
_ASKED = "invalid_request_error"
_SERVER = "server_error"
_LATER = (("retry-after", "1"),)


@dataclass(frozen=True)
class _Error:
    """One row: what a client reads when the gateway answers with ``status`` (or ``instead``)."""

    status: int
    message: str
    kind: str
    code: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    model_named: bool = False
    instead: int | None = None


_ERRORS = (
    _Error(400, _OWN_WORDS, _ASKED),
    _Error(
        403,
        "No valid API key: send it as 'Authorization: Bearer KEY'.",
        _ASKED,
        "invalid_api_key",
        headers=(("www-authenticate", "Bearer"),),
        instead=401,
    ),
    _Error(
        404,
        "The model '%DYNAMIC_METADATA(enova:model)%' does not exist.",
        _ASKED,
        "model_not_found",
        model_named=True,
    ),
    _Error(404, "Unknown path: use /v1/... or /<service>/v1/...", _ASKED, "unknown_url"),
    _Error(408, "The request did not arrive in time.", _ASKED, "request_timeout"),
    _Error(
        413, "The request body is larger than this gateway accepts.", _ASKED, "request_too_large"
    ),
    _Error(415, _OWN_WORDS, _ASKED, "unsupported_media_type"),
    _Error(
        429,
        "Too many requests: the rate limit is reached. Try again later.",
        "rate_limit_error",
        "rate_limit_exceeded",
        headers=_LATER,
    ),
    _Error(431, "The request headers are too large.", _ASKED, "headers_too_large"),
    _Error(500, "The gateway failed.", _SERVER, "internal_error"),
    _Error(502, "The replica's answer was not valid HTTP.", _SERVER, "bad_gateway"),
    _Error(
        503,
        "No replica can answer now (%RESPONSE_FLAGS%). Try again.",
        _SERVER,
        "service_unavailable",
        headers=_LATER,
    ),
    _Error(504, "The replica did not answer in time.", _SERVER, "timeout"),
)


def error_table() -> Document:
    """The configuration of Envoy's local replies; the first row that matches counts."""
    return {"mappers": [_mapper(error) for error in _ERRORS]}


def set_header(name: str, value: str) -> Document:
    """One header of an answer, instead of any there was."""
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _mapper(error: _Error) -> Document:
    condition: Document = {
        "status_code_filter": {
            "comparison": {
                "op": "EQ",
                "value": {
                    "default_value": error.status,
                    "runtime_key": f"enova.error.{error.status}",
                },
            }
        }
    }
    if error.model_named:
        named: Document = {"header_filter": {"header": MODEL_NAMED}}
        condition = {"and_filter": {"filters": [condition, named]}}
    form = {"message": error.message, "type": error.kind, "param": None, "code": error.code}
    mapper: Document = {
        "filter": condition,
        "body_format_override": {"json_format": {"error": form}},
    }
    if error.headers:
        mapper["headers_to_add"] = [set_header(name, value) for name, value in error.headers]
    if error.instead is not None:
        mapper["status_code"] = error.instead
    return mapper
