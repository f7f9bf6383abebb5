"""A stand-in engine for the gateway's tests: answers, streams, fails and remembers on request.

Run as ``python backend.py PORT NAME``. The body's ``test`` object says what to do: ``delay_s``,
``chunks``, ``gap_s``. ``POST /control`` sets what is constant: ``health`` (status of /health),
``fail`` (status of every answer), ``hang``, ``close`` (reset instead of an answer); ``reset``
forgets what came.
``GET /seen`` says what came.
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

NAME = sys.argv[2]
control: dict[str, object] = {"health": 200, "fail": 0, "hang": False, "close": False}
seen: dict[str, object] = {"requests": 0, "open": 0, "cancelled": 0, "bytes": [], "headers": {}}


async def health(_: web.Request) -> web.Response:
    return web.Response(status=int(str(control["health"])))


async def set_control(request: web.Request) -> web.Response:
    asked = await request.json()
    if asked.pop("reset", False):
        seen.update({"requests": 0, "cancelled": 0, "bytes": [], "headers": {}})
    control.update(asked)
    return web.json_response(control)


async def get_seen(_: web.Request) -> web.Response:
    return web.json_response(seen)


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    seen["requests"] = int(str(seen["requests"])) + 1
    seen["open"] = int(str(seen["open"])) + 1
    list_of_bytes = seen["bytes"]
    assert isinstance(list_of_bytes, list)
    list_of_bytes.append(len(body))
    seen["headers"] = {key.lower(): value for key, value in request.headers.items()}
    seen["path"] = request.path_qs
    try:
        return await _answer(request, json.loads(body) if body[:1] == b"{" else {})
    except asyncio.CancelledError:
        seen["cancelled"] = int(str(seen["cancelled"])) + 1
        raise
    finally:
        seen["open"] = int(str(seen["open"])) - 1


async def _answer(request: web.Request, asked: dict[str, object]) -> web.StreamResponse:
    if control["close"]:
        assert request.transport is not None
        request.transport.abort()
    if control["hang"]:
        await asyncio.sleep(3600)
    if control["fail"]:
        return web.json_response({"error": NAME}, status=int(str(control["fail"])))
    todo = asked.get("test", {})
    assert isinstance(todo, dict)
    await asyncio.sleep(todo.get("delay_s", 0))
    if not asked.get("stream"):
        return web.json_response({"from": NAME, "path": request.path})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for index in range(todo.get("chunks", 3)):
        await response.write(f"data: {NAME} {index}\n\n".encode())
        await asyncio.sleep(todo.get("gap_s", 0))
    await response.write(b"data: [DONE]\n\n")
    return response


app = web.Application(client_max_size=64 * 1024 * 1024)
app.router.add_get("/health", health)
app.router.add_post("/control", set_control)
app.router.add_get("/seen", get_seen)
app.router.add_route("*", "/v1/{rest:.*}", answer)
web.run_app(
    app,
    host="127.0.0.1",
    port=int(sys.argv[1]),
    print=None,
    handler_cancellation=True,
    keepalive_timeout=5,
    access_log=None,
)
