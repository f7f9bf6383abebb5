"""Execute walks the graph as written: order, preconditions, undo, stopping; and tells all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import enova
from enova.base.errors import ActionFailed, Bug, Refused, Unreachable
from enova.effects.clock import Clock, ManualClock, SystemClock
from enova.effects.drivers.base import Progress
from enova.effects.drivers.fake import FakeDriver, Killed, World
from enova.effects.execute import HEARTBEAT_S, Outcome, StopFlag, execute
from enova.stack import events
from enova.stack.actions import Action, Drain, Join, Leave, RemoveStack, StopReplica, WaitServing
from enova.stack.observed import Observed, State
from tests.effects.graphs import (
    action,
    comes,
    gateway_starts,
    goes,
    on_core,
    pool,
    template,
)


class Told(list[events.Event]):
    """Events, with questions one asks about them."""

    def of(self, kind: type[events.Event]) -> list[events.Event]:
        return [event for event in self if isinstance(event, kind)]

    def steps(self, kind: type[events.Event]) -> list[int]:
        return [event.action for event in self.of(kind)]  # type: ignore[union-attr]


class Intercepted:
    """A fake driver with a hook before each action: to look, to block, to raise."""

    def __init__(self, driver: FakeDriver, before: Callable[[Action, Progress], None]) -> None:
        self.driver = driver
        self.before = before
        self.observations = 0

    def inventory(self):
        return self.driver.inventory()

    def observe(self) -> Observed:
        self.observations += 1
        return self.driver.observe()

    def perform(self, action: Action, progress: Progress) -> None:
        self.before(action, progress)
        self.driver.perform(action, progress)

    def logs(self, instance: str, *, tail: int, follow: bool):
        return self.driver.logs(instance, tail=tail, follow=follow)


def world(**faults: object) -> FakeDriver:
    driver = FakeDriver(World(inventory=pool()))
    with driver.edit() as its:
        for name, value in faults.items():
            setattr(its.faults, name, value)
    return driver


def run(
    actions: list[Action],
    driver: FakeDriver | Intercepted,
    *,
    clock: Clock | None = None,
    stop: StopFlag | None = None,
    parallel: int = 4,
    permitted: Callable[[], None] = lambda: None,
) -> tuple[Outcome, Told]:
    told = Told()
    outcome = execute(
        actions,
        driver,
        clock=clock or SystemClock(),
        emit=told.append,
        stop=stop or StopFlag(),
        parallel=parallel,
        permitted=permitted,
    )
    assert isinstance(told[0], events.ExecutionStarted)
    assert isinstance(told[-1], events.ExecutionEnded)
    assert told[-1].result == outcome.result
    named = [*outcome.done, *(f.action for f in outcome.failures)]
    named += [identity for identity, _ in outcome.not_started]
    assert sorted(named) == sorted(action.id for action in actions)
    return outcome, told


def states(driver: FakeDriver) -> dict[str, State]:
    return {instance.id: instance.state for instance in driver.observe().instances}


def test_a_rollout_ends_serving_behind_the_gateway() -> None:
    driver = world()
    outcome, told = run([gateway_starts(0), *comes(1, 0), *comes(4, 1, after=(3,))], driver)
    assert outcome.result == "succeeded"
    assert outcome.done == (0, 1, 2, 3, 4, 5, 6)
    assert states(driver) == {"chat-0": State.SERVING, "chat-1": State.SERVING}
    assert [member.instance for member in driver.observe().members["chat"]] == ["chat-0", "chat-1"]
    assert {row.status for row in outcome.table(comes(1, 0))} == {"done"}
    phases = [event.phase for event in told.of(events.ActionProgress)]  # type: ignore[union-attr]
    assert phases == ["weights", "ready"] * 2


def test_nothing_to_do_is_a_success() -> None:
    outcome, told = run([], world())
    assert outcome.result == "succeeded"
    assert len(told) == 2


def test_a_refused_start_is_taken_back_and_the_old_one_stays() -> None:
    driver = world()
    run(comes(0, 0), driver)
    with driver.edit() as its:
        its.faults.refuse[template(seqs=1).digest] = "unrecognized arguments: --seqs"
    actions = [*comes(0, 1, seqs=1), *goes(3, 0, after=(2,)), *comes(6, 2, seqs=1, after=(2,))]
    outcome, told = run(actions, driver)
    assert outcome.result == "failed"
    assert states(driver) == {"chat-0": State.SERVING}
    assert [member.instance for member in driver.observe().members["chat"]] == ["chat-0"]
    (failure,) = outcome.failures
    assert (failure.action, failure.performed) == (1, True)
    assert "unrecognized" in failure.reason
    assert any("unrecognized" in line for line in failure.log_tail)
    assert outcome.undone == (0,)
    assert told.steps(events.ActionUndone) == [0]
    assert told.steps(events.ActionSkipped) == [2, 3, 4, 5, 6, 7, 8]
    table = [(row.action, row.status) for row in outcome.table(actions)]
    assert table[:4] == [(0, "undone"), (1, "failed"), (2, "not started"), (3, "not started")]


def test_another_service_goes_on_when_one_fails() -> None:
    driver = world(refuse={template("chat").digest: "out of memory"})
    actions = [*comes(0, 0), *comes(3, 1, after=(0,)), *comes(6, 0, service="mail")]
    outcome, _ = run(actions, driver, parallel=1)
    assert outcome.result == "failed"
    assert {6, 7, 8} <= set(outcome.done)
    assert states(driver)["mail-0"] is State.SERVING
    why = dict(outcome.not_started)
    assert why[2] == "chat/replica/0 failed (action 1)"


def test_what_comes_after_a_failure_in_another_service_does_not_start() -> None:
    driver = world(fail_at={1})
    outcome, _ = run([gateway_starts(0), *comes(1, 0, after=(0,))], driver)
    assert dict(outcome.not_started)[1] == "it comes after 0"
    assert states(driver) == {}


def test_undo_runs_latest_first_and_goes_on_when_a_step_fails() -> None:
    steps: list[str] = []

    def before(step: Action, _: Progress) -> None:
        steps.append(f"{step.id} {step.do.kind}")
        if step.cause.startswith("undo") and isinstance(step.do, Leave):
            raise OSError("the membership file is gone")

    actions = comes(0, 0)
    actions.append(
        action(3, Join("chat", "nobody", 1), group=actions[0].group, after=(2,), expects=None)
    )
    observed_later = Intercepted(world(), before)
    # The world moves right before the last step: it is refused, so only the others are undone.
    outcome, told = run(actions, observed_later)
    assert outcome.failures[0].performed is False
    assert steps == [
        "0 start-replica",
        "1 wait-serving",
        "2 join",
        "2 leave",
        "0 stop-replica",
    ]
    assert outcome.undo_failures == ((2, "leave: the membership file is gone"),)
    undone = [(e.action, bool(e.failure)) for e in told.of(events.ActionUndone)]  # type: ignore[union-attr]
    assert undone == [(2, True), (0, False)]
    assert states(observed_later.driver) == {}


def test_an_undo_step_has_time_for_its_own_grace() -> None:
    seen: list[Action] = []
    driver = Intercepted(world(fail_at={1}), lambda step, _: seen.append(step))
    patient = replace(
        comes(0, 0)[0], timeout_s=5.0, undo=(StopReplica("chat-0", 200.0), Drain("chat", "x", 90.0))
    )
    run([patient], driver)
    assert [step.timeout_s for step in seen] == [5.0, 230.0, 120.0]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (replace(comes(0, 0)[0]), "exists already"),
        (action(0, WaitServing("chat-9")), "not there any more"),
        (action(0, StopReplica("chat-9", 1.0)), "not there any more"),
        (action(0, Drain("chat", "chat-9", 1.0)), "not there any more"),
        (action(0, Leave("chat", "chat-9"), expects="abc"), "not there any more"),
        (action(0, StopReplica("chat-0", 1.0), expects="abc"), "not the one that was planned"),
        (action(0, RemoveStack(), address="stack"), "chat-0 still there"),
    ],
)
def test_a_moved_world_refuses_the_action_and_undoes_nothing(step: Action, words: str) -> None:
    driver = world()
    run(comes(0, 0), driver)
    before = driver.to_world()
    outcome, _ = run([replace(step, undo=(StopReplica("chat-0", 1.0),))], driver)
    assert driver.to_world() == before
    assert isinstance(outcome.failures[0].error, Refused)
    assert words in outcome.failures[0].reason
    assert outcome.failures[0].performed is False
    assert outcome.undone == ()


def test_a_replica_that_died_meanwhile_does_not_join() -> None:
    driver = world()
    run(comes(0, 0)[:2], driver)
    with driver.edit() as its:
        its.instances["chat-0"].exit("killed by signal 9")
    outcome, _ = run([replace(comes(0, 0)[2], after=())], driver)
    assert "killed by signal 9" in outcome.failures[0].reason


def test_leaving_twice_is_harmless() -> None:
    assert run([action(0, Leave("chat", "ghost"))], world())[0].result == "succeeded"


def test_foreign_exceptions_become_ours_with_their_cause() -> None:
    def before(step: Action, _: Progress) -> None:
        raise KeyError("port")

    outcome, _ = run(comes(0, 0), Intercepted(world(), before))
    error = outcome.failures[0].error
    assert isinstance(error, ActionFailed)
    assert isinstance(error.__cause__, KeyError)
    assert outcome.failures[0].reason == "KeyError: 'port'"


def test_one_of_the_six_is_passed_on_as_it_is() -> None:
    outcome, _ = run(comes(0, 0), world(unreachable={"local"}))
    assert isinstance(outcome.failures[0].error, Unreachable)


def test_a_blind_driver_fails_what_was_ready() -> None:
    class Blind(Intercepted):
        def observe(self) -> Observed:
            raise Unreachable("no answer")

    outcome, _ = run(comes(0, 0), Blind(world(), lambda step, progress: None))
    assert [f.action for f in outcome.failures] == [0]
    assert outcome.failures[0].performed is False


def test_it_looks_at_the_world_once_a_round() -> None:
    driver = Intercepted(world(), lambda step, progress: None)
    everything = [one for slot in range(4) for one in comes(3 * slot, slot)]
    gate = threading.Barrier(4)
    starts = [one for one in everything if one.id % 3 == 0]
    driver.before = lambda step, progress: gate.wait(30.0) and None
    run(starts, driver, parallel=4)
    assert driver.observations == 1


def test_the_first_stop_lets_running_actions_end_and_undoes_nothing() -> None:
    stop = StopFlag()

    def before(step: Action, _: Progress) -> None:
        if step.id == 1:
            stop.request()

    driver = world()
    outcome, _ = run(comes(0, 0), Intercepted(driver, before), stop=stop)
    assert outcome.result == "interrupted"
    assert outcome.done == (0, 1)
    assert outcome.not_started == ((2, "interrupted"),)
    assert states(driver) == {"chat-0": State.SERVING}


def test_a_failure_while_stopping_is_not_undone() -> None:
    stop = StopFlag()
    driver = world(refuse={template().digest: "no"})
    before = Intercepted(driver, lambda step, _: stop.request() if step.id == 1 else None)
    outcome, _ = run(comes(0, 0), before, stop=stop)
    assert outcome.result == "interrupted"
    assert outcome.undone == ()
    assert states(driver) == {"chat-0": State.EXITED}


def test_the_second_stop_waits_for_nothing() -> None:
    stop, entered, release = StopFlag(), threading.Event(), threading.Event()

    def before(step: Action, _: Progress) -> None:
        entered.set()
        release.wait(60.0)

    def interrupt() -> None:
        entered.wait(60.0)
        stop.request()
        stop.request()

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        outcome, _ = run(comes(0, 0), Intercepted(world(), before), stop=stop)
    finally:
        release.set()
        interrupter.join()
    assert outcome.result == "interrupted"
    assert [f.action for f in outcome.failures] == [0]
    assert "interrupted" in outcome.failures[0].reason


INTERRUPTED = """
import signal, sys, threading
from enova.effects.clock import SystemClock
from enova.effects.drivers.fake import FakeDriver, World
from enova.effects.execute import StopFlag, execute
from tests.effects.graphs import comes, pool

