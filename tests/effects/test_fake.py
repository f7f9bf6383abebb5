"""The fake target keeps the rules of a real one, and its faults act where they are set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import enova
from enova.base.errors import ActionFailed, Refused, Unreachable
from enova.capacity.inventory import Claim
from enova.effects.clock import SystemClock
from enova.effects.drivers.base import Driver
from enova.effects.drivers.fake import FakeDriver, Faults, Foreign, Killed, World
from enova.effects.state.journal import Journal
from enova.effects.state.lease import Lease, this_process
from enova.effects.state.store import StateDir
from enova.stack.actions import (
    Drain,
    Join,
    Leave,
    RemoveStack,
    StartMonitor,
    StartReplica,
    StopGateway,
    StopMonitor,
    StopReplica,
    WaitServing,
)
from enova.stack.observed import Placement, State
from enova.stack.resources import MonitorResource
from tests.effects.graphs import GIB, action, gateway_starts, on_core, pool, template

ROOT = Path(enova.__file__).parents[1]


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(World(inventory=pool()))


def do(driver: FakeDriver, *actions: object) -> list[str]:
    said: list[str] = []
    for one in actions:
        driver.perform(action(0, one), said.append)  # type: ignore[arg-type]
    return said


def start(name: str, placement: Placement | None = None, **args: int) -> StartReplica:
    return StartReplica(name, template(**args), placement or on_core(0))


def state(driver: FakeDriver, name: str) -> State | None:
    found = driver.observe().instance(name)
    return found.state if found else None


def test_it_is_a_driver(driver: FakeDriver) -> None:
    taken: Driver = driver
    assert taken.inventory() == pool()


def test_a_replica_serves_only_after_it_was_waited_for(driver: FakeDriver) -> None:
    do(driver, start("a"))
    assert state(driver, "a") is State.STARTING
    with pytest.raises(ActionFailed, match="not answered a token"):
        do(driver, Join("chat", "a", 100))
    assert do(driver, WaitServing("a"), Join("chat", "a", 100)) == ["weights", "ready"]
    (member,) = driver.observe().members["chat"]
    assert (member.instance, member.weight, member.draining) == ("a", 100, False)
    assert member.endpoint == driver.observe().instances[0].endpoint
    do(driver, Drain("chat", "a", 1.0))
    assert driver.observe().members["chat"][0].draining
    do(driver, Leave("chat", "a"), StopReplica("a", 1.0))
    assert driver.observe().instances == ()
    assert driver.observe().members == {}
    assert driver.to_world()["stopped_while_joined"] == []


def test_everything_twice_is_harmless(driver: FakeDriver) -> None:
    steps = [start("a"), WaitServing("a"), Join("chat", "a", 5)]
    do(driver, *steps)
    before = driver.observe()
    do(driver, *steps)
    assert driver.observe() == before
    ends = [Drain("chat", "a", 1.0), Leave("chat", "a"), StopReplica("a", 1.0), RemoveStack()]
    do(driver, *ends)
    do(driver, *ends)
    assert driver.observe().instances == ()


def test_another_configuration_under_the_same_id_is_refused(driver: FakeDriver) -> None:
    do(driver, start("a"))
    with pytest.raises(ActionFailed, match="another configuration"):
        do(driver, start("a", seqs=2))


def test_an_exited_replica_can_be_started_again(driver: FakeDriver) -> None:
    do(driver, start("a"), WaitServing("a"))
    with driver.edit() as world:
        world.instances["a"].exit("killed by signal 9")
    seen = driver.observe().instances[0]
    assert (seen.state, seen.exit_reason) == (State.EXITED, "killed by signal 9")
    with pytest.raises(ActionFailed, match="killed by signal 9"):
        do(driver, WaitServing("a"))
    do(driver, start("a"), WaitServing("a"))
    assert state(driver, "a") is State.SERVING


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement("local", cores=(0,)), "core 0 of local is held by a"),
        (Placement("local", gpus=(0,)), "GPU 0 of local is held by somebody"),
        (Placement("local", gpus=(7,)), "has no GPU 7"),
        (Placement("local", cores=(64,)), "has no core 64"),
        (Placement("local", cores=(1,), memory_bytes=256 * GIB), "not enough memory"),
    ],
)
def test_devices_are_held_by_one_at_a_time(
    driver: FakeDriver, placement: Placement, words: str
) -> None:
    with driver.edit() as world:
        world.foreign.append(Foreign("somebody", Placement("local", gpus=(0,))))
    do(driver, start("a"))
    before = driver.to_world()
    with pytest.raises(ActionFailed, match=words):
        do(driver, start("b", placement))
    assert driver.to_world() == {**before, "count": 2}
    do(driver, StopReplica("a", 1.0), start("b", Placement("local", cores=(0,))))


def test_an_unknown_host_does_not_answer(driver: FakeDriver) -> None:
    with pytest.raises(Unreachable):
        do(driver, start("a", Placement("elsewhere")))


def test_a_foreign_program_is_counted_but_never_seen(driver: FakeDriver) -> None:
    with driver.edit() as world:
        world.foreign.append(Foreign("train", Placement("local", gpus=(1,), cores=(3, 4))))
    assert driver.observe() == FakeDriver(World(inventory=pool())).observe()
    assert driver.inventory().claims == (Claim("train", "local", (1,), cores=2),)
    do(driver, RemoveStack())
    assert driver.to_world()["foreign"] != []


def test_an_unreachable_host_is_told_and_not_touched(driver: FakeDriver) -> None:
    do(driver, start("a"), WaitServing("a"))
    with driver.edit() as world:
        world.faults.unreachable.add("local")
    assert state(driver, "a") is State.UNKNOWN
    assert driver.observe().unreachable_hosts == ("local",)
    with pytest.raises(Unreachable):
        do(driver, StopReplica("a", 1.0))
    with driver.edit() as world:
        world.faults.unreachable.clear()
    assert state(driver, "a") is State.SERVING


def test_a_refused_digest_exits_with_its_reason_and_log(driver: FakeDriver) -> None:
    with driver.edit() as world:
        world.faults.refuse[template(seqs=1).digest] = "no such flag"
    do(driver, start("bad", seqs=1))
    with pytest.raises(ActionFailed) as caught:
        do(driver, WaitServing("bad"))
    assert caught.value.reason == "no such flag"
    assert caught.value.log_tail[-1] == "no such flag"
    assert list(driver.logs("bad", tail=1, follow=False)) == ["no such flag"]
    assert state(driver, "bad") is State.EXITED


def test_faults_act_at_their_place(driver: FakeDriver) -> None:
    with driver.edit() as world:
        world.faults = Faults(fail_at={2}, kill_at=4, kill_after=True)
    do(driver, start("a"))
    with pytest.raises(ActionFailed, match="fault switch"):
        do(driver, WaitServing("a"))
    assert state(driver, "a") is State.STARTING
    do(driver, WaitServing("a"))
    with pytest.raises(Killed):
        do(driver, Join("chat", "a", 1))
    assert driver.observe().members["chat"][0].instance == "a"
    do(driver, Leave("chat", "a"))


def test_stopping_what_still_gets_requests_is_noted_as_harm(driver: FakeDriver) -> None:
    do(driver, start("a"), WaitServing("a"), Join("chat", "a", 1), StopReplica("a", 1.0))
    assert driver.to_world()["stopped_while_joined"] == ["a"]


def test_one_gateway_and_one_prometheus_run_side_by_side(driver: FakeDriver) -> None:
    driver.perform(gateway_starts(0, "gateway-a"), lambda phase: None)
    with pytest.raises(ActionFailed, match="gateway-a runs already"):
        driver.perform(gateway_starts(0, "gateway-b"), lambda phase: None)
    with pytest.raises(ActionFailed, match="still runs"):
        do(driver, RemoveStack())
    wanted = MonitorResource("prometheus")
    driver.perform(action(0, StartMonitor("prom", wanted), address="monitoring/prometheus"), print)
    assert [one.address for one in driver.observe().components] == [
        "gateway",
        "monitoring/prometheus",
    ]
    do(driver, StopGateway("gateway-a", 1.0), StopMonitor("prom"), RemoveStack())
    assert driver.observe().components == ()


def test_logs_of_nobody_are_refused(driver: FakeDriver) -> None:
    with pytest.raises(Refused):
        driver.logs("nobody", tail=1, follow=False)


def test_a_world_is_the_same_after_its_way_through_plain_data(driver: FakeDriver) -> None:
    do(driver, start("a"), WaitServing("a"), Join("chat", "a", 7), Drain("chat", "a", 1.0))
    driver.perform(gateway_starts(0), lambda phase: None)
    with driver.edit() as world:
        world.foreign.append(Foreign("train", Placement("local", gpus=(1,))))
        world.faults = Faults({3}, {"abc": "no"}, {"far"}, 9, True)
        world.instances["a"].tampered.append("--seqs is 3")
    again = FakeDriver.from_world(driver.to_world())
    assert again.to_world() == driver.to_world()
    assert again.observe() == driver.observe()


def test_a_short_world_is_filled_in() -> None:
    driver = FakeDriver.from_world(
        {
            "inventory": {"hosts": [{"name": "h", "devices": [], "cores": 4}]},
            "instances": [
                {
                    "id": "chat-0",
                    "address": "chat/replica/0",
                    "fields": dict(template().fields()),
                    "placement": {"host": "h", "cores": [0]},
                }
            ],
            "members": {"chat": [{"instance": "chat-0"}]},
        }
    )
    seen = driver.observe()
    assert seen.instances[0].digest == template().digest
    assert seen.instances[0].state is State.SERVING
    assert seen.members["chat"][0].endpoint == seen.instances[0].endpoint
    assert driver.from_world(driver.to_world()).observe() == seen


@pytest.mark.parametrize(
    "data", [{}, {"inventory": {}}, {"inventory": {"hosts": []}, "count": "x"}]
)
def test_what_is_no_world_is_told(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a"):
        FakeDriver.from_world(data)


def test_two_drivers_share_the_world_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "world.json"
    first = FakeDriver.at(file, inventory=pool())
    do(first, start("a"))
    second = FakeDriver.at(file)
    assert second.inventory() == pool()
    do(second, WaitServing("a"))
    assert state(first, "a") is State.SERVING


# --- an apply that is killed at every step ------------------------------------------------------

APPLY = """
import sys
from dataclasses import replace
from pathlib import Path
from enova.effects.clock import SystemClock
from enova.effects.drivers.fake import FakeDriver
from enova.effects.execute import StopFlag, execute
from enova.effects.state.journal import Journal
from enova.effects.state.lease import Lease, this_process
from enova.effects.state.store import StateDir
from tests.effects.graphs import comes, gateway_starts

