"""Both sources over the same real Envoy, and a real Prometheus: they mean the same numbers.

The engines are stand-ins with vLLM's metric names, whose true values the test knows.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from enova.effects.gateway import write_files, write_members
from enova.effects.gateway_admin import GatewayAdmin
from enova.effects.sources.base import (
    FirstAnswering,
    GatewayTarget,
    ServiceTargets,
    admin_target,
)
from enova.effects.sources.prometheus import Asking, PrometheusSource
from enova.effects.sources.scrape import ScrapeSource, Windows
from enova.effects.trace_ring import read_trace
from enova.policy.signals import Signals
from enova.stack.render import prometheus as render
from enova.stack.render.envoy import render_files
from enova.stack.render.envoy_members import Member
from enova.stack.render.envoy_settings import GatewayService, GatewaySettings

pytestmark = pytest.mark.real

LUA = (Path(__file__).parents[2] / "templates" / "gateway.lua").read_text()
EDGES = (0.1, 0.25, 0.5, 0.75, 1.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.05)


class Engine:
    """A stand-in engine: answers at once and says it took what the request asks it to say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = 0
        self.tokens = 0
        self.buckets = [0] * (len(EDGES) + 1)
        self.refuse = False
        self.release = threading.Event()
        self.guard = threading.Lock()
        self.endpoint = ""
        self.port = 0

    def page(self) -> str:
        own = 'engine="0",model_name="tiny"'
        with self.guard:
            below = [sum(self.buckets[: i + 1]) for i in range(len(self.buckets))]
            lines = [
                f"vllm:num_requests_running{{{own}}} {self.open}",
                f"vllm:num_requests_waiting{{{own}}} 0",
                f"vllm:kv_cache_usage_perc{{{own}}} 0.5",
                f"vllm:iteration_tokens_total_count{{{own}}} {self.tokens}",
                f"vllm:prompt_tokens_total{{{own}}} {self.tokens * 2}",
                f"vllm:generation_tokens_total{{{own}}} {self.tokens}",
            ]
            for edge, count in zip([*map(str, EDGES), "+Inf"], below, strict=True):
                lines.append(
                    f'vllm:time_to_first_token_seconds_bucket{{{own},le="{edge}"}} {count}'
                )
        return "\n".join(lines) + "\n"

    def take(self, asked: dict[str, object]) -> int:
        if self.refuse and asked.get("refusable"):
            return 503
        with self.guard:
            self.open += 1
            self.tokens += 10
            self.buckets[bisect_left(EDGES, float(str(asked.get("ttft", 0.2))))] += 1
        if asked.get("hold"):
            self.release.wait(120)
        with self.guard:
            self.open -= 1
        return 200


