"""One tick from what is seen to what is planned, without a clock or a process."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from enova.base.address import GATEWAY
from enova.policy.scaling import CapacityTable
from enova.policy.signals import ReplicaSignals, Signals
from enova.services.reconciler.memory import memory_from_plain, memory_to_plain
from enova.services.reconciler.tick import UNHEALTHY_AFTER_S, Memory, Seen, Tick, tick
from enova.spec.load import load_document
from enova.stack.compare import UnderWay
from enova.stack.observed import Instance, State
from enova.stack.plan import Ask
from tests.property.worlds import pool
from tests.stack.worlds import asked, reasons, recorded, running, world

RATE = 5.0
"""Requests/s that one replica carries in these worlds."""


def seen(
    ask: Ask,
    *instances: Instance,
    rate: float | None,
    count: int,
    now: float = 1000.0,
    replicas: dict[str, ReplicaSignals] | None = None,
) -> Seen:
    signals = Signals(
        at_s=now,
        window_s=30.0,
        arrival_rate=rate,
        waiting=0.0,
        running=0.0,
        replicas=replicas or {},
    )
    return Seen(
        record=recorded(ask, chat=count),
        applied=ask,
        observed=world(ask, *instances),
        inventory=pool(8),
        signals={"chat": signals},
        tables={"chat": CapacityTable(RATE)},
        monitors=frozenset({"prometheus"}),
        now=now,
    )


def quiet_ticks(ask: Ask, *instances: Instance, rate: float | None, seconds: int) -> list[Tick]:
    """Ticks every 5 s with the same load and nothing carried out."""
    memory, found = Memory(), []
    for second in range(0, seconds + 1, 5):
        result = tick(
            seen(ask, *instances, rate=rate, count=len(instances), now=1000.0 + second), memory
        )
        memory = result.memory
        found.append(result)
    return found


def test_a_system_at_rest_plans_nothing() -> None:
    ask = asked()
    result = tick(seen(ask, *running(ask, 0, 1), rate=6.0, count=2), Memory())
    assert result.plan.is_empty
    assert result.decisions["chat"].replicas == 2


def test_more_load_than_the_table_holds_adds_replicas_at_once() -> None:
    ask = asked()
    result = tick(seen(ask, *running(ask, 0, 1), rate=14.0, count=2), Memory())
    assert reasons(result.plan) == [
        ("chat/replica/2", "+", "scaled"),
        ("chat/replica/3", "+", "scaled"),
    ]
    assert "14 requests/s" in result.plan.changes[0].detail


def test_less_load_removes_only_after_the_hold() -> None:
    ask = asked()
    ticks = quiet_ticks(ask, *running(ask, 0, 1, 2, 3), rate=1.0, seconds=300)
    assert all(result.plan.is_empty for result in ticks[:-1])
    assert [c[2] for c in reasons(ticks[-1].plan)] == ["scaled"] * 3


def test_blindness_removes_nothing() -> None:
    ask = asked()
    ticks = quiet_ticks(ask, *running(ask, 0, 1, 2, 3), rate=None, seconds=600)
    assert all(result.plan.is_empty for result in ticks)


def test_a_dead_replica_is_replaced_at_once() -> None:
    ask = asked()
    alive, dead = running(ask, 0, 1)
    result = tick(seen(ask, alive, replace(dead, state=State.EXITED), rate=1.0, count=2), Memory())
    assert reasons(result.plan) == [("chat/replica/1", "+", "failed before")]


def test_a_replica_that_keeps_dying_waits_longer_each_time() -> None:
    ask = asked(replicas=1)
    (dead,) = running(ask, 0, state=State.EXITED)
    memory, starts, now = Memory(), [], 1000.0
    for number in range(120):
        again = replace(dead, id=f"chat-replica-0-{len(starts)}")
        result = tick(seen(ask, again, rate=1.0, count=1, now=now + number), memory)
        memory = result.memory
        if any(a.do.kind == "start-replica" for a in result.plan.actions):
            starts.append(number)
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert len(starts) < 10
    assert gaps == sorted(gaps)


def test_what_fails_under_way_is_counted_when_that_ends_and_not_twice() -> None:
    ask = asked(replicas=1)
    (dead,) = running(ask, 0, state=State.EXITED)
    coming = UnderWay({dead.address: True})
    at = replace(seen(ask, dead, rate=1.0, count=1), under_way=coming)
    result = tick(at, Memory())
    assert result.memory.healing.failures == {}
    assert result.plan.changes == ()


def test_one_on_its_way_out_is_no_supply() -> None:
    ask = asked()
    at = seen(ask, *running(ask, 0, 1, 2), rate=6.0, count=2)
    result = tick(replace(at, under_way=UnderWay({"chat/replica/2": False})), Memory())
    assert result.plan.is_empty
    assert dict(result.decisions["chat"].inputs)["serving"] == 2


def test_an_engine_without_progress_is_replaced_and_says_so() -> None:
    ask = asked(replicas=1)
    (hung,) = running(ask, 0)
    stuck = {hung.id: ReplicaSignals(running=3.0, steps=100.0, answered=True)}
    memory = Memory()
    for second in range(0, 61, 5):
        at = seen(ask, hung, rate=1.0, count=1, now=1000.0 + second, replicas=stuck)
        result = tick(at, memory)
        memory = result.memory
    assert reasons(result.plan) == [("chat/replica/0", "±", "unhealthy")]
    assert "no engine step" in result.plan.changes[0].detail


def test_an_engine_that_lets_requests_wait_and_does_nothing_is_hung() -> None:
    ask = asked(replicas=1)
    (hung,) = running(ask, 0)
    queued = {hung.id: ReplicaSignals(running=0.0, waiting=2.0, steps=100.0, answered=True)}
    memory = Memory()
    for second in range(0, 61, 5):
        at = seen(ask, hung, rate=1.0, count=1, now=1000.0 + second, replicas=queued)
        result = tick(at, memory)
        memory = result.memory
    assert reasons(result.plan) == [("chat/replica/0", "±", "unhealthy")]


def test_a_gateway_that_does_not_answer_is_stopped_and_started_anew() -> None:
    ask = asked()
    at = seen(ask, *running(ask, 0, 1), rate=6.0, count=2)
    deaf = tuple(
        replace(c, state=State.UNHEALTHY) if c.address == GATEWAY else c
        for c in at.observed.components
    )
    at = replace(at, observed=replace(at.observed, components=deaf))
    first = tick(at, Memory())
    assert first.plan.is_empty
    later = tick(replace(at, now=at.now + UNHEALTHY_AFTER_S), first.memory)
    assert reasons(later.plan) == [("gateway", "+", "unhealthy")]
    steps = [(action.do.kind, action.after) for action in later.plan.actions]
    assert steps == [("stop-gateway", ()), ("start-gateway", (1,))]


def test_an_idle_engine_is_not_hung() -> None:
    ask = asked(replicas=1)
    (idle,) = running(ask, 0)
    still = {idle.id: ReplicaSignals(running=0.0, steps=100.0, answered=True)}
    memory = Memory()
    for second in range(0, 300, 5):
        at = seen(ask, idle, rate=0.0, count=1, now=1000.0 + second, replicas=still)
        result = tick(at, memory)
        memory = result.memory
        assert result.plan.is_empty


def test_memory_survives_a_restart_of_the_reconciler() -> None:
    ask = asked(replicas=1)
    (dead,) = running(ask, 0, state=State.EXITED)
    memory = tick(seen(ask, dead, rate=1.0, count=1), Memory()).memory
    assert memory_from_plain(memory_to_plain(memory)) == memory
    assert memory_from_plain({"healing": 7}) == Memory()


def test_no_room_in_the_pool_is_a_note_and_not_an_endless_wish() -> None:
    ask = asked()
    crowded = replace(seen(ask, *running(ask, 0, 1), rate=100.0, count=2), inventory=pool(3))
    result = tick(crowded, Memory())
    assert [c[0] for c in reasons(result.plan)] == ["chat/replica/2"]
    assert "room for 3" in result.plan.notes[0]
    assert result.plan.counts[0].wanted == 3


def test_the_budget_bounds_scaling() -> None:
    ask = asked()
    choice = replace(ask.choices["chat"], usd_per_hour=6.0)
    spec = load_document({**ask.document, "pool": {"budget": "10 USD/h"}})
    priced = Ask(spec, ask.document, {"chat": choice})
    result = tick(seen(priced, *running(ask, 0, 1), rate=100.0, count=2), Memory())
    assert result.decisions["chat"].replicas == 3, "three replicas cost 9 USD/h, four 12"
