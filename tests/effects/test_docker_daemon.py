"""A Docker engine that restarts under a running stack: an engine of the test's own, never another.

It runs in a network namespace of its own, and this test with it, so that its bridges and packet
filter rules are apart from those of the engine beside it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from enova.base.errors import Unreachable
from enova.effects.drivers import ports
from enova.stack.actions import Join, RemoveStack, StartGateway, StopGateway
from enova.stack.observed import State
from tests.effects.compose_world import SLOT, A, World, stand_in_image
from tests.effects.process_world import gateway, until
from tests.parts import real
from tests.parts.containers import DockerEngine, docker_image

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CLONE_NEWNET = 0x40000000
GATE = "gateway-aaaaaa"


@dataclass
class Daemon:
    """A dockerd below one folder."""

    program: str
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"unix://{self.folder}/docker.sock"

    def start(self) -> None:
        words = ["--host", self.host, "--data-root", self.folder / "data"]
        words += ["--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid"]
        with (self.folder / "log").open("ab") as log:
            daemon = subprocess.Popen([self.program, *map(str, words)], stdout=log, stderr=log)
        self.started.append(daemon)
        socket = self.folder / "docker.sock"
        until(lambda: socket.exists() and self.answers(), deadline_s=60.0)

    def answers(self) -> bool:
        words = ["docker", "version", "--format", "{{.Server.Version}}"]
        environment = {**os.environ, "DOCKER_HOST": self.host}
        done = subprocess.run(words, env=environment, capture_output=True, timeout=30)
        return done.returncode == 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.started[-1].send_signal(number)
        self.started[-1].wait(timeout=60)


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a new network namespace with a loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            real.unavailable("network namespace", os.strerror(ctypes.get_errno()))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
    finally:
        os.close(before)


@pytest.fixture
def daemon(docker_engine: DockerEngine) -> Iterator[Daemon]:
    program = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin")
    if program is None or os.geteuid() != 0:
        real.unavailable("dockerd", "an engine of one's own needs the program and root")
    folder = Path(tempfile.mkdtemp(prefix="enova-dockerd-"))
    mine = Daemon(program, folder)
    try:
        with own_network():
            mine.start()
            yield mine
    finally:
        if mine.started and mine.started[-1].poll() is None:
            mine.stop()
        shutil.rmtree(folder, ignore_errors=True)


def copied(docker: DockerEngine, own: DockerEngine, *images: str) -> None:
    """Bring images from one engine to another."""
    with subprocess.Popen(
        ["docker", "save", *images],
        env={**os.environ, **docker.environment},
        stdout=subprocess.PIPE,
    ) as saving:
        subprocess.run(
            ["docker", "load", "--quiet"],
            env={**os.environ, **own.environment},
            stdin=saving.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=120,
        )
    assert saving.returncode == 0


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        body = '{"model": "chat", "prompt": "x"}'
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", body=body, headers=headers)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def test_a_stack_outlives_a_restart_of_its_engine(
    docker_engine: DockerEngine, daemon: Daemon
) -> None:
    base, envoy = docker_image(docker_engine, "enova"), docker_image(docker_engine, "envoy")
    image = stand_in_image(docker_engine, base)
    environment = {**docker_engine.environment, "DOCKER_HOST": daemon.host}
    own = DockerEngine(daemon.host, environment)
    copied(docker_engine, own, image, envoy)

    name = f"t{uuid.uuid4().hex[:8]}"
    world = World(daemon.folder / name, name, own, image, surroundings=environment)
    port = ports.free_port((), seed=name)
    world.do("gateway", StartGateway(GATE, gateway(port)))
    world.serve()
    world.do(SLOT, Join("chat", A, 100))
    assert answers(port)
    before = world.driver.observe()

    daemon.stop()
    with pytest.raises(Unreachable, match="Start it"):
        world.another().observe()
    daemon.start()
    until(lambda: answers(port), deadline_s=60.0)
    until(lambda: world.seen().state is State.SERVING)
    assert world.driver.observe() == before

    world.stop()
    world.do("gateway", StopGateway(GATE, 0.0))
    world.do("stack", RemoveStack())
    assert own.listed("container", "{{.Names}}", world.project) == []
    assert own.listed("network", "{{.Name}}", world.project) == []
