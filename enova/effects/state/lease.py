"""The right to apply now: one holder a stack, renewed while held, taken over when it is gone.

``lease.json`` names the holder and its token, a fencing number that grows with every holder;
``lease.lock`` is locked only for the milliseconds in which ``lease.json`` or the record changes,
``lease.queue`` is shared by all who wait, so that a holder with more to do can let them in first.
Whether a holder is gone is judged by its process and by clocks that do not jump, and in doubt by
watching whether it renews. A holder that was paused past its lease finds its token outdated and is
refused at its next write.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Literal

import psutil

from enova.base.digest import plain
from enova.base.errors import ActionFailed, Refused, Unreachable
from enova.base.units import format_duration
from enova.effects.clock import Clock
from enova.effects.state.files import anyone_queued, locked, queued, replace_file
from enova.effects.state.store import StateDir

TTL_S = 15.0
RENEW_S = 5.0
_LOOK_AGAIN_S = 0.2
_SCHEMA = 1


@dataclass(frozen=True)
class Holder:
    """One process: who, where, since when, doing what.

    ``boot`` and ``namespace`` say whether its ``pid`` and clock can be compared with ours;
    ``started`` tells it from a later process of the same pid.
    """

    user: str
    host: str
    pid: int
    started: str
    command: str
    boot: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (pid {self.pid}, {self.command})"


@dataclass(frozen=True)
class Grant:
    """What ``lease.json`` holds. Without holder the lease is free; the token stays."""

    token: int
    nonce: str = ""
    holder: Holder | None = None
    since: float = 0.0
    renewed_at: float = 0.0
    renewed_monotonic: float = 0.0
    ttl_s: float = TTL_S


@dataclass(frozen=True)
class LeaseStatus:
    """For people: who may apply. Times are seconds since 1970 (UTC)."""

    state: Literal["free", "held", "expired", "gone"]
    """``expired``: not renewed in time. ``gone``: the holder's process ended."""
    token: int
    holder: Holder | None = None
    since: float = 0.0
    renewed_at: float = 0.0
    expires_at: float = 0.0


def this_process(command: str) -> Holder:
    """The holder that this process is, for ``command`` in words (``enova apply``)."""
    pid = os.getpid()
    return Holder(
        user=_user(),
        host=socket.gethostname(),
        pid=pid,
        started=_started(pid) or "",
        command=command,
        boot=_first_line(Path("/proc/sys/kernel/random/boot_id")),
        namespace=_link(Path("/proc/self/ns/pid")),
    )


