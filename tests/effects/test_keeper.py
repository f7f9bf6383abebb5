"""Who keeps a stack: noted, read back, taken away by the one who wrote it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from enova.effects.state.files import remove_leftovers
from enova.effects.state.keeper import Keeper, leave, read_keeper, write_keeper
from enova.effects.state.lease import Holder
from enova.effects.state.store import StateDir

HOLDER = Holder("enova", "reconciler-ab12cd", 7, "", "enova reconcile")
KEEPER = Keeper(HOLDER, at=1000.0, interval_s=5.0)


def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state", "chat").prepare()


def test_a_note_is_read_back(tmp_path: Path) -> None:
    here = state(tmp_path)
    assert read_keeper(here) is None
    noted = replace(KEEPER, problem="the engine does not answer")
    write_keeper(here, noted)
    assert read_keeper(here) == noted


def test_a_damaged_note_is_none(tmp_path: Path) -> None:
    here = state(tmp_path)
    for text in ("", "[]", "{}", '{"at": "soon"}'):
        here.keeper_file.write_text(text)
        assert read_keeper(here) is None


def test_only_the_one_who_wrote_it_takes_it_away(tmp_path: Path) -> None:
    here = state(tmp_path)
    write_keeper(here, KEEPER)
    leave(here, replace(HOLDER, pid=8))
    leave(here, replace(HOLDER, host="laptop"))
    assert read_keeper(here) == KEEPER
    leave(here, HOLDER)
    assert read_keeper(here) is None
    leave(here, HOLDER)


def test_silence_is_more_than_a_missed_look() -> None:
    assert not KEEPER.is_silent(1059.0)
    assert KEEPER.is_silent(1061.0)
    slow = replace(KEEPER, interval_s=600.0)
    assert not slow.is_silent(1000.0 + 1700)
    assert slow.is_silent(1000.0 + 1900)


def test_what_a_writer_in_a_container_is_writing_stays(tmp_path: Path) -> None:
    mine = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    gone = 2**22 + 1  # above any process id
    ended = tmp_path / f".record.json.{gone}@{mine}.aa"
    elsewhere = tmp_path / f".record.json.{gone}@1.bb"
    long_ago = tmp_path / f".record.json.{gone}@1.cc"
    alive = tmp_path / f".record.json.{os.getpid()}@{mine}.dd"
    for path in (ended, elsewhere, long_ago, alive):
        path.touch()
    os.utime(long_ago, (0, time.time() - 3600))
    remove_leftovers(tmp_path)
    assert [path.exists() for path in (ended, elsewhere, long_ago, alive)] == [
        False,
        True,
        False,
        True,
    ]
