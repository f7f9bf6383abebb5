"""What a driver keeps of one instance or component: a folder, one fact a file.

In and out: ``meta.json`` (what was asked, written before anything starts), ``served.json`` (it
answered a token once). Targets add files of their own. No secret value is ever written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from enova.base.digest import plain
from enova.base.errors import ActionFailed
from enova.base.secret import SecretRef
from enova.effects.gateway import write_document
from enova.stack.actions import Action
from enova.stack.observed import Placement
from enova.stack.resources import Fields

META = "meta.json"
SERVED = "served.json"
LOG = "engine.log"
SCHEMA = 1

KEPT_LOGS = 5
"""So many failed instances keep their output after they were removed."""

TAIL_LINES = 30
"""Last lines that an error shows."""


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
        data = read_document(self.path / META)
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

    def served(self) -> Mapping[str, object] | None:
        """What was noted when it first answered a token."""
        return read_document(self.path / SERVED)

    def write_served(self, facts: Mapping[str, object]) -> None:
        """Note that it answered a token."""
        write_document(self.path / SERVED, facts)


def entries(directory: Path) -> tuple[Path, ...]:
    """The folders below ``directory``, sorted by name."""
    try:
        found = sorted(directory.iterdir())
    except FileNotFoundError:
        return ()
    return tuple(entry for entry in found if entry.is_dir() and not entry.is_symlink())


def folders(directory: Path) -> tuple[Folder, ...]:
    """The folders of instances or components below ``directory``, sorted by id."""
    return tuple(Folder(entry) for entry in entries(directory))


def check_same(running: Meta, digest: str, action: Action) -> None:
    """Raise ActionFailed when what runs under this id is not what is to be started."""
    if running.digest != digest:
        raise ActionFailed(
            action.address, "start", f"{running.id} runs already, with another configuration"
        )


def forget_old(last: Path) -> None:
    """Keep the output of the newest failed instances only."""
    kept = sorted(entries(last), key=lambda path: (path.stat().st_mtime, path.name), reverse=True)
    for path in kept[KEPT_LOGS:]:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Exclusive among threads and processes, for a short read-change-write. Leaves no file."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_document(path: Path) -> dict[str, object] | None:
    """The object in a JSON file; None when there is none that can be read."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


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
