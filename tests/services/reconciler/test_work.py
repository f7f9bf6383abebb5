"""What takes long goes on beside the loop, and nothing that is under way is touched by another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from enova.effects.drivers.base import Progress
from enova.effects.drivers.fake import FakeDriver, World
from enova.effects.state.files import anyone_queued
from enova.effects.state.journal import Kind
from enova.effects.stop import StopFlag
from enova.services.reconciler import loop
from enova.services.reconciler.memory import read_memory
from enova.stack.actions import Action
from enova.stack.observed import State
from tests.workflows.rehearsal import CHAT, EMBED, Rehearsal, hosts

MANY = 10_000.0
"""Requests/s that need as many replicas as the spec allows: six of chat."""


class Slow(FakeDriver):
    """The fake target with steps that take until they are let go, by kind and address."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.slow: set[tuple[str, str]] = set()
        self.reached: set[tuple[str, str]] = set()
        self.met: list[str] = []
        """Addresses at which steps of two groups ran at once: harm."""
        self._runs: list[tuple[str, str]] = []
        self._go = threading.Condition()

    def perform(self, action: Action, progress: Progress) -> None:
        step = (action.do.kind, action.address)
        mine = (action.address, action.group)
        ghost = action.group.endswith(" leaves")  # takes a dead member out beside anything else
        with self._go:
            if not ghost and any(a == mine[0] and g != mine[1] for a, g in self._runs):
                self.met.append(action.address)
            self._runs += [] if ghost else [mine]
        try:
            if action.do.kind == "drain":
                super().perform(action, progress)  # sends nothing new, then waits
            with self._go:
                if step in self.slow:
                    self.reached.add(step)
                assert self._go.wait_for(lambda: step not in self.slow, timeout=60)
            if action.do.kind != "drain":
                super().perform(action, progress)
        finally:
            with self._go:
                self._runs = [other for other in self._runs if other is not mine]

    def let_go(self, *steps: tuple[str, str]) -> None:
        with self._go:
            self.slow.difference_update(steps or set(self.slow))
            self._go.notify_all()


