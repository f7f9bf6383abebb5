"""A Docker engine of a test's own: below one folder, in a network namespace of its own.

So its bridges and packet filter rules are apart from those of the engine beside it, and it may be
stopped and started. Needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.parts import real
from tests.parts.containers import DockerEngine

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
ANSWERS_S = 60.0


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
        end = time.monotonic() + ANSWERS_S
        while not self.answers():
            assert time.monotonic() < end, f"the engine at {self.host} does not answer"
            time.sleep(0.1)

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
            with socket.socket() as any_one:
                up = struct.pack("16sh", b"lo", IFF_UP)
                fcntl.ioctl(any_one, SIOCSIFFLAGS, up)
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
    finally:
        os.close(before)


@contextmanager
def own_daemon() -> Iterator[Daemon]:
    """An engine that runs, in a namespace that this thread and what it starts are in meanwhile."""
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
