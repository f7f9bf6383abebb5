"""One stack as its user sees it: a folder with a spec, the command line, and what can be looked at.

`Stack` runs `enova` as a process of its own, like a person or a cron job would, and looks at the
result from outside: processes, the gateway's own view of its members, the access log, the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from enova.base.errors import Unreachable
from enova.effects.access_log import AccessRecord, read_new
from enova.effects.gateway_admin import EndpointStats, GatewayAdmin
from tests.scenario.load import Load, mixture

ENOVA = Path(sys.executable).with_name("enova")

OK, FAILED, DIFFERENT, REFUSED, INTERRUPTED = 0, 1, 2, 4, 130


@contextmanager
def step(sentence: str) -> Iterator[None]:
    """A step of a scenario: its sentence stands in the output and, if it fails, in the failure."""
    begun = time.monotonic()
    try:
        yield
    except BaseException as error:
        error.add_note(f"while this was to be shown: {sentence}")
        raise
    print(f"  {time.monotonic() - begun:6.1f} s  {sentence}", flush=True)


def until(
    what: str, condition: Callable[[], Any], *, within_s: float, every_s: float = 0.05
) -> float:
    """Wait for a condition and return the seconds it took. Fails after the deadline."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(every_s)
    return time.monotonic() - begun


def free_ports() -> Iterator[int]:
    """Ports nobody listens on, below the range that outgoing connections take theirs from."""
    for port in range(19000 + os.getpid() % 1000 * 10, 32000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            probe.close()
            yield port
    raise AssertionError("no free port")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    took_s: float

    def __str__(self) -> str:
        return (
            f"$ enova {' '.join(self.words)}\n{self.out}{self.err}"
            f"exit code {self.code} after {self.took_s:.1f} s\n"
        )


@dataclass
class Reconciler:
    """`enova reconcile` as a process; `output` is what it printed so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def stop(self) -> int:
        """Ctrl-C, and the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=10)


