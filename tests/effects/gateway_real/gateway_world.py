"""What the gateway's tests are made of: engines and gateways as processes on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx

from enova.base.secret import Secret
from enova.effects.gateway import (
    command_line,
    envoy_binary,
    write_document,
    write_files,
    write_members,
)
from enova.effects.gateway_admin import GatewayAdmin
from enova.effects.gateway_change import apply_files
from enova.stack.render.envoy import BOOTSTRAP, render_files
from enova.stack.render.envoy_members import Member
from enova.stack.render.envoy_secrets import KEYS_FILE, render_api_keys
from enova.stack.render.envoy_settings import GatewayService, GatewaySettings

OFTEN = GatewayService("chat", ("tiny",), health_interval_s=0.2)
"""Looks at its replicas more often than usual, so that a test need not wait."""

LUA = (Path(__file__).parents[3] / "templates" / "gateway.lua").read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Wait for a condition; fail after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


class Backend:
    """One stand-in engine as a process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("backend.py")
        self.process = subprocess.Popen([sys.executable, str(script), str(self.port), self.name])

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def up(self) -> bool:
        try:
            return httpx.get(self.url("/health"), timeout=2, verify=False).status_code == 200
        except httpx.TransportError:
            return False

    def control(self, **what: object) -> None:
        httpx.post(self.url("/control"), json=what, timeout=5, verify=False).raise_for_status()

    def seen(self) -> dict[str, object]:
        found: dict[str, object] = httpx.get(self.url("/seen"), timeout=5, verify=False).json()
        return found

    def requests(self) -> int:
        return int(str(self.seen()["requests"]))

    def member(self, **more: object) -> Member:
        return replace(Member(f"{self.name}.g1", "127.0.0.1", self.port), **more)  # type: ignore[arg-type]  # the keywords of the tests are right

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)


class Gateway:
    """One Envoy process and the folder it lives in."""

    def __init__(self, folder: Path, settings: GatewaySettings) -> None:
        self.folder = folder
        self.settings = settings
        self.admin = GatewayAdmin(Path(settings.admin_path or ""))
        self.config = Path(settings.config_dir)
        self.keys: dict[str, str] = {}
        self.members = folder / "members"
        self.log = Path(settings.access_log_path)
        self.url = f"http://127.0.0.1:{settings.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        write_files(self.config, self.files())
        binary = envoy_binary()
        assert binary is not None
        self.process = subprocess.Popen(command_line(binary, self.config / BOOTSTRAP))
        assert self.admin.wait_ready(30), "Envoy did not become ready"

    def files(self) -> dict[str, dict[str, object]]:
        """What Envoy reads under these settings."""
        files = render_files(self.settings, LUA)
        if self.settings.keys_path == str(self.config / KEYS_FILE):
            files[KEYS_FILE] = key_file(**self.keys)
        return files

    def counter(self, name: str) -> int:
        """One of Envoy's counters or gauges."""
        transport = httpx.HTTPTransport(uds=str(self.settings.admin_path))
        with httpx.Client(transport=transport) as client:
            text = client.get(f"http://admin/stats?filter=^{name}$").text
        return int(text.rpartition(": ")[2] or 0)

    def change(self, *services: GatewayService, **more: object) -> None:
        """Bring the running gateway to other settings."""
        changed = {"services": services or self.settings.services, **more}
        self.settings = replace(self.settings, **changed)  # type: ignore[arg-type]  # as above
        self.url = f"http://127.0.0.1:{self.settings.port}"
        apply_files(self.config, self.files(), self.admin)

    def serve(self, service: str, *members: Member, healthy: bool = True) -> None:
        """Write the members and wait until Envoy has them."""
        write_members(self.members, service, members)
        assert self.admin.wait_applied(service, members, deadline_s=20, healthy=healthy)

    def post(self, path: str = "/v1/completions", **body: object) -> httpx.Response:
        content = json.dumps({"model": "tiny", **body})
        return httpx.post(self.url + path, content=content, timeout=60, verify=False)

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sign)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None


Start = Callable[..., Gateway]
"""``start(GatewayService(...), ..., port=...)``: settings by keyword."""


def key_file(**keys: str) -> dict[str, object]:
    """The keys that are valid, by client."""
    return render_api_keys({client: Secret(key) for client, key in keys.items()})


def write_keys(path: Path, **keys: str) -> None:
    """Say which keys are valid, by client."""
    write_document(path, key_file(**keys))


def lines(gateway: Gateway) -> list[dict[str, object]]:
    """The access log as it is now."""
    if not gateway.log.exists():
        return []
    return [json.loads(line) for line in gateway.log.read_text().splitlines()]


class Load:
    """A few clients that ask in a loop, within ``with``: what they got is in ``results``.

    With ``follows`` a client that finds an address closed goes to where the gateway is now:
    ``refused`` and ``reset`` count how it found that out.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        clients: int = 4,
        keep_alive: bool = False,
        follows: bool = False,
    ) -> None:
        self.gateway = gateway
        self.keep_alive = keep_alive
        self.follows = follows
        self.results: list[str] = []
        self.refused = 0
        self.reset = 0
        self.body: dict[str, object] = {"model": "tiny"}
        self.headers: dict[str, str] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        client = httpx.Client(timeout=60, verify=False)
        url = self.gateway.url
        while not self._stop.is_set():
            if not self.keep_alive:
                client.close()
                client = httpx.Client(timeout=60, verify=False)
            try:
                answer = client.post(url + "/v1/completions", json=self.body, headers=self.headers)
                self.results.append(str(answer.status_code))
            except httpx.HTTPError as error:
                refused = isinstance(error, httpx.ConnectError)
                if self.follows and (refused or url != self.gateway.url):
                    self.refused += refused
                    self.reset += not refused
                    url = self.gateway.url
                    continue
                self.results.append(repr(error))
        client.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Wait until this many further answers have come."""
        target = len(self.results) + count
        until(lambda: len(self.results) >= target, 60)


class Stream:
    """One open streamed request."""

    def __init__(self, gateway: Gateway, model: str = "tiny", **todo: object) -> None:
        body = {"model": model, "stream": True, "test": todo}
        self._client = httpx.Client(timeout=60, verify=False)
        self._context = self._client.stream("POST", gateway.url + "/v1/completions", json=body)
        self.response = self._context.__enter__()
        self._text = self.response.iter_text()
        self.first = next(self._text)

    def rest(self) -> str:
        """Everything after the first piece; raises when the stream breaks."""
        text = "".join(self._text)
        self.close()
        return text

    def close(self) -> None:
        self.response.close()
        self._client.close()
