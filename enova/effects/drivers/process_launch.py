"""Starting one detached process under its shim, and ending it with everything it started.

In: a folder with its meta written. Out: a running process, or ActionFailed with the last lines; an
ended one, with nothing left. Both are harmless to repeat.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from enova.base.errors import ActionFailed
from enova.effects.drivers import log_words, process_log, process_shim, process_table
from enova.effects.drivers.folder import META, TAIL_LINES, forget_old
from enova.effects.drivers.process_folder import SHIM_LOG, Folder, Life
from enova.effects.drivers.process_ground import Ground
from enova.effects.drivers.process_table import Identity

_START_S = 30.0
_KILL_S = 10.0
_NOTE_S = 10.0
"""How long a shim may take to note an end: it collects leftovers and output first."""


def start(
    ground: Ground,
    folder: Folder,
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    secret_env: Sequence[str] = (),
    cores: Sequence[int] = (),
    address: str,
) -> None:
    """Start ``argv`` under a shim that outlives this process and its terminal.

    Returns when the process exists. Raises ActionFailed when it could not be started.
    """
    work = folder.path / "work"
    work.mkdir(mode=0o700, exist_ok=True)
    folder.forget_run()
    folder.write_launch(
        argv,
        cwd=work,
        cores=cores,
        secret_env=secret_env,
        log_bytes=ground.log_bytes,
        log_keep=ground.log_keep,
    )
    shim = Path(process_shim.__file__).absolute()
    command = (str(ground.programs.python), "-I", "-S", str(shim), str(folder.path))
    log = folder.path / SHIM_LOG
    with log.open("ab") as errors:
        log.chmod(0o600)
        try:
            done = subprocess.run(
                command,
                env=dict(environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                check=False,
                timeout=_START_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ActionFailed(address, "start", f"the shim: {error}") from error
    if done.returncode in (0, process_shim.BUSY):
        return
    ended = folder.exit()
    lines = process_log.tail(log, TAIL_LINES)
    why = ended.reason if ended is not None else (lines[-1] if lines else "the shim failed")
    raise ActionFailed(address, "start", why, lines)


def stop(
    ground: Ground,
    folder: Folder,
    *,
    grace_s: float,
    address: str,
    progress: Callable[[str], None],
) -> None:
    """End the process: SIGTERM, after ``grace_s`` SIGKILL, then whatever it left.

    Raises ActionFailed when something cannot be killed.
    """
    marks = ground.marks(folder.id)
    if folder.life(marks) is Life.RUNNING:
        progress("stopping")
        _end(ground, folder, grace_s=grace_s, progress=progress)
    kill(_left(folder, marks), address=address)


def kill(left: Sequence[Identity], *, address: str) -> None:
    """SIGKILL exactly these and wait. Raises ActionFailed when one does not end."""
    for identity in left:
        process_table.send(identity, signal.SIGKILL)
    if not process_table.wait_gone(left, timeout_s=_KILL_S):
        still = [str(identity.pid) for identity in left if identity.alive()]
        raise ActionFailed(address, "stop", f"pid {', '.join(still)} does not end on SIGKILL")


def _end(
    ground: Ground, folder: Folder, *, grace_s: float, progress: Callable[[str], None]
) -> None:
    shim = _shim(ground, folder)
    process = folder.process()
    both = [identity for identity in (shim, process) if identity is not None]
    if shim is not None:
        process_table.send(shim, signal.SIGTERM)
    if process_table.wait_gone(both, timeout_s=grace_s):
        return
    progress(f"killing after {grace_s:.0f} s")
    if process is not None:
        process_table.send(process, signal.SIGKILL)
    if not process_table.wait_gone(both, timeout_s=_NOTE_S) and shim is not None:
        process_table.send(shim, signal.SIGKILL)
        process_table.wait_gone([shim], timeout_s=_KILL_S)


def _shim(ground: Ground, folder: Folder) -> Identity | None:
    """The shim, also in the moment before it has noted itself."""
    found = folder.shim()
    if found is not None:
        return found
    wanted = str(folder.path)
    for identity in process_table.marked(ground.marks(folder.id)):
        if wanted in process_table.command_line(identity.pid):
            return identity
    return None


def _left(folder: Folder, marks: Mapping[str, str]) -> tuple[Identity, ...]:
    """What still runs of it: by environment mark, and by group where that was lost."""
    found = set(process_table.marked(marks))
    shim = folder.shim()
    if shim is not None:
        found.update(process_table.leftovers(shim, folder.process()))
    return tuple(sorted(found, key=lambda identity: identity.pid))


def ended_reason(folder: Folder) -> str:
    """Why it ended, in one line."""
    shim = folder.shim()
    ended = folder.exit()
    if ended is None:
        if shim is None:
            return "it was never started: enova was interrupted before"
        if shim.boot != process_table.boot_id():
            return "the machine restarted"
        return "killed together with its shim"
    cause = log_words.reason(ended.last_lines)
    return f"{ended.reason}: {cause}" if cause and not ended.asked else ended.reason


def await_note(folder: Folder) -> None:
    """After the process ended: wait until its shim has noted why."""
    shim = folder.shim()
    if shim is not None:
        process_table.wait_gone([shim], timeout_s=_NOTE_S)


def remove(ground: Ground, folder: Folder) -> None:
    """Remove the folder of an ended process. Output of a failed one is kept for a while."""
    ended = folder.exit()
    failed = ended is None or not ended.asked or folder.served() is None
    if failed and folder.log.exists() and folder.path.parent == ground.instances:
        ground.prepare(ground.last)
        kept = ground.last / folder.id
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(mode=0o700)
        for path in (*process_log.files(folder.log), folder.path / META):
            path.rename(kept / path.name)
        forget_old(ground.last)
    shutil.rmtree(folder.path, ignore_errors=True)
