"""The HTTP surface of a vLLM server, in front of an emulated engine.

In: HTTP requests. Out: vLLM's answers, status codes and error objects; jobs for the engine.
``Server`` holds what the routes share: configuration, engine, faults, counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import NoReturn

from aiohttp import web

from enova import __version__
from enova.services.emulator import exposition
from enova.services.emulator.answers import Answer, model_card, to_json
from enova.services.emulator.arguments import EmulatorConfig
from enova.services.emulator.engine import Engine, Job, Sink
from enova.services.emulator.faults import Faults
from enova.services.emulator.lengths import OutputLengths
from enova.services.emulator.meter import Meter
from enova.services.emulator.pace import Clock, Pacer
from enova.services.emulator.requests import (
    Ask,
    Kind,
    Rejection,
    chat_prompt,
    check_model,
    parse_ask,
    parse_body,
)
from enova.services.emulator.streams import StreamSink, WholeSink
from enova.services.emulator.tokens import BYTES_PER_TOKEN, decode, encode

IGNORED_FIELDS = ("logprobs", "response_format", "sampling parameters", "stop", "tools")
"""Request fields that are accepted and change nothing."""

_LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
_UNCOUNTED = ("/metrics", "/health", "/load", "/ping", "/version")
_LARGEST_BODY = 64 * 2**20

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """One emulated vLLM server on the running event loop."""

    def __init__(self, config: EmulatorConfig) -> None:
        self._config = config
        self.meter = Meter(
            model_name=config.names[0],
            max_model_len=config.limits.max_model_len,
            buckets=config.buckets,
        )
        clock = Clock(time.monotonic, config.time_scale)
        self.engine = Engine(config.law, config.limits, clock, self.meter)
        self._pacer = Pacer(self.engine, asyncio.get_running_loop(), time.monotonic)
        self._lengths = OutputLengths(
            mean=config.output_mean, cv=config.output_cv, seed=config.seed
        )
        self._faults = Faults()
        self._load = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._fingerprint = f"enova-emulator-{__version__}"
        self.set_faults(config.faults)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._around], client_max_size=_LARGEST_BODY)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/ping", self._health),
                web.post("/ping", self._health),
                web.get("/metrics", self._metrics),
                web.get("/version", self._version),
                web.get("/load", self._show_load),
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
                web.get("/emulator/faults", self._show_faults),
                web.post("/emulator/faults", self._change_faults),
                web.delete("/emulator/faults", self._clear_faults),
            ]
        )
        return app

    def set_faults(self, faults: Faults) -> None:
        """Show these faults from now on."""
        self._faults = faults
        self.engine.slow_down(faults.slow)
        if faults.hang:
            self.engine.hang()
        else:
            self.engine.go_on()
        self._pacer.arm()

    async def drain(self, timeout_s: float) -> int:
        """Refuse new work and wait for the rest; how many were aborted after ``timeout_s``."""
        self._draining = True
        if timeout_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        aborted = self.engine.abort_all()
        self._pacer.arm()
        return aborted

    @web.middleware
    async def _around(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Faults, keys, counts and vLLM's form of errors, around every route."""
        resource = request.match_info.route.resource
        route = "none" if resource is None else resource.canonical
        try:
            self._admit(request, route)
            response = await handler(request)
        except Rejection as rejection:
            response = _json(rejection.body(), rejection.status)
        except web.HTTPException as error:
            what = "error" if error.status == 401 else "detail"
            response = _json({what: error.reason}, error.status)
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        if not response.prepared:
            response.headers["Server"] = "enova-emulator"
            self._echo_request_id(request, response)
        if route not in _UNCOUNTED and not route.startswith("/emulator"):
            self.meter.count_http(request.method, route, response.status)
        return response

    def _admit(self, request: web.Request, route: str) -> None:
        config = self._config
        if route.startswith("/emulator"):
            if request.remote not in _LOOPBACK:
                raise Rejection(403, "faults are set from loopback only", kind="Forbidden")
            return
        if self._faults.unavailable and route != "/metrics":
            raise Rejection(503, "emulated fault: unavailable", kind="ServiceUnavailableError")
        if config.api_keys and route.startswith("/v1"):
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            known = any(
                hmac.compare_digest(given.encode(), key.encode()) for key in config.api_keys
            )
            if scheme.lower() != "bearer" or not known:
                raise web.HTTPUnauthorized

    def _echo_request_id(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._config.request_id_headers:
            response.headers["X-Request-Id"] = request.headers.get("X-Request-Id", uuid.uuid4().hex)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, "completion")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, "chat")

    async def _generate(self, request: web.Request, kind: Kind) -> web.StreamResponse:
        config = self._config
        self._count_towards_crash()
        ask = parse_ask(
            kind,
            await request.read(),
            names=config.names,
            max_model_len=config.limits.max_model_len,
        )
        if self._draining:
            raise Rejection(500, "cannot schedule new futures after shutdown")
        self._check_queue()
        name = request.headers.get("X-Request-Id") or uuid.uuid4().hex[:16]
        answer = Answer(
            ask,
            f"{'cmpl' if kind == 'completion' else 'chatcmpl'}-{name}",
            created=int(time.time()),
            fingerprint=self._fingerprint,
        )
        self._load += 1
        self._idle.clear()
        try:
            if ask.stream:
                return await self._stream(request, answer)
            return await self._whole(request, answer)
        finally:
            self._load -= 1
            if self._load == 0:
                self._idle.set()

    async def _stream(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Server": "enova-emulator",
            }
        )
        self._echo_request_id(request, response)
        chunked = request.version >= (1, 1)
        if chunked:
            response.enable_chunked_encoding()
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return response
        ended = asyncio.get_running_loop().create_future()
        sink = StreamSink(answer, transport, ended, chunked=chunked)
        await self._run(answer.ask, sink, ended)
        if not transport.is_closing():
            await response.write_eof()
        return response

    async def _whole(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        ended = asyncio.get_running_loop().create_future()
        sink = WholeSink(ended)
        reason = await self._run(answer.ask, sink, ended)
        if reason == "abort" and request.transport is not None:
            request.transport.abort()
        return _json(answer.whole(sink.tokens, reason))

    async def _run(self, ask: Ask, sink: Sink, ended: asyncio.Future[str]) -> str:
        """Put the job into the engine and wait for its end; a lost client aborts it."""
        length = ask.max_tokens
        reason = "length"
        if not ask.ignore_eos:
            drawn = max(ask.min_tokens, self._lengths.draw(ask.seed))
            if drawn < length:
                length, reason = drawn, "stop"
        job = Job(
            self.engine.new_id(),
            sink,
            prompt_tokens=ask.prompt.tokens,
            output_tokens=length,
            max_tokens=ask.max_tokens,
            reason=reason,
        )
        limits = self._config.limits
        prefix = ask.prompt.block_hashes(limits.block_size) if limits.prefix_caching else ()
        self.engine.submit(job, prefix)
        self._pacer.arm()
        try:
            return await ended
        finally:
            if not ended.done() or ended.cancelled():
                self.engine.abort(job.id)
                self._pacer.arm()

    def _check_queue(self) -> None:
        config = self._config
        most = config.max_queued_requests
        if most is not None and self.engine.unfinished + 1 > most:
            self.meter.rejected["max_num_queued_reqs"] += 1
            raise Rejection(
                503,
                "The engine is currently busy and cannot accept new requests. "
                "Please try again later or on a different instance.",
                kind="Service Unavailable",
            )
        tokens = config.max_queued_tokens
        if tokens is not None and self.engine.prefill_backlog >= tokens:
            self.meter.rejected["max_num_queued_tokens"] += 1
            raise Rejection(
                503,
                "The engine has reached its prefill token backlog limit. "
                "Please try again later or on a different instance.",
                kind="Service Unavailable",
            )

    def _count_towards_crash(self) -> None:
        left = self._faults.crash_after
        if left is None:
            return
        if left <= 1:
            _crash(self._faults.crash_code)
        self._faults = self._faults.changed({"crash_after": left - 1})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _request: web.Request) -> web.Response:
        limits = self._config.limits
        tokens = limits.kv_blocks * limits.block_size
        text = exposition.render(
            self.meter,
            self.engine.state(),
            cache={
                "block_size": str(limits.block_size),
                "cache_dtype": "auto",
                "enable_prefix_caching": str(limits.prefix_caching),
                "kv_cache_max_concurrency": str(tokens / limits.max_model_len),
                "kv_cache_size_tokens": str(tokens),
                "num_gpu_blocks": str(limits.kv_blocks),
            },
            about={
                "model_name": self._config.names[0],
                "surface_version": self._config.surface_version,
                "time_scale": f"{self._config.time_scale:g}",
                "version": __version__,
            },
        )
        return web.Response(body=text.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})

    async def _version(self, _request: web.Request) -> web.Response:
        return _json(
            {
                "version": self._config.surface_version,
                "emulator": True,
                "enova": __version__,
                "time_scale": self._config.time_scale,
                "bytes_per_token": BYTES_PER_TOKEN,
                "ignored_fields": list(IGNORED_FIELDS),
                "faults": self._faults.to_plain(),
            }
        )

    async def _show_load(self, _request: web.Request) -> web.Response:
        return _json({"server_load": self._load if self._config.load_tracking else 0})

    async def _models(self, _request: web.Request) -> web.Response:
        limit, root = self._config.limits.max_model_len, self._config.model
        cards = [model_card(name, root=root, max_model_len=limit) for name in self._config.names]
        return _json({"object": "list", "data": cards})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = parse_body(await request.read())
        check_model(body, self._config.names)
        if "messages" in body:
            text = chat_prompt(body)
        else:
            prompt = body.get("prompt")
            if not isinstance(prompt, str):
                raise Rejection(400, "prompt must be a string", param="body.prompt")
            text = prompt
        data = text.encode("utf-8", "surrogatepass")
        ids = encode(data)
        strings = None
        if body.get("return_token_strs") is True:
            strings = [decode([number]).decode("utf-8", "replace") for number in ids]
        return _json(
            {
                "count": len(ids),
                "max_model_len": self._config.limits.max_model_len,
                "tokens": ids,
                "token_strs": strings,
            }
        )

    async def _detokenize(self, request: web.Request) -> web.Response:
        body = parse_body(await request.read())
        check_model(body, self._config.names)
        ids = body.get("tokens")
        if not isinstance(ids, list) or not all(isinstance(i, int) and i >= 0 for i in ids):
            raise Rejection(400, "tokens must be a list of numbers from 0", param="body.tokens")
        return _json({"prompt": decode(ids).decode("utf-8", "replace")})

    async def _show_faults(self, _request: web.Request) -> web.Response:
        return _json(self._faults.to_plain())

    async def _change_faults(self, request: web.Request) -> web.StreamResponse:
        try:
            faults = self._faults.changed(parse_body(await request.read()))
        except ValueError as error:
            raise Rejection(400, str(error)) from error
        self.set_faults(faults)
        response = _json(faults.to_plain())
        if faults.crash_after == 0:
            await response.prepare(request)
            await response.write_eof()
            # After the loop has had a turn to send the answer.
            asyncio.get_running_loop().call_later(0.01, _crash, faults.crash_code)
        return response

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self.set_faults(Faults())
        return _json(self._faults.to_plain())


def _crash(code: int) -> NoReturn:
    sys.stderr.write(f"(emulated) EngineCore encountered a fatal error; exit code {code}\n")
    sys.stderr.flush()
    os._exit(code)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(
        body=to_json(body), status=status, headers={"Content-Type": "application/json"}
    )
