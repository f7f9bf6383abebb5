"""Where tokens leave the engine: a stream on a socket, or a body that is sent when complete.

In: counts of tokens from the engine, on its schedule. Out: HTTP chunks written straight to the
transport. One coroutine a token would cost more than all the rest; here a token is one write.
"""

from __future__ import annotations

import asyncio

from enova.services.emulator.answers import Answer


class StreamSink:
    """Server-sent events of one answer. ``ended`` gets the finish reason."""

    __slots__ = ("_after", "_answer", "_before", "_chunked", "_sent", "_transport", "ended")

    def __init__(
        self,
        answer: Answer,
        transport: asyncio.Transport,
        ended: asyncio.Future[str],
        *,
        chunked: bool,
    ) -> None:
        self._answer = answer
        self._transport = transport
        self._chunked = chunked
        self._sent = 0
        self.ended = ended
        self._before = b""
        self._after = b""
        if not answer.ask.usage_in_every_chunk:
            before, after = answer.frame()
            if chunked:
                # Every word is four bytes, so every ordinary chunk has the same length.
                before = b"%x\r\n" % (len(before) + 4 + len(after)) + before
                after += b"\r\n"
            self._before, self._after = before, after

    def emit(self, count: int) -> None:
        """Write ``count`` tokens as one event."""
        sent = self._sent
        self._sent = sent + count
        transport = self._transport
        if transport.is_closing():
            return
        if sent and count == 1 and self._before:
            transport.write(
                b"".join((self._before, self._answer.sentence[sent & 127], self._after))
            )
        else:
            opening = b"" if sent else self._framed(self._answer.opening())
            transport.write(opening + self._framed(self._answer.token(sent, count)))

    def finish(self, count: int, reason: str) -> None:
        """Write the last tokens, usage and the end mark; an abort cuts the connection instead."""
        if self.ended.done():
            return
        transport = self._transport
        if reason == "abort":
            transport.abort()
        elif not transport.is_closing():
            sent = self._sent
            self._sent = sent + count
            opening = b"" if sent else self._framed(self._answer.opening())
            transport.write(
                opening
                + self._framed(self._answer.last(sent, count, reason))
                + self._framed(self._answer.closing(self._sent))
            )
        self.ended.set_result(reason)

    def _framed(self, event: bytes) -> bytes:
        if not self._chunked or not event:
            return event
        return b"%x\r\n%b\r\n" % (len(event), event)


class WholeSink:
    """Counts the tokens of an answer that is sent when complete."""

    __slots__ = ("ended", "tokens")

    def __init__(self, ended: asyncio.Future[str]) -> None:
        self.ended = ended
        self.tokens = 0

    def emit(self, count: int) -> None:
        """Only count."""
        self.tokens += count

    def finish(self, count: int, reason: str) -> None:
        """Release whoever awaits ``ended``."""
        self.tokens += count
        if not self.ended.done():
            self.ended.set_result(reason)