@dataclass
class Shop:
    """Two services on a target that can be slow, and a reconciler that looks without a pause."""

    web: Rehearsal
    driver: Slow
    reports: list[loop.Report] = field(default_factory=list)
    stop: StopFlag = field(default_factory=StopFlag)

    @contextmanager
    def reconciling(self) -> Iterator[threading.Thread]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield thread
        finally:
            self.driver.let_go()
            if not self.stop.requested:
                self.stop.request()
            thread.join(60)
            assert not thread.is_alive()

    def _run(self) -> None:
        parts = loop.Parts(self.web.signals, lambda _: None, self.reports.append, lambda: None)
        loop.run(self.web.here(), parts, stop=self.stop, interval_s=0.0)

    def kill(self, address: str) -> None:
        with self.driver.edit() as world:
            for instance in world.instances.values():
                if instance.address == address:
                    instance.exit("killed by signal 9")

    def looks(self, more: int = 2) -> None:
        """Wait for whole looks from now on."""
        before = len(self.reports)
        until(lambda: len(self.reports) > before + more)

    def running(self) -> set[str]:
        return {i.address for i in self.driver.observe().instances if i.state is not State.EXITED}


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "not within 30 s"
        time.sleep(0.002)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Six chat replicas, which is as many as its load needs, and one of embed."""
    web = Rehearsal(tmp_path, hosts(10))
    driver = Slow(World(inventory=hosts(10)))
    web.driver = driver
    web.signals.rates = {"chat": MANY, "embed": 0.1}
    web.apply(CHAT + EMBED)
    web.tick()
    assert len(web.serving()) == 6
    return Shop(web, driver)


def drains(shop: Shop) -> None:
    """Less load comes, four of six are too many, and the last one has a request without end."""
    shop.driver.slow.add(("drain", "chat/replica/5"))
    shop.web.signals.rates["chat"] = 0.1
    until(lambda: ("drain", "chat/replica/5") in shop.driver.reached)


@pytest.mark.parametrize("victim", ["chat/replica/0", "embed/replica/0"])
def test_who_dies_while_another_drains_is_replaced_at_once(shop: Shop, victim: str) -> None:
    with shop.reconciling():
        drains(shop)
        service = victim.split("/")[0]
        shop.kill(victim)
        until(lambda: victim not in shop.web.serving(service))
        until(lambda: victim in shop.web.serving(service))
        assert "chat/replica/5" in shop.running(), "it still drains"
        assert shop.web.here().lease("test").status().state == "held"
        assert shop.web.state.read().applying
        shop.driver.let_go()
        until(lambda: shop.web.here().lease("test").status().state == "free")
    assert shop.running() == {"chat/replica/0", "chat/replica/1", "embed/replica/0"}
    assert shop.web.state.read().counts == {"chat": 2, "embed": 1}
    assert not shop.web.state.read().applying
    assert shop.driver.met == []


def test_who_dies_while_others_start_is_replaced_at_once(shop: Shop) -> None:
    shop.driver.slow.add(("wait-serving", "chat/replica/3"))
    shop.kill("chat/replica/3")
    with shop.reconciling():
        until(lambda: ("wait-serving", "chat/replica/3") in shop.driver.reached)
        shop.kill("chat/replica/1")
        until(lambda: "chat/replica/1" not in shop.web.serving())
        until(lambda: "chat/replica/1" in shop.web.serving())
        assert "chat/replica/3" not in shop.web.serving()


def test_who_serves_already_does_not_wait_for_those_it_was_ordered_with(shop: Shop) -> None:
    with shop.reconciling():
        shop.web.signals.rates["chat"] = 0.1
        until(lambda: len(shop.running()) == 3)
        shop.driver.slow.add(("wait-serving", "chat/replica/3"))
        shop.web.signals.rates["chat"] = MANY
        until(lambda: ("wait-serving", "chat/replica/3") in shop.driver.reached)
        assert shop.web.state.read().counts["chat"] == 6, "noted as it was ordered"
        shop.kill("chat/replica/2")
        until(lambda: "chat/replica/2" not in shop.web.serving())
        until(lambda: "chat/replica/2" in shop.web.serving())
        assert "chat/replica/3" not in shop.web.serving()


def test_nothing_is_taken_away_while_others_are_on_their_way(shop: Shop) -> None:
    shop.driver.slow.add(("wait-serving", "chat/replica/3"))
    shop.kill("chat/replica/3")
    with shop.reconciling():
        until(lambda: ("wait-serving", "chat/replica/3") in shop.driver.reached)
        shop.web.signals.rates["chat"] = 0.1
        shop.looks()
        assert len(shop.web.serving()) == 5
        decision = shop.reports[-1].decisions["chat"]
        assert (decision.replicas, "until those on their way serve" in decision.reason) == (6, True)
        shop.driver.let_go()
        until(lambda: len(shop.running()) == 3)


def test_whoever_waits_to_apply_gets_the_next_turn(shop: Shop) -> None:
    turn = threading.Event()
    done = threading.Event()

    def apply() -> None:
        with shop.web.here().lease("enova apply").acquire(wait_s=60):
            turn.set()
            assert done.wait(60)

    applying = threading.Thread(target=apply)
    with shop.reconciling():
        drains(shop)
        applying.start()
        until(lambda: _waits(shop))
        shop.kill("chat/replica/0")
        until(lambda: "waits to apply" in shop.reports[-1].problem)
        shop.looks()
        assert "chat/replica/0" not in shop.web.serving()
        shop.driver.let_go()
        assert turn.wait(30)
        done.set()
        until(lambda: len(shop.web.serving()) == 2)
    applying.join(30)


def _waits(shop: Shop) -> bool:
    """Seen from outside: the queue's lock is taken."""
    return anyone_queued(shop.web.state.folder / "lease.queue")


