"""What every part of a driver stands on, whatever the target: paths, clock, secrets.

Values and paths only. Everything of a stack lies below its state folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from enova.base.errors import ActionFailed, Refused
from enova.base.secret import SecretRef
from enova.effects import trace_ring
from enova.effects.clock import Clock, SystemClock
from enova.effects.drivers.folder import folders, locked
from enova.effects.sources import secrets
from enova.effects.state.files import private_folder

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Ground:
    """One stack in one environment. ``state`` is its state folder."""

    stack: str
    state: Path
    surroundings: Mapping[str, str]
    clock: Clock = field(default_factory=SystemClock)
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
        """One folder a gateway or monitor."""
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
    def targets(self) -> Path:
        """The files by which Prometheus finds what it reads, one a job."""
        return self.run / "monitoring" / "targets"

    @property
    def last(self) -> Path:
        """Output of instances that failed and were removed."""
        return self.run / "last"

    def monitor(self, name: str) -> Path:
        """What outlives one process of a monitor: its files, and what it stores."""
        return self.run / "monitoring" / name

    def prepare(self, folder: Path) -> Path:
        """Make a folder of the stack and those above it, for this user only."""
        private_folder(self.state)
        made = self.state
        for part in folder.relative_to(self.state).parts:
            made = made / part
            made.mkdir(mode=0o700, exist_ok=True)
        return folder

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
