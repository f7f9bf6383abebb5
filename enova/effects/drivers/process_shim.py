"""The tiny program above every detached process: owns its output, notes why it ended.

Run as ``python -m enova.effects.drivers.process_shim FOLDER``. In: ``FOLDER/launch.json`` (what
to run) and its own environment, which the process inherits. Out, in the same folder: rotated
output, ``pids.json`` as soon as the process exists, ``exit.json`` when it ended. It passes SIGTERM
on, takes the whole process tree with it, and never starts anything a second time. Standard library
only, and nothing of enova: it must outlive an upgrade of the package it came from.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

PIDS = "pids.json"
EXIT = "exit.json"
LAUNCH = "launch.json"
LOCK = "lock"
BUSY = 75
"""Exit code when another shim already owns the folder."""

# An engine's reason stands above the tracebacks of every process that failed because of it.
_LAST_BYTES = 64 * 1024
_LAST_LINES = 400
_HELD_BYTES = 64 * 1024
_LEFTOVER_S = 5.0
_TRACKER_S = 2.0
_LOCK_TRIES = 25
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(folder: Path) -> int:
    """Detach, start the process, return 0 once it exists; else say why on stderr, return 1."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        code = 1
        try:
            code = _stay(folder, writing)
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            raise
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    if said == b"ok":
        return 0
    sys.stderr.write(said.decode(errors="replace") or "the shim ended before the process started")
    return BUSY if said.startswith(b"busy") else 1


def _stay(folder: Path, parent: int) -> int:
    """The life of the detached shim. ``parent`` is told "ok", or a reason, and then closed."""
    os.setsid()
    os.umask(0o077)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _locked(lock):
        os.write(parent, b"busy: it is running already")
        return BUSY
    launch = json.loads((folder / LAUNCH).read_text())
    shim = _Shim(folder, launch)
    problem = shim.start()
    if problem is not None:
        os.write(parent, problem.encode())
        return 1
    os.write(parent, b"ok")
    os.close(parent)
    _silence()
    shim.watch()
    return 0