def test_asked_to_stop_it_ends_the_steps_that_run(shop: Shop) -> None:
    with shop.reconciling() as running:
        drains(shop)
        shop.stop.request()
        shop.driver.let_go()
        running.join(30)
        assert not running.is_alive()
        assert shop.reports[-1].result == "interrupted"
        assert "chat/replica/5" in shop.running(), "it was drained and not stopped"
    assert shop.web.here().lease("test").status().state == "free"
    assert not shop.web.state.read().applying


def test_asked_twice_it_stops_at_once(shop: Shop) -> None:
    with shop.reconciling() as running:
        drains(shop)
        shop.stop.request()
        shop.stop.request()
        running.join(30)
        assert not running.is_alive()
        assert ("drain", "chat/replica/5") in shop.driver.slow, "nobody let it go"
    assert shop.web.here().lease("test").status().state == "free"


def test_what_fails_beside_a_long_drain_waits_before_it_is_tried_again(shop: Shop) -> None:
    embed = next(i for i in shop.driver.observe().instances if i.address.startswith("embed"))
    with shop.driver.edit() as world:
        world.faults.refuse[embed.digest] = "no such argument"
    with shop.reconciling():
        drains(shop)
        shop.kill("embed/replica/0")
        until(lambda: _failures(shop, "embed/replica/0") >= 3)
        assert any("no such argument" in report.problem for report in shop.reports)
        assert "chat/replica/5" in shop.running()
        with shop.driver.edit() as world:
            world.faults.refuse.clear()
        until(lambda: shop.web.serving("embed"))
    assert _failures(shop, "embed/replica/0") < 6


def _failures(shop: Shop, address: str) -> int:
    known = read_memory(shop.web.state).healing.failures.get(address)
    return known.count if known else 0


def test_losing_the_lease_stops_everything_that_runs(shop: Shop) -> None:
    with shop.reconciling():
        drains(shop)
        lease = shop.web.here().lease("test")
        lease.release(lease.status().token, force=True)
        with lease.acquire():
            shop.driver.let_go()
            until(lambda: any("was lost" in report.problem for report in shop.reports))
            assert "chat/replica/5" in shop.running(), "its stop was not ours any more"
        until(lambda: len(shop.running()) == 3)


def test_two_that_come_side_by_side_get_different_devices(shop: Shop) -> None:
    with shop.driver.edit() as world:
        world.inventory = hosts(7)
    shop.driver.slow |= {("stop-replica", f"chat/replica/{n}") for n in (0, 1)}
    shop.kill("chat/replica/0")
    with shop.reconciling():
        until(lambda: ("stop-replica", "chat/replica/0") in shop.driver.reached)
        shop.kill("chat/replica/1")
        until(lambda: ("stop-replica", "chat/replica/1") in shop.driver.reached)
        shop.driver.let_go()
        until(lambda: len(shop.web.serving()) == 6)
    problems = [r.problem for r in shop.reports if r.problem]
    assert problems == [], "the target refuses a device that is held"


def test_random_misfortunes_never_meet_and_heal(shop: Shop) -> None:
    chance = random.Random(7)
    slots = [f"chat/replica/{n}" for n in range(6)] + ["embed/replica/0"]
    kinds = ("drain", "wait-serving", "stop-replica")
    with shop.reconciling():
        for _ in range(60):
            shop.driver.slow.add((chance.choice(kinds), chance.choice(slots)))
            shop.web.signals.rates["chat"] = chance.choice((0.1, MANY))
            if chance.random() < 0.3:
                shop.kill(chance.choice(slots))
            shop.looks(1)
            if chance.random() < 0.3:
                shop.driver.let_go()
        shop.driver.let_go()
        shop.web.signals.rates["chat"] = MANY
        with shop.driver.edit() as world:
            world.faults.refuse.clear()
        until(lambda: len(shop.web.serving()) == 6 and shop.web.serving("embed"))
    assert shop.driver.met == []
    world = shop.driver._world
    assert world.stopped_while_joined == []
    assert shop.web.here().journal.verify().broken == ()
    kinds_told = {entry.kind for entry in shop.web.here().journal.tail(10_000)}
    assert {Kind.HEAL.value, Kind.DECISION.value} <= kinds_told
