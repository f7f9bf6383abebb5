"""The emulator as a program: start like vLLM, serve, stop like vLLM.

In: argument words. Out: an exit code: 0 after a signal, 1 when the engine refused to start,
2 for arguments it does not take. The port is bound at once but listens only when "loaded", so a
client sees a refused connection until then, as with a real engine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from enova.services.emulator.arguments import EmulatorConfig, parse

_BACKLOG = 2048
_KEEP_ALIVE_S = 5.0
"""vLLM's HTTP server closes idle connections after this."""

_OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "RuntimeError: Engine core initialization failed. See root cause above.",
)


def run(argv: Sequence[str]) -> int:
    """Run until a signal; the exit code."""
    try:
        config = parse(argv)
    except ValueError as error:
        _say(f"(emulated) ValueError: {error}")
        _say("(emulated) RuntimeError: Engine core initialization failed. See root cause above.")
        return 1
    except SystemExit as refused:
        return refused.code if isinstance(refused.code, int) else 2
    _banner(config)
    try:
        listener = _bind(config.host, config.port)
    except OSError as error:
        _say(f"OSError: cannot listen on {config.host}:{config.port}: {error.strerror}")
        return 1
    _raise_file_limit()
    import uvloop

    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, listener))


async def _serve(config: EmulatorConfig, listener: socket.socket) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_die)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if await _loading(config.start_delay, stopping):
        return 0
    if config.oom_at_start:
        for line in _OUT_OF_MEMORY:
            _say(f"(emulated) {line}")
        return 1
    if config.refuse_start is not None:
        _say(f"(emulated) {config.refuse_start}")
        return 1

    from aiohttp import web

    from enova.services.emulator.server import Server

    server = Server(config)
    web_runner = web.AppRunner(
        server.application(),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=_KEEP_ALIVE_S,
        shutdown_timeout=1.0,
    )
    await web_runner.setup()
    site = web.SockSite(web_runner, listener, backlog=_BACKLOG)
    await site.start()
    # What exists now stays; the collector need not walk it again.
    gc.collect()
    gc.freeze()
    host, port = listener.getsockname()[:2]
    _say(f"Emulator listens on http://{host}:{port}")
    _say("Application startup complete.")
    await stopping.wait()
    mode = "drain" if config.shutdown_timeout > 0 else "abort"
    _say(f"[shutdown] mode={mode} timeout={config.shutdown_timeout:g}s")
    if mode == "abort":
        await site.stop()
    aborted = await server.drain(config.shutdown_timeout)
    _say(f"[shutdown] aborted {aborted} requests")
    await web_runner.cleanup()
    return 0


def _die(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An engine that failed must not look like one that hangs: end the process, as vLLM does."""
    error = context.get("exception")
    if error is None or isinstance(error, OSError):
        loop.default_exception_handler(context)
        return
    traceback.print_exception(error)
    _say(f"(emulator bug) {context.get('message')}")
    os._exit(1)


async def _loading(delay_s: float, stopping: asyncio.Event) -> bool:
    """Take as long as loading a model would; whether a signal came meanwhile."""
    if delay_s > 0:
        try:
            await asyncio.wait_for(stopping.wait(), delay_s)
        except TimeoutError:
            return False
    return stopping.is_set()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _banner(config: EmulatorConfig) -> None:
    law = config.law
    limits = config.limits
    _say("This is an EMULATOR: no model is loaded, answers are filler words.")
    _say(
        f"It stands in for vLLM {config.surface_version} serving {', '.join(config.names)}; "
        f"step = {law.base:g} s + {law.per_prefill_token:g} a prefill token "
        f"+ {law.per_decode:g} a decode + {law.per_context_token:g} a context token, "
        f"time scale {config.time_scale:g}."
    )
    _say(
        f"Limits: {limits.max_num_seqs} sequences, {limits.max_num_batched_tokens} tokens a step, "
        f"{limits.max_model_len} tokens of context, {limits.kv_blocks} blocks of "
        f"{limits.block_size} tokens."
    )
    if config.without_effect:
        _say(f"Accepted without effect here: {', '.join(config.without_effect)}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