@dataclass
class Stack:
    """A stack of the test, from its spec to its processes."""

    folder: Path
    spec: dict[str, Any]
    path_first: Path | None = None
    """Put before PATH: where a Prometheus is found."""
    loads: list[Load] = field(default_factory=list)
    reconcilers: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write(self.spec)

    # What the user has

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.enova.yaml"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.spec['gateway']['port']}"

    @property
    def state(self) -> Path:
        return self.folder / "state" / self.name

    @property
    def environment(self) -> dict[str, str]:
        path = os.environ["PATH"]
        if self.path_first is not None:
            path = f"{self.path_first}{os.pathsep}{path}"
        return {
            **os.environ,
            "PATH": path,
            "ENOVA_STATE_DIR": str(self.folder / "state"),
            "NO_COLOR": "1",
        }

    def write(self, spec: Mapping[str, Any]) -> None:
        """Save the spec; `spec` of this object stays the one to come back to."""
        self.file.write_text(yaml.safe_dump(dict(spec), sort_keys=False), encoding="utf-8")

    def changed(self, service: str, **sections: Any) -> dict[str, Any]:
        """The spec with one service's sections merged with these."""
        spec: dict[str, Any] = json.loads(json.dumps(self.spec))
        _merge(spec["services"][service], sections)
        return spec

    # What the user does

    def enova(self, *words: str, expect: int | None = OK, within_s: float = 180.0) -> Done:
        """Run a verb. Fails when the exit code is not `expect` (None: any)."""
        begun = time.monotonic()
        ended = subprocess.run(
            [ENOVA, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
        )
        took_s = time.monotonic() - begun
        done = Done(words, ended.returncode, ended.stdout, ended.stderr, took_s)
        with (self.folder / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {done}\n")
        assert expect is None or done.code == expect, f"exit code {expect} was expected:\n{done}"
        return done

    def plan(self) -> dict[str, Any]:
        """`enova plan -o json`."""
        document: dict[str, Any] = json.loads(self.enova("plan", "-o", "json", str(self.file)).out)
        return document

    def apply(self, *, expect: int = OK, within_s: float = 300.0) -> Done:
        return self.enova("apply", str(self.file), "--yes", expect=expect, within_s=within_s)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a verb and return at once."""
        return subprocess.Popen(
            [ENOVA, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def reconciling(self, *, every: str = "1s") -> Iterator[Reconciler]:
        """`enova reconcile` while inside, from its first look on."""
        self.reconcilers += 1
        log = self.folder / f"reconcile-{self.reconcilers}.log"
        before = self.looked_at()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [ENOVA, "reconcile", self.name, "--interval", every, "--verbose"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running = Reconciler(process, log)
        try:
            until(
                "the reconciler has looked once",
                lambda: self.looked_at() != before or process.poll() is not None,
                within_s=30,
            )
            assert process.poll() is None, running.output
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise

    def looked_at(self) -> int:
        """When the reconciler last wrote its memory."""
        memory = self.state / "memory.json"
        return memory.stat().st_mtime_ns if memory.exists() else 0

    @contextmanager
    def load(self, rate: float, *, tokens: int, services: tuple[str, ...] = ()) -> Iterator[Load]:
        """Steady requests to all services while inside."""
        asks = mixture(services or self.services, tokens)
        load = Load(self.url, asks, rate)
        self.loads.append(load)
        with load:
            yield load
        print(f"            load: {load.summary()}", flush=True)

    # What can be seen

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(sorted(self.spec["services"]))

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "record.json").read_text())["record"]
        return found

    def journal(self) -> list[dict[str, Any]]:
        path = self.state / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self, instance: str) -> tuple[int, int]:
        """The shim and the engine of an instance, or of a component."""
        run = self.state / "run"
        for folder in (run / "instances" / instance, run / "components" / instance):
            if folder.is_dir():
                noted = json.loads((folder / "pids.json").read_text())
                return noted["shim"]["pid"], noted["process"]["pid"]
        raise AssertionError(f"there is no {instance}")

    def running(self) -> set[str]:
        """What runs of this stack: another set after anything was started again."""
        return {f"{p.pid} {p.create_time()}" for p in self.processes()}

    def kill(self, instance: str) -> None:
        """End an engine as `kill -9` does."""
        os.kill(self.pids(instance)[1], signal.SIGKILL)

    def ports(self) -> set[int]:
        """Ports of this machine that the stack has."""
        return {
            connection.laddr.port
            for process in self.processes()
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        }

    def left(self) -> list[str]:
        """What is still there after the stack was destroyed, besides files."""
        return [str(process) for process in self.processes()]

    def components(self, address: str) -> list[str]:
        """Ids of the running gateways or Prometheuses."""
        found = []
        for folder in sorted((self.state / "run" / "components").glob(f"{address}-*")):
            noted = folder / "pids.json"
            if noted.exists() and not (folder / "exit.json").exists():
                found.append(folder.name)
        return found

    def instances(self, service: str) -> list[str]:
        """Ids of the instances that have a folder: they run, or ended and were not cleared."""
        folders = (self.state / "run" / "instances").glob(f"{service}-replica-*")
        return sorted(folder.name for folder in folders)

    def gateways(self) -> list[GatewayAdmin]:
        """The admin interface of every running gateway, the newest first."""
        found = []
        for component in self.components("gateway"):
            folder = self.state / "run" / "components" / component
            meta = json.loads((folder / "meta.json").read_text())
            found.append((meta["created_s"], self.admin(folder, meta["more"])))
        return [admin for _, admin in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def admin(self, folder: Path, more: Mapping[str, Any]) -> GatewayAdmin:
        """The admin interface of the gateway that is noted in a folder."""
        port = more.get("admin_port")
        return GatewayAdmin(port=port) if port else GatewayAdmin(folder / "admin.sock")

    def seen_by_gateway(self, service: str) -> dict[str, EndpointStats]:
        """Members as Envoy itself sees them now; none while it does not answer."""
        for admin in self.gateways():
            with contextlib.suppress(Unreachable):
                return {e.instance_id: e for e in admin.endpoint_stats(service)}
        return {}

    def in_rotation(self, service: str) -> set[str]:
        """Instances that get new requests."""
        seen = self.seen_by_gateway(service).values()
        return {e.instance_id for e in seen if e.healthy and not e.draining}

    def served_by(self, identities: Iterable[str]) -> dict[str, AccessRecord]:
        """The access log by request id, once it has all of these."""
        wanted, found = set(identities), dict[str, AccessRecord]()

        def complete() -> bool:
            for admin in self.gateways():
                admin.reopen_logs()  # writes what it holds back
            records, _ = read_new(self.state / "run" / "gateway" / "access.log")
            found.update({record.request_id: record for record in records})
            return wanted <= found.keys()

        until("every request is in the access log", complete, within_s=20, every_s=0.2)
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process that carries this stack's mark."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("ENOVA_OWNER") == str(self.state):
                    found.append(process)
        return found

    def shared_memory(self) -> set[Path]:
        """What the stack's processes have mapped of shared memory that has a name."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error, OSError):
                group = os.getpgid(process.pid)
                for member in psutil.process_iter():
                    with contextlib.suppress(psutil.Error, OSError):
                        if os.getpgid(member.pid) == group:
                            maps = Path(f"/proc/{member.pid}/maps").read_text()
                            found |= set(re.findall(r"/dev/shm/[^\s]+", maps))
        return {Path(name) for name in found}

    # Afterwards

    def keep(self, where: Path) -> None:
        """Copy everything a person needs to see why a scenario failed."""
        shutil.rmtree(where, ignore_errors=True)
        where.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.folder, where, ignore=_not_worth_keeping, symlinks=True)
        for number, load in enumerate(self.loads):
            load.write(where / f"load-{number}.jsonl")

    def clean(self) -> None:
        """Destroy the stack, and kill what that did not end."""
        if (self.state / "record.json").exists() or (self.state / "run").exists():
            self.enova("destroy", self.name, "--yes", expect=None)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _not_worth_keeping(folder: str, names: list[str]) -> set[str]:
    """Sockets cannot be copied, and Prometheus' samples need not."""
    special = {name for name in names if not _plain(Path(folder) / name)}
    return special | ({"data"} & set(names) if folder.endswith("prometheus") else set())


def _plain(path: Path) -> bool:
    return path.is_symlink() or path.is_file() or path.is_dir()


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
