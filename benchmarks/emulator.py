"""How many streams one emulator process holds at the right pace, and what that costs.

Starts ``python -m enova.services.emulator`` with a step of 1/rate seconds whatever the batch, opens
the streams from this process, and compares the pace each stream was served at with the nominal one.
Run: ``python benchmarks/emulator.py [--streams 500] [--rate 20] [--seconds 20]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time

import psutil
import uvloop


class Stream(asyncio.Protocol):
    """One streamed request: the time of every token event."""

    def __init__(self, request: bytes, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._ended = ended
        self.times: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.times.extend([now] * data.count(b'"text":"'))
        if b"[DONE]" in data and not self._ended.done():
            self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_exception(exc or ConnectionResetError("closed early"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(tokens: int) -> bytes:
    body = json.dumps(
        {"prompt": "word " * 20, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: b\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def listening(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def measure(port: int, pid: int, args: argparse.Namespace) -> dict[str, float]:
    await listening(port)
    loop = asyncio.get_running_loop()
    tokens = round(args.rate * args.seconds)
    streams, endings = [], []
    for _ in range(args.streams):
        ended: asyncio.Future[None] = loop.create_future()
        _, stream = await loop.create_connection(
            lambda ended=ended: Stream(request(tokens), ended), "127.0.0.1", port
        )
        streams.append(stream)
        endings.append(ended)
    process = psutil.Process(pid)
    before, began = sum(process.cpu_times()[:2]), time.perf_counter()
    await asyncio.sleep(args.seconds * 0.8)
    share = (sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - began)
    await asyncio.gather(*endings)

    paces = [(len(s.times) - 1) / (s.times[-1] - s.times[0]) for s in streams]
    gaps = sorted(b - a for s in streams for a, b in zip(s.times, s.times[1:], strict=False))
    return {
        "tokens": sum(len(s.times) for s in streams),
        "expected": args.streams * tokens,
        "pace_mean": statistics.fmean(paces),
        "pace_worst": max(paces, key=lambda pace: abs(pace - args.rate)),
        "gap_p50": gaps[len(gaps) // 2],
        "gap_p99": gaps[int(len(gaps) * 0.99)],
        "gap_max": gaps[-1],
        "cpu": share,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "enova.services.emulator", "bench", "--port", str(port)]
    command += ["--step-law", json.dumps({"base": 1 / args.rate, "per_prefill_token": 0.0})]
    command += ["--step-per-decode", "0", "--step-per-context-token", "0"]
    command += ["--max-num-seqs", str(args.streams), "--max-num-batched-tokens", "65536"]
    command += ["--kv-blocks", "200000"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            found = uvloop.run(measure(port, server.pid, args))
        finally:
            server.terminate()
    error = found["pace_worst"] / args.rate - 1
    print(f"streams                  {args.streams} at {args.rate:g} tokens/s")
    print(f"tokens received          {found['tokens']:.0f} of {found['expected']:.0f}")
    print(f"pace, mean               {found['pace_mean']:.3f} tokens/s")
    print(f"pace, worst stream       {found['pace_worst']:.3f} tokens/s ({error:+.2%})")
    print(
        f"gap p50 / p99 / max      {found['gap_p50'] * 1e3:.1f} / {found['gap_p99'] * 1e3:.1f} / "
        f"{found['gap_max'] * 1e3:.1f} ms (nominal {1e3 / args.rate:.1f})"
    )
    print(f"emulator CPU             {found['cpu']:.0%} of one core")
    print(f"ratio pace/nominal       {found['pace_mean'] / args.rate:.4f}")


if __name__ == "__main__":
    main()
