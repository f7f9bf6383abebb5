"""Asking an engine over loopback HTTP: is it alive, does it answer one token.

In: ``host:port``. Out: what the answer means. A silent engine is told apart from one that refuses
the connection: under load an answer may be late, and late is not dead.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from enova.base.errors import Unreachable

AT_A_TIME = 16


class Health(StrEnum):
    """What a health probe met."""

    OK = "ok"
    REFUSED = "refused"
    """Nobody listens, or the connection was cut."""
    FAILING = "failing"
    """It answered that it is not well."""
    SILENT = "silent"
    """No answer in time."""


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    status: int
    body: str


def health(host: str, port: int, *, path: str, timeout_s: float) -> Health:
    """Probe one endpoint."""
    try:
        status = _ask(host, port, "GET", path, None, timeout_s).status
    except TimeoutError:
        return Health.SILENT
    except (OSError, http.client.HTTPException):
        return Health.REFUSED
    return Health.OK if status < 400 else Health.FAILING


def health_of(endpoints: Sequence[tuple[str, int, str]], *, timeout_s: float) -> tuple[Health, ...]:
    """Probe many endpoints ``(host, port, path)`` at a time; answers in the same order."""
    if not endpoints:
        return ()
    with ThreadPoolExecutor(max_workers=min(AT_A_TIME, len(endpoints))) as pool:
        return tuple(
            pool.map(lambda e: health(e[0], e[1], path=e[2], timeout_s=timeout_s), endpoints)
        )


def one_token(host: str, port: int, *, model: str, timeout_s: float) -> Reply:
    """Ask for one token. Raises Unreachable when no answer came."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    try:
        return _ask(host, port, "POST", "/v1/completions", body, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{host}:{port}: {error or type(error).__name__}") from error


def answered(reply: Reply) -> bool:
    """Whether the reply is a completion."""
    if reply.status != 200:
        return False
    try:
        return bool(json.loads(reply.body).get("choices"))
    except (ValueError, AttributeError):
        return False


def _ask(host: str, port: int, method: str, path: str, body: object, timeout_s: float) -> Reply:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        data = None if body is None else json.dumps(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        connection.request(method, path, body=data, headers=headers)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(65536).decode(errors="replace"))
    finally:
        connection.close()