release = threading.Event()

class Slow(FakeDriver):
    def perform(self, action, progress):
        if action.id == 1:
            print("waiting", flush=True)
            release.wait(60.0)
        super().perform(action, progress)

def asked(number, frame):
    stop.request()
    print("asked", flush=True)
    if sys.argv[1] == "1":
        release.set()

stop = StopFlag()
signal.signal(signal.SIGINT, asked)
outcome = execute(
    comes(0, 0), Slow(World(inventory=pool())),
    clock=SystemClock(), emit=lambda event: None, stop=stop,
)
print(outcome.result, *outcome.done, flush=True)
"""


@pytest.mark.real
@pytest.mark.parametrize(("times", "done"), [(1, "0 1"), (2, "0")])
def test_the_main_thread_takes_interrupts_while_it_waits(times: int, done: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(times)],
        env={**os.environ, "PYTHONPATH": str(Path(enova.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "asked\n"
        assert process.stdout.read() == f"interrupted {done}\n"
    finally:
        process.kill()
        process.communicate()


def test_a_stop_after_everything_is_still_a_success() -> None:
    stop = StopFlag()
    driver = Intercepted(world(), lambda step, _: stop.request() if step.id == 2 else None)
    assert run(comes(0, 0), driver, stop=stop)[0].result == "succeeded"


def test_without_permission_nothing_more_starts() -> None:
    allowed = [True, True, False]

    def permitted() -> None:
        if not allowed.pop(0):
            allowed.append(False)
            raise Refused("lease 3 was lost")

    driver = world()
    outcome, _ = run(comes(0, 0), driver, permitted=permitted)
    assert outcome.result == "interrupted"
    assert outcome.done == (0, 1)
    assert outcome.not_started == ((2, "lease 3 was lost"),)
    assert states(driver) == {"chat-0": State.SERVING}


def test_a_crash_of_the_driver_comes_out_in_the_callers_thread() -> None:
    with pytest.raises(Killed):
        run(comes(0, 0), world(kill_at=2))


def test_a_silent_action_is_reported_as_running() -> None:
    clock, release = ManualClock(), threading.Event()
    told = Told()

    def before(step: Action, progress: Progress) -> None:
        progress("weights")
        assert release.wait(60.0)

    def emit(event: events.Event) -> None:
        told.append(event)
        if len([e for e in told.of(events.ActionProgress) if e.heartbeat]) == 2:  # type: ignore[union-attr]
            release.set()

    def move() -> None:
        while not release.is_set():
            if clock.waiting():
                clock.advance(HEARTBEAT_S / 2)

    mover = threading.Thread(target=move)
    mover.start()
    driver = Intercepted(world(), before)
    execute(comes(0, 0)[:1], driver, clock=clock, emit=emit, stop=StopFlag())
    mover.join()
    said = [event for event in told if isinstance(event, events.ActionProgress)]
    assert (said[0].phase, said[0].heartbeat) == ("weights", False)
    beats = [event for event in said if event.heartbeat]
    assert len(beats) >= 2
    assert beats[0].phase == "weights"
    assert beats[1].running_s - beats[0].running_s >= HEARTBEAT_S


@pytest.mark.parametrize(
    "actions",
    [
        [action(0, RemoveStack()), action(0, RemoveStack())],
        [action(0, RemoveStack(), after=(7,))],
        [action(0, RemoveStack(), after=(0,))],
        [action(0, RemoveStack(), after=(1,)), action(1, RemoveStack(), after=(0,))],
    ],
)
def test_what_is_no_graph_is_a_bug(actions: list[Action]) -> None:
    with pytest.raises(Bug):
        run(actions, world())


# --- any graph --------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Action], set[int], int]:
    """Actions with random order, services and groups; those that fail; how many at a time."""
    count = draw(st.integers(1, 14))
    actions = []
    for number in range(count):
        earlier = st.integers(0, number - 1) if number else st.nothing()
        after = draw(st.sets(earlier, max_size=3)) if number else set()
        service = draw(st.sampled_from(["a", "b"]))
        group = f"{service} {draw(st.integers(0, 2))}"
        name = f"{service}-{number}"
        # A Leave needs nothing to be there, so that order is decided by ``after`` alone.
        actions.append(
            action(
                number,
                Leave(service, name),
                address=f"{service}/replica/{number}",
                group=group,
                after=tuple(sorted(after)),
                undo=(Leave(service, f"undo-{name}"),),
            )
        )
    failing = draw(st.sets(st.integers(0, count - 1), max_size=2))
    return actions, failing, draw(st.integers(1, 5))


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_any_graph_is_walked_in_order_at_most_once_and_undone_by_group(
    case: tuple[list[Action], set[int], int],
) -> None:
    actions, failing, parallel = case
    by_id = {one.id: one for one in actions}
    guard = threading.Lock()
    log: list[tuple[str, int]] = []
    running, most = 0, 0

    def before(step: Action, _: Progress) -> None:
        nonlocal running, most
        undo = step.cause.startswith("undo")
        with guard:
            log.append(("undo" if undo else "run", step.id))
            running += not undo
            most = max(most, running)
        with guard:
            running -= not undo
            if not undo:
                log.append(("end", step.id))
        if not undo and step.id in failing:
            raise ActionFailed(step.address, step.do.kind, "asked to fail")

    outcome, told = run(actions, Intercepted(world(), before), parallel=parallel)

    started = [identity for what, identity in log if what == "run"]
    assert len(started) == len(set(started))
    assert most <= parallel
    for identity in started:
        for earlier in by_id[identity].after:
            assert log.index(("end", earlier)) < log.index(("run", identity))
            assert earlier not in failing
    failed = {failure.action for failure in outcome.failures}
    assert failed == failing & set(started)
    groups = {by_id[identity].group for identity in failed}
    expected_undo = [identity for identity in started if by_id[identity].group in groups]
    undone = [identity for what, identity in log if what == "undo"]
    assert sorted(undone) == sorted(expected_undo)
    assert sorted(outcome.undone) == sorted(expected_undo)
    for identity in undone:
        for earlier in by_id[identity].after:
            if earlier in undone and by_id[earlier].group == by_id[identity].group:
                assert undone.index(identity) < undone.index(earlier)
    assert outcome.result == ("failed" if failed else "succeeded")
    if not failing:
        assert outcome.done == tuple(sorted(by_id))
    for identity, _ in outcome.not_started:
        service = by_id[identity].address.split("/")[0]
        blocked = any(by_id[one].address.split("/")[0] == service for one in failed)
        blocked |= any(before not in outcome.done for before in by_id[identity].after)
        blocked |= any(by_id[before].group in groups for before in by_id[identity].after)
        assert blocked
    assert told.steps(events.ActionStarted) != [] or not started


def converged(driver: FakeDriver) -> bool:
    members = driver.observe().members.get("chat", ())
    return states(driver) == {"chat-1": State.SERVING} and [m.instance for m in members] == [
        "chat-1"
    ]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 7))
def test_killed_at_any_step_a_rollout_is_brought_to_its_end(at: int, after: bool) -> None:
    driver = world()
    run(comes(0, 0), driver)
    rollout = [*comes(0, 1, seqs=1), *goes(3, 0, after=(2,))]
    with driver.edit() as its:
        its.faults.kill_at = its.count + at
        its.faults.kill_after = after
    with pytest.raises(Killed):
        run(rollout, driver)
    # What the next plan does in short: leave out what the world shows to be done already.
    observed = driver.observe()
    joined = {member.instance for member in observed.members.get("chat", ())}
    rest = []
    for one in rollout:
        do = one.do
        present = observed.instance(do.instance) is not None  # type: ignore[union-attr]
        done = {
            "start-replica": present,
            "wait-serving": False,
            "join": getattr(do, "instance", "") in joined,
        }.get(do.kind, not present)
        if not done:
            rest.append(one)
    kept = {one.id for one in rest}
    rest = [replace(one, after=tuple(i for i in one.after if i in kept)) for one in rest]
    outcome, _ = run(rest, driver)
    assert outcome.result == "succeeded"
    assert converged(driver)
    assert driver.to_world()["stopped_while_joined"] == []


def test_placement_and_template_helpers_agree_with_the_driver() -> None:
    driver = world()
    run(comes(0, 5), driver)
    (instance,) = driver.observe().instances
    assert instance.placement == on_core(5)
    assert instance.digest == template().digest