class Lease:
    """The lease of one stack, seen by one process that may want it."""

    def __init__(
        self,
        state: StateDir,
        *,
        clock: Clock,
        holder: Holder,
        ttl_s: float = TTL_S,
        renew_s: float = RENEW_S,
    ) -> None:
        self._state = state
        self._clock = clock
        self._holder = holder
        self._ttl_s = ttl_s
        self._renew_s = renew_s
        self._seen: tuple[int, float, float] | None = None

    @property
    def _file(self) -> Path:
        return self._state.folder / "lease.json"

    @property
    def _lock(self) -> Path:
        return self._state.folder / "lease.lock"

    @property
    def _queue(self) -> Path:
        return self._state.folder / "lease.queue"

    def acquire(self, *, wait_s: float = 0.0) -> Held:
        """Take the lease, waiting up to ``wait_s`` seconds for its holder.

        Raises Refused with who holds it, since when, and what to do.
        """
        self._state.prepare()
        end = self._clock.monotonic() + wait_s
        with queued(self._queue) if wait_s > 0 else nullcontext():
            while True:
                with locked(self._lock):
                    current = self._read()
                    judged = self._judge(current)
                    if judged != "held":
                        return self._take(current)
                left = end - self._clock.monotonic()
                if left <= 0:
                    raise Refused(self._refusal(current))
                self._clock.sleep(min(_LOOK_AGAIN_S, left))

    def status(self) -> LeaseStatus:
        """Who holds the lease. Changes nothing."""
        current = self._read()
        return LeaseStatus(
            state=self._judge(current),
            token=current.token,
            holder=current.holder,
            since=current.since,
            renewed_at=current.renewed_at,
            expires_at=current.renewed_at + current.ttl_s if current.holder else 0.0,
        )

    def release(self, token: int, *, force: bool = False) -> None:
        """Free the lease that ``token`` names, for ``enova lease release``.

        Raises Refused when another token holds it now, or its holder lives and ``force`` is not
        given. The former holder is refused at its next write.
        """
        with locked(self._lock):
            current = self._read()
            if current.holder is None:
                return
            if current.token != token:
                raise Refused(
                    f"Lease {token} is not the one that is held: {current.token} is, by "
                    f"{current.holder}."
                )
            if self._judge(current) == "held" and not force:
                raise Refused(
                    f"{self._refusal(current)} To take it away from a running command all the "
                    f"same: enova lease release {token} --force."
                )
            self._write(Grant(token=current.token))

    def clear(self) -> None:
        """Remove the lease's files once the stack is destroyed; nothing when it is held."""
        with locked(self._lock):
            if self._read().holder is None:
                self._file.unlink(missing_ok=True)
                self._queue.unlink(missing_ok=True)
                self._lock.unlink()

    def _take(self, current: Grant) -> Held:
        now = self._clock.now()
        grant = Grant(
            token=max(current.token, self._state.token_written()) + 1,
            nonce=secrets.token_hex(8),
            holder=self._holder,
            since=now,
            renewed_at=now,
            renewed_monotonic=self._clock.monotonic(),
            ttl_s=self._ttl_s,
        )
        self._write(grant)
        return Held(self, grant, clock=self._clock, renew_s=self._renew_s)

    def _judge(self, current: Grant) -> Literal["free", "held", "expired", "gone"]:
        holder = current.holder
        if holder is None:
            return "free"
        mine = self._holder
        if (holder.host, holder.namespace) == (mine.host, mine.namespace):
            if holder.boot != mine.boot or _started(holder.pid) != holder.started:
                return "gone"
            since_renewed = self._clock.monotonic() - current.renewed_monotonic
            return "expired" if since_renewed > current.ttl_s else "held"
        return self._judge_by_watching(current)

    def _judge_by_watching(self, current: Grant) -> Literal["held", "expired"]:
        """For holders elsewhere, whose clock may differ: expired if it stood still for a TTL."""
        now = self._clock.monotonic()
        if self._seen is None or self._seen[:2] != (current.token, current.renewed_at):
            self._seen = (current.token, current.renewed_at, now)
        return "expired" if now - self._seen[2] > current.ttl_s else "held"

    def _refusal(self, current: Grant) -> str:
        since = datetime.fromtimestamp(current.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        ago = format_duration(max(0.0, self._clock.now() - current.renewed_at))
        return (
            f"{self._state.stack} is being changed by {current.holder} since {since} "
            f"(lease {current.token}, renewed {ago} ago). Wait for it: --wait 5m."
        )

    def _read(self) -> Grant:
        try:
            data = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return Grant(token=0)
        except ValueError:
            # Whoever held it cannot renew it any more, and the record remembers the last token.
            return Grant(token=0)
        return _grant(data)

    def _write(self, grant: Grant) -> None:
        data = {"schema": _SCHEMA, **_as_mapping(grant)}
        data["expires_at"] = grant.renewed_at + grant.ttl_s if grant.holder else None
        text = json.dumps(data, indent=1, sort_keys=True) + "\n"
        replace_file(self._file, text.encode())


class Held:
    """The lease while we have it. A context manager: leaving it releases the lease.

    A thread renews it. ``lost`` turns True when somebody else took it; ``on_loss`` callbacks run
    then, in the renewing thread.
    """

    def __init__(self, lease: Lease, grant: Grant, *, clock: Clock, renew_s: float) -> None:
        self._lease = lease
        self._grant = grant
        self._clock = clock
        self._renew_s = renew_s
        self._ended: SimpleQueue[bool] = SimpleQueue()
        self._lost = False
        self._on_loss: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def token(self) -> int:
        """The fencing number."""
        return self._grant.token

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return anyone_queued(self._lease._queue)

    @property
    def lost(self) -> bool:
        """Whether somebody else is known to have taken it."""
        return self._lost

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call it when the lease turns out to be lost, for example ``StopFlag.request``."""
        self._on_loss.append(callback)

    def check(self, token: int | None = None) -> None:
        """Return if ``token`` (ours by default) is the one that may write. Raises Refused.

        A lease that ran out but that nobody else took is still ours: no one wrote since.
        """
        self._require(self._lease._read(), self.token if token is None else token)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Inside, the lease is ours and cannot be taken. Raises Refused when it is not ours."""
        with locked(self._lease._lock):
            self.check()
            yield

    def renew(self) -> None:
        """Tell the others that we are alive. Raises Refused when it is lost."""
        with self.guard():
            self._lease._write(self._renewed())

    def release(self) -> None:
        """Let the next one in. Harmless when it is already released or lost."""
        self._ended.put(True)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if not self._lease._file.parent.exists():
            return
        with locked(self._lease._lock):
            if self._is_ours(self._lease._read()):
                self._lease._write(Grant(token=self.token))

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _renewed(self) -> Grant:
        held = self._grant
        self._grant = Grant(
            token=held.token,
            nonce=held.nonce,
            holder=held.holder,
            since=held.since,
            renewed_at=self._clock.now(),
            renewed_monotonic=self._clock.monotonic(),
            ttl_s=held.ttl_s,
        )
        return self._grant

    def _is_ours(self, current: Grant) -> bool:
        return (current.token, current.nonce) == (self._grant.token, self._grant.nonce)

    def _require(self, current: Grant, token: int) -> None:
        if token == self.token and self._is_ours(current):
            return
        taken_by = (
            f": {current.holder} has it now (lease {current.token})" if current.holder else ""
        )
        raise Refused(
            f"Lease {token} of {self._lease._state.stack} was lost{taken_by}. "
            "This command was stopped or stalled for too long and writes nothing more. Plan again."
        )

    def _keep(self) -> None:
        while self._clock.take(self._ended, self._renew_s) is None:
            try:
                self.renew()
            except Refused:
                self._lost = True
                for callback in self._on_loss:
                    callback()
                return
            except (ActionFailed, Unreachable):
                # A full disk or a locked file may pass before the lease runs out; writes check it.
                continue


def _as_mapping(grant: Grant) -> dict[str, object]:
    data = plain(grant)
    assert isinstance(data, dict)
    return data


def _grant(data: object) -> Grant:
    """The grant in ``lease.json``; one of another shape counts as free, see ``Lease._read``."""
    if not isinstance(data, dict):
        return Grant(token=0)
    token = data.get("token")
    holder = data.get("holder")
    return Grant(
        token=token if isinstance(token, int) else 0,
        nonce=str(data.get("nonce", "")),
        holder=_holder(holder) if isinstance(holder, dict) else None,
        since=_number(data.get("since")),
        renewed_at=_number(data.get("renewed_at")),
        renewed_monotonic=_number(data.get("renewed_monotonic")),
        ttl_s=_number(data.get("ttl_s")) or TTL_S,
    )


def _holder(data: dict[str, object]) -> Holder:
    pid = data.get("pid")
    return Holder(
        user=str(data.get("user", "")),
        host=str(data.get("host", "")),
        pid=pid if isinstance(pid, int) else 0,
        started=str(data.get("started", "")),
        command=str(data.get("command", "")),
        boot=str(data.get("boot", "")),
        namespace=str(data.get("namespace", "")),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def command_words(arguments: Sequence[str]) -> str:
    """``enova apply`` from ``sys.argv``: program and verb only, values may be secret."""
    words = [Path(arguments[0]).name] if arguments else ["enova"]
    words += [word for word in arguments[1:2] if not word.startswith("-")]
    return " ".join(words)


def _started(pid: int) -> str | None:
    """When a process started, in a form that no clock change alters; None when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _started_elsewhere(pid)
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _started_elsewhere(pid: int) -> str | None:
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return None


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
