"""One writer: who holds the lease, who may take it over, and that a late holder writes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import enova
from enova.base.errors import Refused
from enova.effects.clock import ManualClock, SystemClock
from enova.effects.state.lease import Held, Holder, Lease, command_words, this_process
from enova.effects.state.store import StateDir
from enova.stack.record import Record

PYTHON_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(enova.__file__).parents[1])}
ELSEWHERE = Holder("ada", "other-host", 77, "123", "enova reconcile", boot="b", namespace="n")


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path / "state", "chat").prepare()


def lease(state: StateDir, clock: ManualClock, holder: Holder | None = None) -> Lease:
    # Renewing is out of the way unless a test moves the time that far.
    return Lease(state, clock=clock, holder=holder or this_process("enova apply"), renew_s=1e9)


def stop_keeping(held: Held) -> None:
    """End the renewing thread without releasing, as a process that dies or stalls would."""
    held._ended.put(True)
    held._thread.join()


def test_a_free_lease_is_taken_and_given_back(state: StateDir) -> None:
    mine = lease(state, ManualClock())
    assert mine.status().state == "free"
    with mine.acquire() as held:
        status = mine.status()
        assert (status.state, status.token) == ("held", held.token)
        assert status.holder == this_process("enova apply")
        assert status.expires_at == status.renewed_at + 15.0
        held.check()
    assert mine.status().state == "free"
    with pytest.raises(Refused, match="lost"):
        held.check()


def test_the_token_grows_also_when_the_lease_file_was_lost(state: StateDir) -> None:
    mine = lease(state, ManualClock())
    with mine.acquire() as held:
        assert held.token == 1
        state.write(Record(stack="chat", serial=1), held)
    with mine.acquire() as held:
        assert held.token == 2
        state.write(Record(stack="chat", serial=2), held)
    (state.folder / "lease.json").write_text("torn")
    with mine.acquire() as held:
        assert held.token == 3


def test_a_live_holder_is_named_and_not_disturbed(state: StateDir) -> None:
    clock = ManualClock(automatic=True)
    waiting = lease(state, clock)
    with lease(state, ManualClock()).acquire() as held:
        with pytest.raises(Refused) as caught:
            waiting.acquire(wait_s=10.0)
        words = str(caught.value)
        assert f"pid {os.getpid()}, enova apply" in words
        assert "chat" in words and "since" in words and "--wait" in words
        held.check()


def test_a_holder_that_does_not_renew_is_replaced_and_fenced(state: StateDir) -> None:
    clock = ManualClock()
    paused = lease(state, clock).acquire()
    stop_keeping(paused)
    state.write(Record(stack="chat", serial=1), paused)
    clock.advance(14.0)
    with pytest.raises(Refused):
        lease(state, clock).acquire()
    clock.advance(2.0)
    assert lease(state, clock).status().state == "expired"
    with lease(state, clock).acquire() as next_holder:
        assert next_holder.token == paused.token + 1
        with pytest.raises(Refused, match="was lost"):
            state.write(Record(stack="chat", serial=2), paused)
        with pytest.raises(Refused, match="was lost"):
            paused.renew()
        state.write(Record(stack="chat", serial=2, applying=True), next_holder)
        paused.release()
        next_holder.check()
    assert state.read() == Record(stack="chat", serial=2, applying=True)


def test_a_lease_that_ran_out_but_nobody_took_still_writes(state: StateDir) -> None:
    clock = ManualClock()
    held = lease(state, clock).acquire()
    stop_keeping(held)
    clock.advance(3600.0)
    state.write(Record(stack="chat", serial=1), held)
    assert state.read().serial == 1


def test_the_holder_sees_that_somebody_waits_as_long_as_they_do(state: StateDir) -> None:
    clock = ManualClock()
    with lease(state, clock).acquire() as held:
        assert not held.wanted
        with pytest.raises(Refused):
            lease(state, clock).acquire()
        assert not held.wanted, "who does not wait is no reason to hurry"
        refused: list[Refused] = []

        def wait() -> None:
            with pytest.raises(Refused) as caught:
                lease(state, clock).acquire(wait_s=10.0)
            refused.append(caught.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: held.wanted)
        assert not refused
        until(lambda: clock.waiting() == 2)
        clock.advance(10.0)
        waiting.join(30)
        assert refused
        assert not held.wanted


def test_renewing_keeps_it_and_losing_it_is_told(state: StateDir) -> None:
    clock = ManualClock()
    mine = Lease(state, clock=clock, holder=this_process("enova apply"))
    told: list[str] = []
    lost = threading.Event()
    with mine.acquire() as held:
        held.on_loss(lambda: (told.append("lost"), lost.set())[0])
        for _ in range(6):
            until(lambda: clock.waiting() == 1)
            before = mine.status().renewed_at
            clock.advance(5.0)
            until(lambda seen=before: mine.status().renewed_at > seen)
        assert mine.status().state == "held"
        mine.release(held.token, force=True)
        until(lambda: clock.waiting() == 1)
        clock.advance(5.0)
        assert lost.wait(30.0)
        assert held.lost
        with pytest.raises(Refused):
            held.check()
    assert told == ["lost"]


def test_a_holder_on_another_host_is_judged_by_watching_not_by_its_clock(state: StateDir) -> None:
    far = ManualClock(start=5_000_000.0)
    with lease(state, far, ELSEWHERE).acquire() as held:
        clock = ManualClock(start=10.0)
        mine = lease(state, clock)
        for _ in range(5):
            with pytest.raises(Refused, match="ada@other-host"):
                mine.acquire()
            clock.advance(10.0)
            held.renew()
            far.advance(1.0)
        with pytest.raises(Refused):
            mine.acquire()
        clock.advance(14.0)
        with pytest.raises(Refused):
            mine.acquire()
        clock.advance(2.0)
        with mine.acquire(), pytest.raises(Refused):
            held.check()


def test_waiting_takes_over_from_a_silent_holder_elsewhere(state: StateDir) -> None:
    held = lease(state, ManualClock(), ELSEWHERE).acquire()
    stop_keeping(held)
    with lease(state, ManualClock(automatic=True)).acquire(wait_s=30.0) as mine:
        assert mine.token == held.token + 1


@pytest.mark.parametrize("change", ["started", "boot", "pid"])
def test_a_process_that_ended_is_no_holder(state: StateDir, change: str) -> None:
    me = this_process("enova apply")
    gone = {
        "started": replace(me, started="1"),
        "boot": replace(me, boot="another"),
        "pid": replace(me, pid=2**22 + 1),
    }[change]
    clock = ManualClock()
    stop_keeping(lease(state, clock, gone).acquire())
    mine = lease(state, clock)
    assert mine.status().state == "gone"
    with mine.acquire() as held:
        assert held.token == 2


def test_release_needs_the_token_and_force_for_a_live_holder(state: StateDir) -> None:
    mine = lease(state, ManualClock())
    mine.release(5)
    with mine.acquire() as held:
        with pytest.raises(Refused, match="is not the one"):
            mine.release(held.token + 1, force=True)
        with pytest.raises(Refused, match=f"lease release {held.token} --force"):
            mine.release(held.token)
        held.check()
        mine.release(held.token, force=True)
        with pytest.raises(Refused):
            held.check()


def test_clear_removes_a_free_lease_only(state: StateDir) -> None:
    mine = lease(state, ManualClock())
    with mine.acquire():
        mine.clear()
        assert mine.status().state == "held"
    mine.clear()
    assert list(state.folder.iterdir()) == []
    with mine.acquire() as held:
        held.check()


def test_a_command_line_is_shown_without_its_arguments() -> None:
    assert command_words(["/usr/bin/enova", "apply", "--token", "x"]) == "enova apply"
    assert command_words(["enova", "--version"]) == "enova"
    assert command_words([]) == "enova"


# --- real processes ---------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from enova.effects.clock import SystemClock
from enova.effects.state.lease import Lease, this_process
from enova.effects.state.store import StateDir
from enova.stack.record import Record
from enova.base.errors import Refused

state = StateDir(Path(sys.argv[1]), "chat")
mine = Lease(state, clock=SystemClock(), holder=this_process("enova apply"), ttl_s=1.0, renew_s=0.2)
with mine.acquire(wait_s=5) as held:
    print("held", held.token, flush=True)
    sys.stdin.readline()
    try:
        state.write(Record(stack="chat", serial=99), held)
        print("written", flush=True)
    except Refused as error:
        print("refused", error, flush=True)
"""

