"""What the process target keeps of one instance or component beside its meta.

In and out: ``launch.json`` (for the shim), ``pids.json`` and ``exit.json`` (from the shim). Nothing
here decides; ``life`` says what the files and the process table together mean. No secret value is
ever written.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

from enova.effects.drivers import folder, process_table
from enova.effects.drivers.folder import LOG, SERVED, read_document
from enova.effects.drivers.process_shim import EXIT, LAUNCH, LOCK, PIDS
from enova.effects.drivers.process_table import Identity
from enova.effects.gateway import write_document

SHIM_LOG = "shim.log"


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
class Folder(folder.Folder):
    """One instance or component on disk."""

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
        data = read_document(self.path / EXIT)
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
        return _identity(read_document(self.path / PIDS), "shim")

    def process(self) -> Identity | None:
        """The process as the shim noted it, alive or not."""
        return _identity(read_document(self.path / PIDS), "process")

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
    return tuple(Folder(entry) for entry in folder.entries(directory))


def _identity(data: Mapping[str, object] | None, who: str) -> Identity | None:
    entry = data.get(who) if data else None
    if data is None or not isinstance(entry, dict):
        return None
    try:
        return Identity(int(entry["pid"]), int(entry["start"]), str(data["boot"]))
    except (KeyError, TypeError, ValueError):
        return None
