"""How files of a state folder change: whole or not at all, by one writer at a time, private to us.

``replace_file`` writes beside the file and renames; ``locked`` is a short advisory lock between
processes. ``Files`` names the few system calls in between, so that a test can let each one fail.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path

import psutil

from enova.base.errors import ActionFailed, Refused, Unreachable
from enova.effects.clock import SystemClock

FOLDER_MODE = 0o700
FILE_MODE = 0o600
_RETRY_S = 0.02
_LONGEST_WRITE_S = 600.0


class Files:
    """The system calls that change files. Tests replace it with one that fails or kills."""

    def write(self, descriptor: int, data: bytes) -> int:
        """Bytes written; may be fewer than given."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Return once the content is on the disk."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put ``source`` in the place of ``target``, atomically."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)


FILES = Files()


def write_all(files: Files, descriptor: int, data: bytes) -> None:
    """Write every byte, however many calls it takes. Raises OSError."""
    left = memoryview(data)
    while left:
        written = files.write(descriptor, bytes(left))
        if written <= 0:
            raise OSError("nothing more could be written")
        left = left[written:]


def sync_folder(folder: Path, *, files: Files = FILES) -> None:
    """Make renames inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.sync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(
    path: Path,
    data: bytes,
    *,
    files: Files = FILES,
    while_holding: AbstractContextManager[None] | None = None,
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Replace a file atomically: readers and crashes see the old or the new content, never less.

    The rename happens inside ``while_holding`` after ``confirm`` returned; when either raises,
    the old file stays. Raises ActionFailed when the disk refuses.
    """
    owner = f"{os.getpid()}@{_pid_namespace()}"
    temporary = path.with_name(f".{path.name}.{owner}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE
        )
        try:
            write_all(files, descriptor, data)
            files.sync(descriptor)
        finally:
            os.close(descriptor)
        with while_holding or nullcontext():
            confirm()
            files.rename(temporary, path)
        sync_folder(path.parent, files=files)
    except OSError as error:
        raise ActionFailed(
            str(path),
            "write",
            f"{error.strerror or error}. What was there before is untouched",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed writers left in the folder.

    A writer in a container is not among the processes seen here, nor the other way round: its
    file is let be for longer than any write takes.
    """
    now = SystemClock().now()
    for leftover in folder.glob(".*.json.*"):
        pid, _, where = leftover.name.split(".")[-2].partition("@")
        with suppress(FileNotFoundError):
            if where == _pid_namespace():
                killed = pid.isdigit() and not psutil.pid_exists(int(pid))
            else:
                killed = now - leftover.stat().st_mtime > _LONGEST_WRITE_S
            if killed:
                leftover.unlink()


@cache
def _pid_namespace() -> str:
    """Which processes this one sees, as a number; "" where there is only one such set."""
    try:
        return Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return ""


def private_folder(folder: Path) -> Path:
    """Create the folder for us alone, or check the one that is there.

    Raises Refused when it belongs to somebody else or anyone may write to it.
    """
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise Refused(
            f"The state folder {folder} cannot be used: {error.strerror or error}. "
            "Set ENOVA_STATE_DIR to a folder you own."
        ) from error
    if found.st_uid != os.getuid():
        raise Refused(
            f"The state folder {folder} belongs to user {found.st_uid}, not to you. "
            "Run as that user, or set ENOVA_STATE_DIR to a folder you own."
        )
    if found.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and not found.st_mode & stat.S_ISVTX:
        raise Refused(
            f"The state folder {folder} can be written by others. Run: chmod go-w {folder}"
        )
    return folder


@contextmanager
def locked(path: Path, *, wait_s: float = 10.0) -> Iterator[int]:
    """Hold the exclusive lock of ``path`` for the few milliseconds a change takes.

    Gives the descriptor, open for reading and appending. The system drops the lock when the
    process dies. Raises Unreachable when somebody holds it longer than ``wait_s``. Waits in real
    time whatever clock its caller has: the holder is another thread or process of this machine.
    """
    clock = SystemClock()
    end = clock.monotonic() + wait_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, FILE_MODE)
        try:
            if _lock(descriptor) and _is_still(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        if clock.monotonic() >= end:
            raise Unreachable(
                f"{path} was locked by another process for {wait_s:.0f} s. "
                f"A stopped process may hold it; `fuser {path}` names it."
            )
        clock.sleep(_RETRY_S)


@contextmanager
def queued(path: Path) -> Iterator[None]:
    """Stand in the queue of ``path``, so that ``anyone_queued`` sees it. Death leaves it too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def anyone_queued(path: Path) -> bool:
    """Whether any process stands in the queue of ``path``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file is the one the name leads to: it may have been rotated meanwhile."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)