CONTENDER = """
import sys
from dataclasses import replace
from pathlib import Path
from enova.effects.clock import SystemClock
from enova.effects.state.lease import Lease, this_process
from enova.effects.state.store import StateDir

state = StateDir(Path(sys.argv[1]), "chat")
mine = Lease(state, clock=SystemClock(), holder=this_process("enova apply"))
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    with mine.acquire(wait_s=120) as held:
        record = state.read()
        counts = {**record.counts, sys.argv[3]: record.counts.get(sys.argv[3], 0) + 1}
        state.write(replace(record, serial=record.serial + 1, counts=counts), held)
        print(held.token, record.serial + 1, flush=True)
"""


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        env=PYTHON_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.005)


@pytest.fixture
def holder(state: StateDir) -> subprocess.Popen[str]:
    process = python(HOLDER, str(state.root))
    try:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["held", "1"]
        yield process
    finally:
        process.kill()
        process.communicate()


def real_lease(state: StateDir) -> Lease:
    return Lease(state, clock=SystemClock(), holder=this_process("enova apply"), ttl_s=1.0)


@pytest.mark.real
def test_a_killed_holder_is_replaced_at_once(
    state: StateDir, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(Refused, match=f"pid {holder.pid}"):
        real_lease(state).acquire()
    holder.kill()
    holder.wait()
    with real_lease(state).acquire() as held:
        assert held.token == 2


@pytest.mark.real
def test_a_paused_holder_wakes_up_fenced(state: StateDir, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGSTOP)
    with real_lease(state).acquire(wait_s=30.0) as held:
        assert held.token == 2
        state.write(Record(stack="chat", serial=1), held)
        holder.send_signal(signal.SIGCONT)
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        answer = holder.stdout.readline()
        assert answer.startswith("refused")
        assert "lease 2" in answer
        held.check()
    assert state.read().serial == 1


@pytest.mark.real
def test_sixteen_processes_lose_no_update(state: StateDir) -> None:
    rounds, names = 3, [f"p{number}" for number in range(16)]
    processes = [python(CONTENDER, str(state.root), str(rounds), name) for name in names]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    pairs = [tuple(map(int, line.split())) for text in outputs for line in text.splitlines()]
    total = rounds * len(names)
    assert sorted(pairs) == [(number, number) for number in range(1, total + 1)]
    assert state.read().serial == total
    assert state.read().counts == dict.fromkeys(names, rounds)
    assert json.loads((state.folder / "lease.json").read_text())["token"] == total
