"""Load on a gateway: an open loop of requests that arrive whether or not the last were answered.

In: the gateway's address, what to ask of which service, a rate. Out: one `Reply` a request, with
the kind of its end: `answered`, or how it failed. Half of the requests are streamed, and half name
the service in the path, the other half in the body. Nothing is ever tried again.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import aiohttp

ANSWERED = "answered"
REFUSED = "refused"
"""No connection to the gateway."""
STATUS = "status"
"""An answer that is an error."""
BROKEN = "broken"
"""The connection ended before the answer was whole."""
WRONG = "wrong"
"""A whole answer that is not what was asked for."""
LATE = "late"

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Ask:
    """One kind of request: so many tokens of a service."""

    service: str
    tokens: int
    stream: bool
    by_path: bool = True

    @property
    def path(self) -> str:
        return f"/{self.service}/v1/chat/completions" if self.by_path else "/v1/chat/completions"

    def body(self) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.service,
            "messages": [{"role": "user", "content": "Say something about the license."}],
            "max_tokens": self.tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body


def mixture(services: Sequence[str], tokens: int) -> tuple[Ask, ...]:
    """Every service in every way of asking, the services alternating."""
    ways = itertools.product((True, False), (True, False))
    return tuple(Ask(s, tokens, stream, by_path) for stream, by_path in ways for s in services)


@dataclass(frozen=True)
class Reply:
    """How one request ended. `id` is the request id in the gateway's access log."""

    id: str
    ask: Ask
    begun: float
    """Unix time."""
    took_s: float
    kind: str
    detail: str = ""
    first_byte_s: float | None = None
    """When its head came. An engine sends that of a stream before it has a token."""

    @property
    def failed(self) -> bool:
        return self.kind != ANSWERED

    def __str__(self) -> str:
        way = "streamed" if self.ask.stream else "whole"
        ended = time.strftime("%H:%M:%S", time.localtime(self.begun + self.took_s))
        return (
            f"{ended} {self.ask.service} {way} after {self.took_s:.2f} s: {self.kind} "
            f"{self.detail} ({self.id})"
        )


async def ask(session: aiohttp.ClientSession, url: str, what: Ask) -> Reply:
    """Send one request and judge its answer."""
    identity = uuid.uuid4().hex
    begun, clock = time.time(), time.monotonic()
    first: float | None = None

    def ended(kind: str, detail: str = "") -> Reply:
        return Reply(identity, what, begun, time.monotonic() - clock, kind, detail, first)

    text = b""
    try:
        async with session.post(
            url + what.path, json=what.body(), headers={"x-request-id": identity}
        ) as answer:
            first = time.monotonic() - clock
            async for part in answer.content.iter_any():
                text += part
            if answer.status != 200:
                return ended(STATUS, f"{answer.status} {text[:200].decode(errors='replace')}")
    except aiohttp.ClientConnectorError as error:
        return ended(REFUSED, str(error))
    except TimeoutError:
        return ended(LATE, f"{len(text)} bytes so far")
    except (aiohttp.ClientError, OSError) as error:
        return ended(BROKEN, f"{error!r} after {len(text)} bytes")
    if what.stream and not text.rstrip().endswith(b"data: [DONE]"):
        return ended(BROKEN, f"no end after {len(text)} bytes: {text[-100:].decode()}")
    wrong = _wrong(text.decode(), what)
    return ended(WRONG, wrong) if wrong else ended(ANSWERED)


def _wrong(text: str, what: Ask) -> str:
    """What is not as asked in a whole answer; empty when it is right."""
    try:
        if what.stream:
            lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            chunks = [json.loads(line) for line in lines[:-1]]
            errors = [chunk["error"] for chunk in chunks if "error" in chunk]
            if errors:
                return f"an error in the stream: {errors[0]}"
            usage = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
        else:
            usage = json.loads(text)["usage"]
        tokens = usage["completion_tokens"]
    except (ValueError, KeyError, StopIteration) as error:
        return f"{error!r} in {text[:200]}"
    return "" if tokens == what.tokens else f"{tokens} tokens instead of {what.tokens}"


class Load:
    """Requests in turn from `asks` at `rate` a second, within `with`; leaving waits for answers."""

    def __init__(self, url: str, asks: Sequence[Ask], rate: float) -> None:
        self.rate = rate
        """May be changed at any time."""
        self.replies: list[Reply] = []
        self.sent = 0
        self._url = url
        self._asks = itertools.cycle(asks)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def failures(self) -> list[Reply]:
        return [reply for reply in tuple(self.replies) if reply.failed]

    def more(self, count: int, *, within_s: float = 60.0) -> None:
        """Wait until this many more requests were answered or failed."""
        target = len(self.replies) + count
        end = time.monotonic() + within_s
        while len(self.replies) < target:
            assert time.monotonic() < end, f"{len(self.replies)} replies, {target} were awaited"
            time.sleep(0.02)

    def summary(self) -> str:
        kinds = Counter(reply.kind for reply in tuple(self.replies))
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        took = sorted(reply.took_s for reply in tuple(self.replies))
        middle, worst = (took[len(took) // 2], took[-1]) if took else (0.0, 0.0)
        return f"{self.sent} sent: {counts}; median {middle:.3f} s, longest {worst:.3f} s"

    def write(self, path: Path) -> None:
        lines = [json.dumps(asdict(reply)) for reply in tuple(self.replies)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            tasks: set[asyncio.Task[None]] = set()
            due = time.monotonic()
            while not self._stop.is_set():
                task = asyncio.create_task(self._one(session, next(self._asks)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                self.sent += 1
                due = max(due + 1.0 / self.rate, time.monotonic() - 1.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _one(self, session: aiohttp.ClientSession, what: Ask) -> None:
        self.replies.append(await ask(session, self._url, what))


def ask_all(url: str, asks: Sequence[Ask], *, meanwhile: Callable[[], None]) -> list[Reply]:
    """Send all at once, call `meanwhile` in another thread, return how each ended."""

    async def run() -> list[Reply]:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            tasks = [asyncio.create_task(ask(session, url, what)) for what in asks]
            await asyncio.to_thread(meanwhile)
            return list(await asyncio.gather(*tasks))

    return asyncio.run(run())


def ask_once(url: str, what: Ask) -> Reply:
    """Send one request."""
    return ask_all(url, [what], meanwhile=lambda: None)[0]