@contextmanager
def engine(name: str, *, keep_alive: bool = True) -> Iterator[Engine]:
    me = Engine(name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if keep_alive else "HTTP/1.0"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.reply(200, me.page() if self.path == "/metrics" else "ok")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self.reply(me.take(json.loads(body)), "{}")

        def reply(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that went away is part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    me.port = server.server_port
    me.endpoint = f"127.0.0.1:{me.port}"
    try:
        yield me
    finally:
        me.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def process(*command: str, quiet: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    out = subprocess.DEVNULL if quiet else None
    started = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGCONT)
        started.terminate()
        try:
            started.wait(timeout=15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


class Site:
    """A gateway with two services: ``chat`` on two engines, ``empty`` on none."""

    def __init__(self, folder: Path, stack: ExitStack, envoy: Path) -> None:
        self.folder = folder
        self.engines = [stack.enter_context(engine(name)) for name in ("chat-a", "chat-b")]
        self.settings = GatewaySettings(
            stack="demo",
            services=(GatewayService("chat", ("tiny",)), GatewayService("empty", ("none",))),
            members_dir=str(folder / "members"),
            config_dir=str(folder),
            access_log_path=str(folder / "access.log"),
            port=free_port(),
            admin_path=str(folder / "admin.sock"),
            metrics_port=free_port(),
        )
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.admin = GatewayAdmin(folder / "admin.sock")
        self.serve(*self.members())
        write_members(folder / "members", "empty", ())
        write_files(folder, render_files(self.settings, LUA))
        options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
        flush = ("--file-flush-interval-msec", "200")
        stack.enter_context(
            process(str(envoy), "-c", str(folder / "bootstrap.json"), *options, *flush)
        )
        assert self.admin.wait_ready(30)
        assert self.admin.wait_applied("chat", self.members(), deadline_s=20, healthy=True)

    def retries(self) -> int:
        """How often the gateway has tried again for ``chat``."""
        text = httpx.get(f"http://127.0.0.1:{self.settings.metrics_port}/metrics").text
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith("envoy_cluster_upstream_rq_retry{") and '"chat"' in line
        ]
        return int(line.rpartition(" ")[2])

    def members(self) -> tuple[Member, ...]:
        return tuple(Member(e.name, "127.0.0.1", e.port) for e in self.engines)

    def serve(self, *members: Member) -> None:
        write_members(self.folder / "members", "chat", members)

    def targets(self) -> list[ServiceTargets]:
        pairs = tuple((e.name, e.endpoint) for e in self.engines)
        return [
            ServiceTargets("chat", pairs, "vllm", "0.32.0"),
            ServiceTargets("empty", (), "vllm", "0.32.0"),
        ]

    def gateway(self) -> GatewayTarget:
        return GatewayTarget(f"127.0.0.1:{self.settings.metrics_port}")

    def post(self, service: str = "chat", *, timeout: float = 20.0, **body: object) -> int:
        url = f"{self.url}/{service}/v1/completions"
        return httpx.post(url, json={"model": "tiny", **body}, timeout=timeout).status_code


@pytest.fixture
def site(tmp_path: Path, envoy_binary: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack, envoy_binary)


class Watch:
    """Reads a scrape source twice around something and tells what arrived in between."""

    def __init__(self, site: Site, gateway: GatewayTarget) -> None:
        self.site, self.gateway = site, gateway
        self.source = ScrapeSource(windows=Windows(least_s=1.0))
        self.now = 1000.0
        self.source.read(site.targets(), now=self.now, gateway=gateway)

    def arrived(self, service: str = "chat") -> float:
        """Requests since the last call; the look's own time steps by one second."""
        self.now += 1.0
        read = self.source.read(self.site.targets(), now=self.now, gateway=self.gateway)
        self.source = ScrapeSource(windows=Windows(least_s=1.0))
        self.source.read(self.site.targets(), now=self.now, gateway=self.gateway)
        rate = read[service].arrival_rate
        assert rate is not None, read[service].notes
        return rate


@pytest.mark.parametrize("through", ["metrics port", "admin socket"])
def test_each_request_is_one_arrival_whatever_becomes_of_it(site: Site, through: str) -> None:
    where = site.gateway() if through == "metrics port" else admin_target(site.settings.admin_path)
    watch = Watch(site, where)
    one, other = site.engines

    assert [site.post() for _ in range(5)] == [200] * 5
    assert watch.arrived() == 5

    assert [site.post("empty") for _ in range(4)] == [503] * 4
    assert watch.arrived("empty") == 4

    one.refuse = True
    assert [site.post(refusable=True) for _ in range(4)] == [200] * 4, "retried elsewhere"
    one.refuse = False
    assert watch.arrived() == 4

    with pytest.raises(httpx.ReadTimeout):
        site.post(hold=True, timeout=0.3)
    assert watch.arrived() == 1, "given up by the client before any answer"

    # A replica dies: until its health check says so, connections fail and are retried elsewhere.
    with engine("chat-c", keep_alive=False) as dying:
        members = (Member("chat-c", "127.0.0.1", dying.port), site.members()[1])
        site.serve(*members)
        assert site.admin.wait_applied("chat", members, deadline_s=20, healthy=True)
    before = site.retries()
    assert [site.post() for _ in range(6)] == [200] * 6
    assert site.retries() > before
    assert watch.arrived() == 6

    site.serve()
    assert site.admin.wait_applied("chat", (), deadline_s=20)
    assert [site.post() for _ in range(3)] == [503] * 3
    assert watch.arrived() == 3

    until(lambda: len(read_trace(site.folder, since=0.0).requests) == 23, 10)
    trace = read_trace(site.folder, since=0.0)
    assert len(trace.of_service("empty").requests) == 4
    other.release.set()


async def steady(site: Site, service: str, per_second: float, stop: threading.Event) -> int:
    """Requests at even distances until told to stop, without waiting for answers."""
    sent = 0
    async with httpx.AsyncClient(timeout=20) as client, asyncio.TaskGroup() as group:
        begin = time.monotonic()
        while not stop.is_set():
            # Ten first-token times, evenly: 0.05 to 0.95 s.
            body = {"model": "tiny", "ttft": 0.05 + (sent % 10) / 10, "refusable": sent % 5 == 0}
            url = f"{site.url}/{service}/v1/completions"
            group.create_task(client.post(url, json=body))
            sent += 1
            await asyncio.sleep(max(0.0, begin + sent / per_second - time.monotonic()))
    return sent


@contextmanager
def load(site: Site, service: str, per_second: float) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(steady(site, service, per_second, stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def held(site: Site, count: int) -> Iterator[None]:
    """Requests that stay open."""

    def ask() -> None:
        site.post(hold=True, timeout=120)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: sum(e.open for e in site.engines) >= count)
        yield
    finally:
        for stand_in in site.engines:
            stand_in.release.set()
        for thread in threads:
            thread.join()


@contextmanager
def prometheus(site: Site, binary: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prometheus that scrapes the site every second, configured by enova's own documents."""
    targets = site.folder / "targets"
    targets.mkdir()
    engines = [render.Target(e.endpoint, e.name, f"chat/replica/{e.name}", "chat")
               for e in site.engines]  # fmt: skip
    own = [render.Target(site.gateway().endpoint, "gateway-1", "gateway")]
    (targets / "engines.json").write_text(json.dumps(render.targets("demo", engines)))
    (targets / "gateway.json").write_text(json.dumps(render.targets("demo", own)))
    config = site.folder / "prometheus.yml"
    document = render.config(stack="demo", scrape_interval_s=1.0, targets_dir=str(targets))
    config.write_text(json.dumps(document))
    port = free_port()
    command = render.command(
        str(binary),
        config_path=str(config),
        data_dir=str(site.folder / "data"),
        listen=f"127.0.0.1:{port}",
        retention_s=3600.0,
    )
    url = f"http://127.0.0.1:{port}"
    with process(*command, quiet=True) as started:

        def ready() -> bool:
            try:
                return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
            except httpx.TransportError:
                return False

        until(ready)
        yield url, started


def test_both_sources_agree_and_neither_invents(site: Site, prometheus_binary: Path) -> None:
    window_s = 10.0
    scrape = ScrapeSource(windows=Windows(window_s=window_s))
    site.engines[0].refuse = True  # one in five requests is sent on when it comes here
    with prometheus(site, prometheus_binary) as (url, server), held(site, 3):
        asked = PrometheusSource(url, asking=Asking(window_s=window_s, stale_s=4.0))

        def look(source: ScrapeSource | PrometheusSource | FirstAnswering) -> dict[str, Signals]:
            return dict(source.read(site.targets(), now=time.time(), gateway=site.gateway()))

        with load(site, "chat", 20.0), load(site, "empty", 4.0):
            # Both begin at once: after two windows neither covers the time before the load.
            end = time.monotonic() + 2 * window_s
            while time.monotonic() < end:
                ours = look(scrape)
                time.sleep(1.0)
            until(lambda: look(asked)["chat"].arrival_rate is not None)
            ours, theirs = look(scrape), look(asked)
        for found in (ours["chat"], theirs["chat"]):
            assert found.notes == ()
            assert found.arrival_rate == pytest.approx(20, rel=0.15)
            assert found.success_rate == 1.0
            assert found.running == pytest.approx(3, abs=1.5)
            assert found.waiting == 0
            assert found.kv_usage == 0.5
            assert found.ttft_p95 == pytest.approx(0.94, abs=0.06)
            assert found.generation_tokens_rate == pytest.approx(200, rel=0.15)
            assert found.prompt_tokens_rate == pytest.approx(400, rel=0.15)
            assert found.seconds_since_arrival is not None
            assert found.seconds_since_arrival < 35
            assert {n: r.answered for n, r in found.replicas.items()} == {
                "chat-a": True,
                "chat-b": True,
            }
        for found in (ours["empty"], theirs["empty"]):
            assert found.arrival_rate == pytest.approx(4, rel=0.25)
            assert found.success_rate == 0.0
            assert (found.running, found.waiting) == (0, 0)
        assert ours["chat"].arrival_rate == pytest.approx(theirs["chat"].arrival_rate, rel=0.15)
        assert ours["chat"].ttft_p95 == pytest.approx(theirs["chat"].ttft_p95, rel=0.1)
        retried = site.retries()
        assert retried > 0, "the load must have been retried, else the agreement proves little"

        # One target goes: what it would have said is unknown, to both, at once.
        site.engines[0].page = lambda: "nothing\n" * 2  # type: ignore[method-assign]  # a stand-in
        until(lambda: look(asked)["chat"].running is None)
        for found in (look(scrape)["chat"], look(asked)["chat"]):
            assert (found.running, found.waiting, found.kv_usage, found.ttft_p95) == (None,) * 4
            assert found.replicas["chat-b"].answered is True
            assert found.arrival_rate is not None

        # Prometheus stands still: the composed source says who answered instead, and why.
        server.send_signal(signal.SIGSTOP)
        both = FirstAnswering([asked, scrape])
        found = look(both)["chat"]
        assert found.source == "scrape"
        assert found.arrival_rate is not None
        assert any(note.startswith("prometheus at ") for note in found.notes)
        alone = look(asked)["chat"]
        assert (alone.arrival_rate, alone.running, alone.seconds_since_arrival) == (None,) * 3


def test_a_prometheus_that_has_just_begun_says_no_rate_rather_than_too_low_a_one(
    site: Site, prometheus_binary: Path
) -> None:
    window_s = 10.0
    scrape = ScrapeSource(windows=Windows(window_s=window_s))
    with load(site, "chat", 20.0):
        # As beside the Prometheus before this one: watching, without being asked.
        for _ in range(10):
            scrape.watch(site.targets(), now=time.time(), gateway=site.gateway())
            time.sleep(1.0)
        with prometheus(site, prometheus_binary) as (url, _):
            asked = PrometheusSource(url, asking=Asking(window_s=window_s, stale_s=4.0))
            both = FirstAnswering([asked, scrape])
            told: list[Signals] = []

            def prometheus_knows() -> bool:
                now = time.time()
                told.append(both.read(site.targets(), now=now, gateway=site.gateway())["chat"])
                return told[-1].source == "prometheus"

            until(prometheus_knows)
            until(lambda: prometheus_knows() and len(told) > 100)
    for found in told:
        assert found.arrival_rate == pytest.approx(20, rel=0.2), found
    before = [found for found in told if found.source == "scrape"]
    assert "gateway: too few samples for a rate yet" in [n for f in before for n in f.notes]
    assert all(found.notes == () for found in told if found.source == "prometheus")