def _locked(lock: int) -> bool:
    """Whether the folder is ours now. An observer holds the lock for an instant at most."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


class _Shim:
    """One process, its output and its end."""

    def __init__(self, folder: Path, launch: dict[str, object]) -> None:
        self.folder = folder
        self.argv = [str(word) for word in _items(launch["argv"])]
        self.cwd = str(launch["cwd"])
        self.cores = [int(str(core)) for core in _items(launch.get("cores"))]
        names = [str(name) for name in _items(launch.get("secret_env"))]
        self.output = _Output(
            folder / str(launch["log"]),
            most_bytes=int(str(launch["log_bytes"])),
            keep=int(str(launch["log_keep"])),
            secrets=[os.environb[name.encode()] for name in names if os.environ.get(name)],
        )
        self.pid = 0
        self.pipe = -1
        self.wake = -1
        self.asked = False

    def start(self) -> str | None:
        """Start the process. Returns why it could not be started."""
        (self.folder / EXIT).unlink(missing_ok=True)
        self._listen()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._note_pids()
        reading, writing = os.pipe()
        failing, failed = os.pipe()
        me = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != me:
                    os._exit(1)
                self._become(writing)
            except OSError as error:
                os.write(failed, str(error).encode())
            finally:
                os._exit(127)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)
        os.close(writing)
        os.close(failed)
        with os.fdopen(failing, "rb") as pipe:
            problem = pipe.read()
        if problem:
            os.waitpid(self.pid, 0)
            os.close(reading)
            words = f"it could not be started: {problem.decode(errors='replace')}"
            self._note_exit(127, None, words)
            return words
        os.set_blocking(reading, False)
        self.pipe = reading
        self._note_pids()
        return None

    def _become(self, output: int) -> NoReturn:
        """In the child: the environment of a fresh process, then the program itself."""
        signal.set_wakeup_fd(-1)
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGCHLD,
            signal.SIGPIPE,
        ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.umask(0o022)
        # Cores are counted among those this machine gives us. A pool may state more cores than
        # there are; then pinning to some of them would only slow the process down.
        here = sorted(os.sched_getaffinity(0))
        if self.cores and max(self.cores) < len(here):
            os.sched_setaffinity(0, {here[core] for core in self.cores})
        os.chdir(self.cwd)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvp(self.argv[0], self.argv)  # noqa: S606  an argument list, no shell

    def _listen(self) -> None:
        """Signals wake the loop through a pipe; terminals and hangups are none of its business."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self.wake = reading
        signal.signal(signal.SIGTERM, self._pass_on)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(writing)

    def _pass_on(self, number: int, _frame: object) -> None:
        self.asked = True
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def watch(self) -> None:
        """Copy output until the process ended, then end its leftovers and note why."""
        while not self._ended():
            self._copy(None)
        self._end_group()
        _, status = os.waitpid(self.pid, 0)
        self._end_leftovers()
        end = time.monotonic() + 1.0
        while self.pipe >= 0 and time.monotonic() < end:
            self._copy(0.1)
        self.output.finish()
        code = os.waitstatus_to_exitcode(status)
        self._note_exit(None if code < 0 else code, -code if code < 0 else None, "")

    def _ended(self) -> bool:
        """Whether the process ended. Its other orphans, which are ours now, are reaped."""
        while True:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, self.pid, flags) is not None:
                return True
            orphans = [pid for pid in _children() if pid != self.pid]
            if not any(_reaped(pid) for pid in orphans):
                return False

    def _end_group(self) -> None:
        """Kill what is left in the process's group: the leader is still a zombie, so the number
        cannot belong to anybody else yet. Python's resource trackers go last and by themselves:
        they remove the shared memory of those that were killed, and nobody else knows its names.
        """
        end = time.monotonic() + _TRACKER_S
        while (left := _group(self.pid)) and time.monotonic() < end:
            for pid in left:
                if not _is_tracker(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            for pid in _children():
                if pid != self.pid:
                    _reaped(pid)
            self._copy(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        end = time.monotonic() + _LEFTOVER_S
        while (left := _children()) and time.monotonic() < end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in left:
                _reaped(pid)
            self._copy(0.05)

    def _copy(self, timeout_s: float | None) -> None:
        """Wait for output or a signal and copy what is there."""
        watched = [self.wake] + ([self.pipe] if self.pipe >= 0 else [])
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if self.wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 4096)
        if self.pipe in ready:
            try:
                data = os.read(self.pipe, 65536)
            except BlockingIOError:
                return
            if data:
                self.output.add(data)
            else:
                os.close(self.pipe)
                self.pipe = -1

    def _note_pids(self) -> None:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        _write(
            self.folder / PIDS,
            {
                "boot": boot,
                "shim": {"pid": os.getpid(), "start": _start_of(os.getpid())},
                "process": {"pid": self.pid, "start": _start_of(self.pid)} if self.pid else None,
            },
        )

    def _note_exit(self, code: int | None, number: int | None, reason: str) -> None:
        _write(
            self.folder / EXIT,
            {
                "code": code,
                "signal": number,
                "reason": reason or _words(code, number, asked=self.asked),
                "asked": self.asked,
                "last_lines": self.output.last_lines(),
                "at": time.time(),
            },
        )


class _Output:
    """What the process printed: files of bounded size, the last lines, secrets blanked out."""

    def __init__(self, path: Path, *, most_bytes: int, keep: int, secrets: list[bytes]) -> None:
        self.path = path
        self.most_bytes = most_bytes
        self.keep = keep
        self.secrets = sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)
        self.held = b""
        self.last = b""
        self.file = self._open()
        self.size = os.fstat(self.file).st_size

    def add(self, data: bytes) -> None:
        """Append output. With secrets only whole lines, so that none is cut in two."""
        if self.secrets:
            data = self.held + data
            end = data.rfind(b"\n") + 1
            if not end and len(data) > _HELD_BYTES:
                end = len(data)
            data, self.held = data[:end], data[end:]
        self._write(data)

    def finish(self) -> None:
        """Write what was held back."""
        self._write(self.held)
        self.held = b""

    def last_lines(self) -> list[str]:
        """The end of the output."""
        return self.last.decode(errors="replace").splitlines()[-_LAST_LINES:]

    def _write(self, data: bytes) -> None:
        for secret in self.secrets:
            data = data.replace(secret, b"[secret]")
        self.last = (self.last + data)[-_LAST_BYTES:]
        # A full disk must not stop the process: what cannot be written is dropped.
        with contextlib.suppress(OSError):
            while data:
                room = self.most_bytes - self.size
                end = len(data) if len(data) <= room else data.rfind(b"\n", 0, max(room, 0)) + 1
                if not end and not self.size:
                    end = self.most_bytes  # one line longer than a whole file
                self._append(data[:end])
                data = data[end:]
                if data:
                    self._rotate()

    def _append(self, data: bytes) -> None:
        while data:
            count = os.write(self.file, data)
            self.size += count
            data = data[count:]

    def _rotate(self) -> None:
        os.close(self.file)
        for index in range(self.keep - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{index}")
            if older.exists():
                older.rename(self.path.with_name(f"{self.path.name}.{index + 1}"))
        self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        self.path.with_name(f"{self.path.name}.{self.keep}").unlink(missing_ok=True)
        self.file = self._open()
        self.size = 0

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.path, flags, 0o600)


def _words(code: int | None, number: int | None, *, asked: bool) -> str:
    if number is None:
        return f"exited with code {code}"
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL and not asked:
        return "killed by SIGKILL from outside, as the kernel does when memory runs out"
    return f"killed by {name}"


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _children() -> list[int]:
    me = os.getpid()
    try:
        text = Path(f"/proc/{me}/task/{me}/children").read_text()
    except OSError:  # a kernel built without CONFIG_PROC_CHILDREN: the group was ended anyway
        return []
    return [int(pid) for pid in text.split()]


def _group(leader: int) -> list[int]:
    """Live processes of a group besides its leader."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == leader:
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[2]) == leader and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def _is_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _start_of(pid: int) -> int:
    """When a process started, in clock ticks since boot (field 22 of its stat file)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _write(path: Path, document: dict[str, object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _silence() -> None:
    """Let go of whatever terminal or pipe it was started from. stderr is a file of the folder."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
