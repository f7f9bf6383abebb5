"""A session at the command line against a world that is a value: run steps, write down all of it.

In: a session file (``files``, ``world``, ``steps``). Out: its transcript: each command, what it
wrote to standard output and standard error, its exit code. Runs in this process, through the same
function as the console script, on a fake target and a clock that stands still.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enova.capacity.inventory import from_plain
from enova.cli.exits import code_of
from enova.cli.main import main
from enova.effects.clock import ManualClock
from enova.effects.drivers.base import Progress
from enova.effects.drivers.fake import FakeDriver, World
from enova.effects.state.store import StateDir
from enova.spec.model import Pool
from enova.stack.actions import Action
from enova.stack.observed import State
from enova.workflows.wiring import Surroundings

START = 1_750_000_000.0
"""2025-06-15 15:06:40 UTC."""

POOL = {
    "hosts": [
        {
            "name": "gpu-a",
            "devices": [
                {"index": index, "name": "h100-sxm-80gb", "memory_bytes": 85899345920}
                for index in range(4)
            ],
            "cores": 32,
            "memory_bytes": 274877906944,
        }
    ]
}


class WatchedDriver(FakeDriver):
    """The fake target, with a switch that interrupts this process at a performed action."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.interrupt_at = 0

    def perform(self, action: Action, progress: Progress) -> None:
        if self.interrupt_at:
            self.interrupt_at -= 1
            if self.interrupt_at == 0:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        super().perform(action, progress)


class Session:
    """One folder, one state folder, one world."""

    def __init__(self, folder: Path, data: Mapping[str, Any]) -> None:
        self._work = folder / "work"
        self._state = folder / "state"
        self._work.mkdir()
        self._inventory = from_plain(data.get("world", POOL))
        self._drivers: dict[tuple[str, str], WatchedDriver] = {}
        self._clock = ManualClock(START)
        self._environment = {
            "ENOVA_STATE_DIR": str(self._state),
            "PATH": "/usr/bin:/bin",
            **data.get("environment", {}),
        }
        self._lines: list[str] = []
        self._write(data.get("files", {}))
        self._steps: Sequence[Mapping[str, Any]] = data["steps"]

    def run(self) -> str:
        """Run every step; the transcript."""
        for step in self._steps:
            if "about" in step:
                self._lines.append(f"# {step['about']}")
            self._write(step.get("files", {}))
            for file, (old, new) in step.get("edit", {}).items():
                path = self._work / file
                text = path.read_text()
                if old not in text:
                    raise ValueError(f"{file} does not hold {old!r}")
                path.write_text(text.replace(old, new))
            for name in step.get("remove", ()):
                (self._work / name).unlink()
            if "wait" in step:
                self._clock.advance(float(step["wait"]))
            if "world" in step:
                self._change(step["world"])
            if "run" in step:
                shown = step.get("show", "all")
                self._command(step["run"], stdin=step.get("stdin", ""), shown=shown)
        return "\n".join(self._lines) + "\n"

    def _write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self._work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def _driver(
        self, pool: Pool, *, stack: str, env: str, state: StateDir, environment: Mapping[str, str]
    ) -> FakeDriver:
        return self._drivers.setdefault(
            (stack, env), WatchedDriver(World(inventory=self._inventory))
        )

    def _change(self, change: Mapping[str, Any]) -> None:
        """Move the world of the one stack there is: what a person or a fault would do."""
        (driver,) = self._drivers.values()
        driver.interrupt_at = change.get("interrupt_at", 0)
        with driver.edit() as world:
            live = {
                one.address: one
                for one in world.instances.values()
                if one.state is not State.EXITED
            }
            for address, reason in change.get("exit", {}).items():
                live[address].exit(reason)
            for address, words in change.get("tamper", {}).items():
                live[address].tampered.append(words)
            for address in change.get("vanish", ()):
                del world.instances[live[address].id]
            world.faults.unreachable = set(change.get("unreachable", ()))
            world.faults.fail_at = {world.count + n for n in change.get("fail_at", ())}

    def _command(self, words: str, *, stdin: str, shown: str) -> None:
        """``shown``: ``all``, or what the step is about: ``errors``, or only the ``exit`` code."""
        surroundings = Surroundings(self._environment, self._clock, self._driver)
        with self._streams(stdin) as (out, err):
            code = code_of(main, shlex.split(words)[1:], surroundings=surroundings)
        self._lines.append(f"$ {words}")
        self._lines += self._settled(out) if shown == "all" else ["[not shown here]"]
        errors = self._settled(err)
        if errors and shown != "exit":
            self._lines += ["[standard error]", *errors]
        self._lines += [f"[exit {code}]", ""]

    @contextmanager
    def _streams(self, stdin: str) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
        out, err = io.BytesIO(), io.BytesIO()
        before = sys.stdin, sys.stdout, sys.stderr
        folder = Path.cwd()
        os.chdir(self._work)
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        sys.stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(err, encoding="utf-8", write_through=True)
        opened = sys.stdout, sys.stderr
        try:
            yield out, err
        finally:
            sys.stdin, sys.stdout, sys.stderr = before
            for stream in opened:
                stream.detach()  # else the buffer is closed with it
            os.chdir(folder)

    def _settled(self, stream: io.BytesIO) -> list[str]:
        """The lines, without what differs between two runs."""
        text = stream.getvalue().decode()
        for found, shown in (
            (str(self._state), "STATE"),
            (str(self._work.resolve()), "WORK"),
            (str(self._work), "WORK"),
            (sys.executable, "PYTHON"),
        ):
            text = text.replace(found, shown)
        return in_order(text.splitlines())


_STEP = re.compile(r'^\[ *(\d+)/\d+\]|^\{"schema": 1,.*"action": (\d+),.*"kind": "action-')


def in_order(lines: Sequence[str]) -> list[str]:
    """Lines about steps that ran side by side, by step: which is first differs between runs."""
    done: list[str] = []
    block: list[tuple[int, str]] = []
    for line in [*lines, None]:
        match = _STEP.match(line) if line is not None else None
        if match is not None and line is not None:
            block.append((int(match[1] or match[2]), line))
            continue
        done += [text for _, text in sorted(block, key=lambda pair: pair[0])]
        block = []
        if line is not None:
            done.append(line)
    return done
