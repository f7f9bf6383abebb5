"""Which processes are ours: identity beyond the pid, the stack's mark, signals that cannot miss.

In: pids and marks. Out: facts from ``/proc``. A pid alone proves nothing, because the kernel gives
it to somebody else later; pid, start time and boot together name one process for ever. Signals go
through a pidfd that is opened before the identity is checked, so they never reach a successor.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

OWNER = "ENOVA_OWNER"
"""Environment mark: the state directory of the stack a process belongs to."""
INSTANCE = "ENOVA_INSTANCE"
"""Environment mark: the instance or component id."""

_PROC = Path("/proc")


@dataclass(frozen=True)
class Identity:
    """One process for ever. ``start`` in clock ticks after boot ``boot``."""

    pid: int
    start: int
    boot: str

    def alive(self) -> bool:
        """Whether exactly this process still runs. A zombie does not."""
        now = identify(self.pid)
        return now == self


@dataclass(frozen=True)
class _Stat:
    state: str
    group: int
    session: int
    start: int


def identify(pid: int) -> Identity | None:
    """The process that has this pid now, None when there is none or it is a zombie."""
    stat = _stat(pid)
    if stat is None or stat.state in "ZX":
        return None
    return Identity(pid, stat.start, boot_id())


def boot_id() -> str:
    """The kernel's name for the time since it started."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def environment(pid: int) -> dict[str, str]:
    """The environment a process was started with; empty when it may not be read."""
    try:
        data = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in data.split(b"\0") if b"=" in item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def has_marks(pid: int, marks: Mapping[str, str]) -> bool:
    """Whether a process carries all these marks in its environment."""
    found = environment(pid)
    return all(found.get(name) == value for name, value in marks.items())


def command_line(pid: int) -> tuple[str, ...]:
    """The words of a process's command line; empty when it is gone."""
    try:
        data = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in data.rstrip(b"\0").split(b"\0")) if data else ()


def affinity(pid: int) -> frozenset[int]:
    """The cores a process may use; empty when it is gone."""
    try:
        return frozenset(os.sched_getaffinity(pid))
    except OSError:
        return frozenset()


def marked(marks: Mapping[str, str]) -> tuple[Identity, ...]:
    """Every live process that carries all these marks, except this one. Sorted by pid."""
    found = []
    for pid in _pids():
        if pid != os.getpid() and has_marks(pid, marks):
            identity = identify(pid)
            if identity is not None:
                found.append(identity)
    return tuple(found)


def leftovers(shim: Identity, process: Identity | None) -> tuple[Identity, ...]:
    """Live processes that a dead shim's process left in its group.

    Engines' children rename themselves and lose their environment, so the group is their mark. The
    kernel keeps a session and a group number while a member lives; a leader of either that is not
    ours means both were given away long ago, and then nothing is ours.
    """
    if process is None or shim.boot != boot_id():
        return ()
    for leader in (shim, process):
        now = identify(leader.pid)
        if now is not None and now != leader:
            return ()
    found = []
    for pid in _pids():
        stat = _stat(pid)
        if stat is None or stat.state in "ZX" or stat.start < shim.start:
            continue
        if stat.session == shim.pid and stat.group == process.pid:
            found.append(Identity(pid, stat.start, shim.boot))
    return tuple(found)


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal exactly this process. False when it is gone."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not identity.alive():
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(identities: Iterable[Identity], *, timeout_s: float) -> bool:
    """Wait until all these processes ended, at most ``timeout_s`` seconds. An event, no polling."""
    end = time.monotonic() + timeout_s
    for identity in identities:
        try:
            handle = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            continue
        try:
            if not identity.alive():
                continue
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return False
        finally:
            os.close(handle)
    return True


def listeners(port: int) -> tuple[int, ...]:
    """Pids that listen on a TCP port of this machine, as far as this user may see them."""
    pids = set()
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN
            if listens and connection.laddr and connection.laddr.port == port and connection.pid:
                pids.add(connection.pid)
    return tuple(sorted(pids))


def _pids() -> list[int]:
    return sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return _Stat(
        state=fields[0], group=int(fields[2]), session=int(fields[3]), start=int(fields[19])
    )
