"""What every part of the process target stands on: folders, programs, marks, clock, secrets.

Values and paths only; the parts (replicas, gateway, Prometheus) get one ``Ground``. The stack's
state folder is also its mark: every process carries it in its environment.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from enova.base.errors import ActionFailed, Refused
from enova.base.secret import SecretRef
from enova.effects import gateway, trace_ring
from enova.effects.clock import Clock, SystemClock
from enova.effects.drivers.process_folder import Folder, folders, locked
from enova.effects.drivers.process_table import INSTANCE, OWNER
from enova.effects.sources import secrets
from enova.effects.state.files import private_folder

LOOPBACK = "127.0.0.1"

_PASSED_ON = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "CUDA_HOME",
    "HF_HOME",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "ENOVA_TEST_RUN",
)
"""What a program needs of its surroundings. Tokens are not among it: they come by reference. The
last is the mark by which a test run finds what it left behind."""


@dataclass(frozen=True)
class Programs:
    """Where the programs are; None: not on this machine. ``engines`` by engine name."""

    python: Path = field(default_factory=lambda: Path(sys.executable))
    envoy: Path | None = None
    prometheus: Path | None = None
    engines: Mapping[str, Path] = field(default_factory=dict)


def find_programs(environment: Mapping[str, str]) -> Programs:
    """The programs of this machine: beside Python first, then on PATH."""

    def found(name: str) -> Path | None:
        beside = Path(sys.executable).parent / name
        if beside.is_file() and os.access(beside, os.X_OK):
            return beside
        on_path = shutil.which(name, path=environment.get("PATH"))
        return Path(on_path) if on_path else None

    vllm = found("vllm")
    return Programs(
        envoy=gateway.envoy_binary(),
        prometheus=found("prometheus"),
        engines={"vllm": vllm} if vllm else {},
    )


@dataclass(frozen=True)
class Ground:
    """One stack in one environment on this machine. ``state`` is its state folder."""

    stack: str
    state: Path
    programs: Programs
    surroundings: Mapping[str, str]
    clock: Clock = field(default_factory=SystemClock)
    log_bytes: int = 8 * 2**20
    log_keep: int = 4
    access_log_bytes: int = trace_ring.DEFAULT_BYTES

    @property
    def run(self) -> Path:
        """Everything that exists because something runs."""
        return self.state / "run"

    @property
    def instances(self) -> Path:
        """One folder an instance."""
        return self.run / "instances"

    @property
    def components(self) -> Path:
        """One folder a gateway or Prometheus."""
        return self.run / "components"

    @property
    def gateway(self) -> Path:
        """What outlives one gateway process: members, access log."""
        return self.run / "gateway"

    @property
    def members(self) -> Path:
        """The membership files."""
        return self.gateway / "members"

    @property
    def prometheus(self) -> Path:
        """Prometheus' configuration, targets and samples."""
        return self.run / "prometheus"

    @property
    def last(self) -> Path:
        """Output of instances that failed and were removed."""
        return self.run / "last"

    def prepare(self, folder: Path) -> Path:
        """Make a folder of the stack and those above it, for this user only."""
        private_folder(self.state)
        made = self.state
        for part in folder.relative_to(self.state).parts:
            made = made / part
            made.mkdir(mode=0o700, exist_ok=True)
        return folder

    def marks(self, owned_id: str | None = None) -> dict[str, str]:
        """The environment marks of everything of this stack, or of one instance or component."""
        marks = {OWNER: str(self.state.absolute())}
        return marks if owned_id is None else {**marks, INSTANCE: owned_id}

    def environment(self, owned_id: str, extra: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process: little of ours, what it asked for, the marks."""
        passed = {k: self.surroundings[k] for k in _PASSED_ON if k in self.surroundings}
        passed.setdefault("PATH", os.defpath)
        passed.setdefault("HOME", str(self.state))
        return {**passed, **extra, **self.marks(owned_id)}

    def secrets(self, references: Iterable[tuple[str, SecretRef]], address: str) -> dict[str, str]:
        """The values of secrets by name. Raises ActionFailed that names the reference only."""
        values = {}
        for name, reference in references:
            try:
                values[name] = secrets.resolve(reference, self.surroundings).reveal()
            except Refused as error:
                raise ActionFailed(address, "start", f"secret {name}: {error}") from error
        return values

    @contextmanager
    def choosing_ports(self) -> Iterator[set[int]]:
        """Ports promised to any stack beside this one's, while nobody else chooses."""
        self.prepare(self.run)
        with locked(self.state.parent):
            taken: set[int] = set()
            for run in self.state.parent.glob("*/run"):
                for folder in (*folders(run / "instances"), *folders(run / "components")):
                    meta = folder.meta()
                    if meta is not None:
                        taken.add(meta.port)
                        taken.update(p for p in meta.more.values() if isinstance(p, int))
            yield taken

    def owned(self) -> tuple[Folder, ...]:
        """Every instance and component folder."""
        return (*folders(self.instances), *folders(self.components))
