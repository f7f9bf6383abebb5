"""The record is read back as written, is never half written, and only the fenced writer writes."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import enova
from enova.base.digest import plain
from enova.base.errors import ActionFailed, Refused
from enova.effects.state.files import Files
from enova.effects.state.store import (
    KEPT_APPLIES,
    StateDir,
    list_stacks,
    record_from_plain,
    state_root,
)
from enova.stack.record import Record


@dataclass
class OpenFence:
    token: int = 1
    lost: bool = False

    @contextmanager
    def guard(self) -> Iterator[None]:
        if self.lost:
            raise Refused("lost")
        yield


FENCE = OpenFence()
PYTHON_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(enova.__file__).parents[1])}
RECORD = Record(
    stack="chat",
    serial=3,
    document={"version": 1, "services": {"chat": {"traffic": {"peak": 0.5}}}},
    choices={"chat": {"gpus": 1, "args": {"max-model-len": 4096}}},
    counts={"chat": 2},
    protected=("chat",),
    applying=True,
)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state", "chat").prepare()


def test_an_empty_folder_reads_as_serial_zero(state: StateDir) -> None:
    assert state.read() == Record(stack="chat")


def test_a_record_comes_back_as_it_was_written(state: StateDir) -> None:
    state.write(RECORD, FENCE)
    assert state.read() == RECORD
    assert state.token_written() == 1


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DOCUMENTS = st.dictionaries(
    st.text(), SCALARS | st.lists(SCALARS) | st.dictionaries(NAMES, SCALARS)
)


@given(
    st.builds(
        Record,
        stack=st.just("chat"),
        serial=st.integers(0, 10**6),
        document=st.none() | DOCUMENTS,
        choices=st.dictionaries(NAMES, DOCUMENTS),
        counts=st.dictionaries(NAMES, st.integers(0, 99)),
        protected=st.lists(NAMES).map(tuple),
        applying=st.booleans(),
    )
)
def test_any_record_survives_the_way_through_json(record: Record) -> None:
    there = json.loads(json.dumps(plain(record)))
    assert record_from_plain(there) == record
    assert record_from_plain(there).content_digest == record.content_digest


def test_files_are_for_their_owner_only(state: StateDir) -> None:
    state.write(RECORD, FENCE)
    state.keep(RECORD, FENCE, at=1.0)
    for path in [state.root, *state.root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "state"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(Refused, match="chmod go-w"):
        StateDir(root, "chat").prepare()


def test_a_state_path_that_is_a_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="ENOVA_STATE_DIR"):
        StateDir(tmp_path / "file", "chat").prepare()


@pytest.mark.parametrize("name", ["..", "a/b", "", "A", "a.b", "-x", "a\0b", "x" * 41])
def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused):
        StateDir(tmp_path, name)


def test_a_newer_schema_is_refused_by_name(state: StateDir) -> None:
    state.write(RECORD, FENCE)
    data = json.loads(state.record_file.read_text())
    state.record_file.write_text(json.dumps({**data, "schema": 99}))
    with pytest.raises(Refused, match=r"newer enova \(schema 99.*Upgrade enova"):
        state.read()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}', '{"schema": "x"}'])
def test_a_damaged_record_names_the_file_and_the_newest_whole_copy(
    state: StateDir, text: str
) -> None:
    state.write(RECORD, FENCE)
    state.keep(RECORD, FENCE, at=1.0)
    state.record_file.write_text(text)
    with pytest.raises(Refused) as caught:
        state.read()
    assert str(state.record_file) in str(caught.value)
    assert "history/3.json" in str(caught.value)
    copy = state.history_folder / "3.json"
    state.record_file.write_bytes(copy.read_bytes())
    assert state.read() == RECORD


def test_one_flipped_character_is_noticed(state: StateDir) -> None:
    state.write(RECORD, FENCE)
    text = state.record_file.read_text()
    state.record_file.write_text(text.replace("4096", "4097"))
    with pytest.raises(Refused, match="checksum"):
        state.read()


def test_an_older_serial_never_replaces_a_newer_one(state: StateDir) -> None:
    state.write(replace(RECORD, serial=9), FENCE)
    with pytest.raises(Refused, match="serial 9"):
        state.write(replace(RECORD, serial=8), FENCE)
    assert state.read().serial == 9


def test_without_the_lease_nothing_is_written(state: StateDir) -> None:
    state.write(RECORD, FENCE)
    before = state.record_file.read_bytes()
    lost = OpenFence(lost=True)
    with pytest.raises(Refused):
        state.write(replace(RECORD, serial=4), lost)
    with pytest.raises(Refused):
        state.keep(replace(RECORD, serial=4), lost, at=1.0)
    with pytest.raises(Refused):
        state.forget(lost)
    assert state.record_file.read_bytes() == before
    assert state.applies() == ()
    assert sorted(p.name for p in state.folder.iterdir()) == ["history", "record.json"]


def test_the_history_keeps_the_newest_and_reads_them_back(state: StateDir) -> None:
    for serial in range(1, KEPT_APPLIES + 8):
        state.keep(replace(RECORD, serial=serial), FENCE, at=float(serial))
    assert state.applies() == tuple(range(KEPT_APPLIES + 7, 7, -1))
    applied = state.read_apply(20)
    assert (applied.serial, applied.at) == (20, 20.0)
    assert applied.record == replace(RECORD, serial=20)
    with pytest.raises(Refused, match="no apply 3"):
        state.read_apply(3)


def test_memory_comes_back_and_damage_is_told(state: StateDir) -> None:
    assert state.read_memory() is None
    state.write_memory({"chat": {"held_since": 1.5}})
    assert state.read_memory() == {"chat": {"held_since": 1.5}}
    state.memory_file.write_text("?")
    with pytest.raises(Refused, match="Remove it"):
        state.read_memory()


def test_forget_leaves_the_journal(state: StateDir) -> None:
    state.write(RECORD, FENCE)
    state.keep(RECORD, FENCE, at=1.0)
    state.write_memory({})
    state.journal_file.write_text("kept\n")
    state.forget(FENCE)
    assert [path.name for path in state.folder.iterdir()] == ["journal.jsonl"]


def test_the_root_follows_the_environment() -> None:
    everything = {"ENOVA_STATE_DIR": "/a", "XDG_STATE_HOME": "/x", "HOME": "/h"}
    assert state_root(everything) == Path("/a")
    assert state_root({"XDG_STATE_HOME": "/x", "HOME": "/h"}) == Path("/x/enova")
    assert state_root({"XDG_STATE_HOME": "not/absolute", "HOME": "/h"}) == Path(
        "/h/.local/state/enova"
    )
    with pytest.raises(Refused, match="ENOVA_STATE_DIR"):
        state_root({})


def test_stacks_are_found_by_their_record(tmp_path: Path) -> None:
    for stack, env in (("b", ""), ("a", "prod"), ("a", "")):
        StateDir(tmp_path, stack, env).prepare().write(Record(stack=stack, env=env), FENCE)
    (tmp_path / "empty").mkdir()
    assert list_stacks(tmp_path) == (("a", ""), ("a", "prod"), ("b", ""))
    assert list_stacks(tmp_path / "missing") == ()


class FailingFiles(Files):
    """The disk refuses at call number ``at`` of write, sync or rename; short writes all along."""

    def __init__(self, at: int, error: int) -> None:
        self.calls = 0
        self.at = at
        self.error = error

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.error, os.strerror(self.error))

    def write(self, descriptor: int, data: bytes) -> int:
        self._count()
        return super().write(descriptor, data[:100])

    def sync(self, descriptor: int) -> None:
        self._count()
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)


def calls_of_one_write(tmp_path: Path) -> int:
    files = FailingFiles(0, errno.EIO)
    StateDir(tmp_path / "count", "chat", files=files).prepare().write(RECORD, FENCE)
    return files.calls


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_refusing_disk_leaves_the_old_record_or_the_whole_new_one(
    tmp_path: Path, error: int
) -> None:
    newer = replace(RECORD, serial=4)
    last = calls_of_one_write(tmp_path)
    assert last > 6
    for at in range(1, last + 1):
        root = tmp_path / f"at-{at}"
        StateDir(root, "chat").prepare().write(RECORD, FENCE)
        failing = StateDir(root, "chat", files=FailingFiles(at, error))
        with pytest.raises(ActionFailed, match=os.strerror(error)):
            failing.write(newer, FENCE)
        # Only the last call, the sync of the folder, comes after the rename.
        assert failing.read() == (newer if at == last else RECORD)
        assert [path.name for path in failing.folder.iterdir()] == ["record.json"]


KILLED_WRITER = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from enova.effects.clock import SystemClock
from enova.effects.state.files import Files
from enova.effects.state.lease import Lease, this_process
from enova.effects.state.store import StateDir

class KilledAt(Files):
    calls, armed = 0, False
    def point(self):
        if self.armed:
            self.calls += 1
            if self.calls == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
    def write(self, descriptor, data):
        self.point()
        written = super().write(descriptor, data[: len(data) // 2 + 1])
        self.point()
        return written
    def sync(self, descriptor):
        self.point()
        super().sync(descriptor)
    def rename(self, source, target):
        self.point()
        super().rename(source, target)
        self.point()

files = KilledAt()
state = StateDir(Path(sys.argv[1]), "chat", files=files)
with Lease(state, clock=SystemClock(), holder=this_process("test")).acquire(wait_s=5) as held:
    record = state.read()
    files.armed = True
    state.keep(replace(record, serial=record.serial + 1), held, at=1.0)
    state.write(replace(record, serial=record.serial + 1), held)
"""


def test_a_writer_killed_anywhere_leaves_a_record_that_reads(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state", "chat").prepare()
    state.write(RECORD, FENCE)
    script = tmp_path / "writer.py"
    script.write_text(KILLED_WRITER)
    serial, kills = RECORD.serial, 0
    for at in range(1, 200):
        arguments = [sys.executable, str(script), str(state.root), str(at)]
        ended = subprocess.run(
            arguments, env=PYTHON_ENVIRONMENT, capture_output=True, text=True, timeout=60
        )
        after = state.read()
        assert after.serial in (serial, serial + 1)
        serial = after.serial
        for known in state.applies():
            assert state.read_apply(known).serial == known
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        kills += 1
    else:
        pytest.fail("the writer never came through")
    assert kills >= 12
    leftovers = [p.name for p in state.prepare().folder.iterdir() if p.name.startswith(".")]
    assert leftovers == []