clock = SystemClock()
state = StateDir(Path(sys.argv[1]), "chat")
driver = FakeDriver.at(Path(sys.argv[2]))
with Lease(state, clock=clock, holder=this_process("enova apply")).acquire(wait_s=10) as held:
    journal = Journal(state.journal_file, clock=clock)
    record = replace(state.read(), serial=state.read().serial + 1, applying=True)
    state.write(record, held)
    execute(
        [gateway_starts(0), *comes(1, 0), *comes(4, 1)],
        driver, clock=clock, emit=journal.note, stop=StopFlag(), permitted=held.check,
    )
    record = replace(record, applying=False, counts={"chat": 2})
    state.keep(record, held, at=clock.now())
    state.write(record, held)
"""


@pytest.mark.real
@pytest.mark.parametrize("after", [False, True])
def test_an_apply_killed_at_every_step_leaves_state_that_reads(tmp_path: Path, after: bool) -> None:
    state_dir = StateDir(tmp_path / "state", "chat").prepare()
    clock = SystemClock()
    for at in range(1, 9):
        file = tmp_path / f"world-{at}.json"
        driver = FakeDriver.at(file, inventory=pool())
        with driver.edit() as world:
            world.faults = Faults(kill_at=at, kill_after=after)
        ended = subprocess.run(
            [sys.executable, "-c", APPLY, str(state_dir.root), str(file)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        last = at == 8
        assert ended.returncode == (0 if last else -signal.SIGKILL), ended.stderr
        record = state_dir.read()
        assert (record.serial, record.applying) == (at, not last)
        assert state_dir.applies() == ((8,) if last else ())
        journal = Journal(state_dir.journal_file, clock=clock)
        assert journal.verify().broken == ()
        assert journal.tail(1)[0].kind in ("plan-ended" if last else "action-began", "action-done")
        mine = Lease(state_dir, clock=clock, holder=this_process("test"))
        assert mine.status().state == ("free" if last else "gone")
        with mine.acquire() as held:
            assert held.token == 2 * at
        # Nothing was started twice, and nothing is there that no action started.
        started = {one.id for one in FakeDriver.at(file).observe().instances}
        assert started <= {"chat-0", "chat-1"}
    assert started == {"chat-0", "chat-1"}
    assert replace(record, serial=0).counts == {"chat": 2}
