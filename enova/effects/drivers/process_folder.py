"""What the process target keeps of one instance or component: a folder, one fact a file.

In and out: ``meta.json`` (what was asked, written before anything starts), ``launch.json`` (for the
shim), ``pids.json`` and ``exit.json`` (from the shim), ``served.json`` (it answered a token once).
Nothing here decides; ``life`` says what the files and the process table together mean. No secret
value is ever written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import cast

from enova.base.digest import plain
from enova.base.secret import SecretRef
from enova.effects.drivers import process_table
from enova.effects.drivers.process_shim import EXIT, LAUNCH, LOCK, PIDS
from enova.effects.drivers.process_table import Identity
from enova.effects.gateway import write_document
from enova.stack.observed import Placement
from enova.stack.resources import Fields

META = "meta.json"
SERVED = "served.json"
LOG = "engine.log"
SHIM_LOG = "shim.log"
SCHEMA = 1


@dataclass(frozen=True)
class Meta:
    """What was asked for. ``environment`` has no secret in it, ``secret_env`` only references;
    ``more`` holds what only one kind of component needs."""

    id: str
    address: str
    digest: str
    fields: Fields
    host: str
    port: int
    placement: Placement | None = None
    service: str = ""
    served_name: str = ""
    engine: str = ""
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_env: tuple[tuple[str, SecretRef], ...] = ()
    cause: str = ""
    created_s: float = 0.0
    port_tries: int = 1
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Exit:
    """How a process ended. ``asked``: somebody told it to stop."""

    code: int | None
    signal: int | None
    reason: str
    asked: bool
    last_lines: tuple[str, ...]


class Life(StrEnum):
    """What files and process table together say."""

    RUNNING = "running"
    ENDED = "ended"
    NEVER = "never"
    """Written down, and nothing was started: enova was interrupted between the two."""


@dataclass(frozen=True)
class Folder:
    """One instance or component on disk."""

    path: Path

    @property
    def id(self) -> str:
        """The id of the instance or component."""
        return self.path.name

    @property
    def log(self) -> Path:
        """The newest file of its output."""
        return self.path / LOG

    def create(self) -> None:
        """Make the folder, for this user only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def meta(self) -> Meta | None:
        """What was asked for; None when the folder is not one of ours or was cut short."""
        data = _read(self.path / META)
        if data is None:
            return None
        try:
            return _meta(data)
        except (KeyError, TypeError, ValueError):
            return None

    def write_meta(self, meta: Meta) -> None:
        """Note what is about to be started."""
        write_document(
            self.path / META,
            {
                "schema": SCHEMA,
                "id": meta.id,
                "address": meta.address,
                "digest": meta.digest,
                "fields": [list(pair) for pair in meta.fields],
                "host": meta.host,
                "port": meta.port,
                "placement": None if meta.placement is None else _plain_placement(meta.placement),
                "service": meta.service,
                "served_name": meta.served_name,
                "engine": meta.engine,
                "argv": list(meta.argv),
                "environment": dict(meta.environment),
                "secret_env": {name: plain(reference) for name, reference in meta.secret_env},
                "cause": meta.cause,
                "created_s": meta.created_s,
                "port_tries": meta.port_tries,
                "more": dict(meta.more),
            },
        )

    def write_launch(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        cores: Sequence[int],
        secret_env: Sequence[str],
        log_bytes: int,
        log_keep: int,
    ) -> None:
        """Tell the shim what to run."""
        document: dict[str, object] = {
            "argv": list(argv),
            "cwd": str(cwd),
            "cores": list(cores),
            "secret_env": list(secret_env),
            "log": LOG,
            "log_bytes": log_bytes,
            "log_keep": log_keep,
        }
        write_document(self.path / LAUNCH, document)

    def exit(self) -> Exit | None:
        """How it ended, None while it runs or when nobody could note it."""
        data = _read(self.path / EXIT)
        if data is None:
            return None
        lines = cast(list[object], data.get("last_lines") or [])
        return Exit(
            code=cast(int | None, data.get("code")),
            signal=cast(int | None, data.get("signal")),
            reason=str(data.get("reason")),
            asked=bool(data.get("asked")),
            last_lines=tuple(str(line) for line in lines),
        )

    def shim(self) -> Identity | None:
        """The shim as it noted itself, alive or not."""
        return _identity(_read(self.path / PIDS), "shim")

    def process(self) -> Identity | None:
        """The process as the shim noted it, alive or not."""
        return _identity(_read(self.path / PIDS), "process")

    def served(self) -> Mapping[str, object] | None:
        """What was noted when it first answered a token."""
        return _read(self.path / SERVED)

    def write_served(self, facts: Mapping[str, object]) -> None:
        """Note that it answered a token."""
        write_document(self.path / SERVED, facts)

    def forget_run(self) -> None:
        """Remove what an earlier run left, before the same folder is started again."""
        for name in (PIDS, EXIT, SERVED):
            (self.path / name).unlink(missing_ok=True)

    def life(self, marks: Mapping[str, str]) -> Life:
        """Whether it runs. A pid counts only with its start time, boot and environment marks."""
        if (self.path / EXIT).exists():
            return Life.ENDED
        shim, process = self.shim(), self.process()
        if shim is None:
            return Life.RUNNING if self._being_started() else Life.NEVER
        if not shim.alive() or not process_table.has_marks(shim.pid, marks):
            return Life.ENDED
        if process is None or process.alive():
            return Life.RUNNING
        return Life.ENDED

    def _being_started(self) -> bool:
        """Whether a shim that has not noted itself yet holds the folder's lock."""
        try:
            handle = os.open(self.path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


def folders(directory: Path) -> tuple[Folder, ...]:
    """The folders below ``directory``, sorted by id."""
    try:
        entries = sorted(directory.iterdir())
    except FileNotFoundError:
        return ()
    return tuple(Folder(entry) for entry in entries if entry.is_dir() and not entry.is_symlink())


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Exclusive among threads and processes, for a short read-change-write. Leaves no file."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, object] | None:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _identity(data: Mapping[str, object] | None, who: str) -> Identity | None:
    entry = data.get(who) if data else None
    if data is None or not isinstance(entry, dict):
        return None
    try:
        return Identity(int(entry["pid"]), int(entry["start"]), str(data["boot"]))
    except (KeyError, TypeError, ValueError):
        return None


def _plain_placement(placement: Placement) -> dict[str, object]:
    return {
        "host": placement.host,
        "gpus": list(placement.gpus),
        "cores": list(placement.cores),
        "memory_bytes": placement.memory_bytes,
    }


def _references(data: Mapping[str, Mapping[str, object]]) -> tuple[tuple[str, SecretRef], ...]:
    return tuple(
        (
            name,
            SecretRef(
                env=cast(str | None, entry["env"]),
                file=cast(str | None, entry["file"]),
                command=tuple(cast(list[str], entry["command"])),
            ),
        )
        for name, entry in sorted(data.items())
    )


def _meta(data: Mapping[str, object]) -> Meta:
    placement = cast(dict[str, object] | None, data["placement"])
    pairs = cast(list[list[object]], data["fields"])
    return Meta(
        id=str(data["id"]),
        address=str(data["address"]),
        digest=str(data["digest"]),
        fields=cast(Fields, tuple((str(path), value) for path, value in pairs)),
        host=str(data["host"]),
        port=int(cast(int, data["port"])),
        placement=None
        if placement is None
        else Placement(
            host=str(placement["host"]),
            gpus=tuple(cast(list[int], placement["gpus"])),
            cores=tuple(cast(list[int], placement["cores"])),
            memory_bytes=int(cast(int, placement["memory_bytes"])),
        ),
        service=str(data["service"]),
        served_name=str(data["served_name"]),
        engine=str(data["engine"]),
        argv=tuple(str(word) for word in cast(list[object], data["argv"])),
        environment=cast(dict[str, str], data["environment"]),
        secret_env=_references(cast(dict[str, dict[str, object]], data["secret_env"])),
        cause=str(data["cause"]),
        created_s=float(cast(float, data["created_s"])),
        port_tries=int(cast(int, data["port_tries"])),
        more=cast(dict[str, object], data["more"]),
    )
