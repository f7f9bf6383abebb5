"""One case for each way the three sides can differ, and the steps that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enova.spec.load import load_document
from enova.stack.compare import Intents
from enova.stack.observed import Observed, State
from enova.stack.plan import Ask
from enova.stack.record import Record
from enova.stack.schedule import HUNG_GRACE_S
from tests.property.worlds import pool
from tests.stack.worlds import asked, lines, planned, reasons, recorded, running, world


def test_first_apply_starts_everything_and_the_rest_wait_for_the_first_replica() -> None:
    made = planned(asked(), Observed())
    assert reasons(made) == [
        ("chat/replica/0", "+", "new"),
        ("chat/replica/1", "+", "new"),
        ("gateway", "+", "new"),
        ("monitoring/prometheus", "+", "new"),
    ]
    assert lines(made) == [
        "[-] 1 start-gateway gateway (new) <gateway>",
        "[1] 2 start-monitor monitoring/prometheus (new) <monitoring/prometheus>",
        "[1] 3 start-replica chat/replica/0 (new) <chat/replica/0 comes>",
        "[3] 4 wait-serving chat/replica/0 (new) <chat/replica/0 comes>",
        "[4] 5 join chat/replica/0 (new) <chat/replica/0 comes>",
        "[1,5] 6 start-replica chat/replica/1 (new) <chat/replica/1 comes>",
        "[6] 7 wait-serving chat/replica/1 (new) <chat/replica/1 comes>",
        "[7] 8 join chat/replica/1 (new) <chat/replica/1 comes>",
    ]


def test_nothing_differs() -> None:
    ask = asked()
    made = planned(ask, world(ask, *running(ask, 0, 1)), record=recorded(ask), before=ask)
    assert made.is_empty


def test_what_runs_as_asked_and_was_never_noted_is_noted() -> None:
    before, after = asked(), asked(seqs=16)
    observed = world(after, *running(after, 0, 1))
    for record, applied, reason in (
        (Record("world"), None, "interrupted before"),
        (recorded(before), before, "choice changed"),
    ):
        made = planned(after, observed, record=record, before=applied)
        assert reasons(made) == [("stack", "~", reason)]
        assert made.actions == ()


def test_changed_spec_replaces_one_after_the_other_starting_first() -> None:
    before, ask = asked(seqs=32), asked(seqs=64)
    made = planned(
        ask, world(before, *running(before, 0, 1)), record=recorded(before), before=before
    )
    assert [(c.address, c.symbol.value) for c in made.changes] == [
        ("chat/replica/0", "±"),
        ("chat/replica/1", "±"),
    ]
    assert [(f.path, f.before, f.after) for f in made.changes[0].fields] == [
        ("args.max-num-seqs", 32, 64)
    ]
    steps = [line.split("(")[0].strip() for line in lines(made)]
    assert steps == [
        "[-] 1 start-replica chat/replica/0",
        "[1] 2 wait-serving chat/replica/0",
        "[2] 3 join chat/replica/0",
        "[3] 4 drain chat/replica/0",
        "[4] 5 leave chat/replica/0",
        "[5] 6 stop-replica chat/replica/0",
        "[6] 7 start-replica chat/replica/1",
        "[7] 8 wait-serving chat/replica/1",
        "[8] 9 join chat/replica/1",
        "[9] 10 drain chat/replica/1",
        "[10] 11 leave chat/replica/1",
        "[11] 12 stop-replica chat/replica/1",
    ]
    assert made.rollouts[0].lowest_serving == 2


def test_no_room_and_none_may_be_missing_is_refused_and_says_what_to_set() -> None:
    before, ask = asked(seqs=32), asked(seqs=64)
    made = planned(
        ask,
        world(before, *running(before, 0, 1)),
        record=recorded(before),
        before=before,
        inventory=pool(2),
    )
    assert [guard.address for guard in made.guards] == ["chat/replica/0", "chat/replica/1"]
    assert "max_unavailable" in made.guards[0].message
    assert len(made.changes) == 2, "a guard never hides the rest of the plan"


def test_no_room_and_one_may_be_missing_drains_the_old_one_first() -> None:
    before = asked(seqs=32, unavailable=1)
    ask = asked(seqs=64, unavailable=1)
    made = planned(
        ask,
        world(before, *running(before, 0, 1)),
        record=recorded(before),
        before=before,
        inventory=pool(2),
    )
    assert [c.symbol.value for c in made.changes] == ["∓", "∓"]
    kinds = [a.do.kind for a in made.actions[:6]]
    assert kinds == ["drain", "leave", "stop-replica", "start-replica", "wait-serving", "join"]
    assert made.rollouts[0].lowest_serving == 1


@pytest.mark.parametrize("serving_before", [State.SERVING, State.STARTING])
def test_what_an_interrupted_apply_left_is_finished(serving_before: State) -> None:
    ask = asked(replicas=1)
    (instance,) = running(ask, 0, state=serving_before)
    seen = replace(world(ask, instance), members={})
    made = planned(ask, seen, record=Record("world"))
    assert reasons(made) == [("chat/replica/0", "~", "interrupted before")]
    assert [a.do.kind for a in made.actions] == ["wait-serving", "join"]


def test_two_instances_in_a_slot_leave_the_right_one() -> None:
    before, ask = asked(seqs=32, replicas=1), asked(seqs=64, replicas=1)
    old = running(before, 0)
    new = running(ask, 0, suffix="new")
    made = planned(ask, world(ask, *old, *new), record=recorded(before, chat=1), before=before)
    assert [a.do.kind for a in made.actions] == ["drain", "leave", "stop-replica"]
    assert {getattr(a.do, "instance", None) for a in made.actions} == {old[0].id}


def _live_difference(kind: str) -> tuple[Ask, Ask, Observed]:
    ask, other = asked(replicas=1), asked(seqs=64, replicas=1)
    if kind == "drifted":
        return ask, ask, world(ask, *running(other, 0))
    if kind == "tampered":
        (instance,) = running(ask, 0)
        return ask, ask, world(ask, replace(instance, tampered=("argument changed",)))
    if kind == "missing":
        return ask, ask, world(ask)
    (instance,) = running(ask, 0, state=State.EXITED)
    return ask, ask, world(ask, replace(instance, exit_reason="out of memory"))


@pytest.mark.parametrize(
    ("kind", "symbol", "reason"),
    [
        ("drifted", "±", "drifted"),
        ("tampered", "±", "drifted"),
        ("missing", "+", "missing"),
        ("failed", "+", "failed before"),
    ],
)
def test_drift_has_its_reason(kind: str, symbol: str, reason: str) -> None:
    before, ask, seen = _live_difference(kind)
    made = planned(ask, seen, record=recorded(before, chat=1), before=before)
    assert reasons(made) == [("chat/replica/0", symbol, reason)]


def test_the_scalers_count_is_kept_and_shown() -> None:
    ask = asked(replicas=2)
    made = planned(
        ask, world(ask, *running(ask, 0, 1, 2, 3)), record=recorded(ask, chat=4), before=ask
    )
    assert made.is_empty
    assert [(c.serving, c.wanted) for c in made.counts] == [(4, 4)]


def test_scaling_down_drains_the_highest_slot_and_says_why() -> None:
    ask = asked()
    made = planned(
        ask,
        world(ask, *running(ask, 0, 1)),
        record=recorded(ask),
        before=ask,
        intents=Intents(counts={"chat": 1}, count_reasons={"chat": "1 request/s fit 1"}),
    )
    assert reasons(made) == [("chat/replica/1", "-", "scaled")]
    assert made.changes[0].detail == "1 request/s fit 1"
    assert [a.do.kind for a in made.actions] == ["drain", "leave", "stop-replica"]


def test_scaling_down_takes_the_replica_that_does_not_answer() -> None:
    ask = asked()
    sick = replace(running(ask, 0)[0], state=State.UNHEALTHY)
    made = planned(
        ask,
        world(ask, sick, *running(ask, 1)),
        record=recorded(ask),
        before=ask,
        intents=Intents(counts={"chat": 1}),
    )
    assert [c.address for c in made.changes] == ["chat/replica/0"]


def test_a_replica_that_does_no_work_is_not_drained_for_long() -> None:
    ask = asked()
    sick = replace(running(ask, 0)[0], state=State.UNHEALTHY)
    made = planned(
        ask,
        world(ask, sick, *running(ask, 1)),
        record=recorded(ask),
        before=ask,
        intents=Intents(replace={sick.id: "it has not answered for 30 s"}),
    )
    assert [a.do.kind for a in made.actions] == [
        *("start-replica", "wait-serving", "join"),
        *("drain", "leave", "stop-replica"),
    ]
    drain, stop = made.actions[3].do, made.actions[5].do
    assert (drain.timeout_s, stop.grace_s) == (0.0, HUNG_GRACE_S)


def test_back_off_shows_the_slot_and_starts_nothing() -> None:
    ask = asked(replicas=1)
    (dead,) = running(ask, 0, state=State.EXITED)
    made = planned(
        ask,
        world(ask, dead),
        record=recorded(ask, chat=1),
        before=ask,
        intents=Intents(deferred={"chat/replica/0": 8.0}),
    )
    assert reasons(made) == [("chat/replica/0", "…", "failed before")]
    assert "start-replica" not in [a.do.kind for a in made.actions]


def test_a_changed_gateway_is_changed_in_place() -> None:
    before, ask = asked(), asked(port=9200)
    made = planned(
        ask, world(before, *running(before, 0, 1)), record=recorded(before), before=before
    )
    assert reasons(made) == [("gateway", "~", "spec changed")]
    assert [a.do.kind for a in made.actions] == ["change-gateway"]


def test_a_gateway_or_monitor_edited_by_hand_is_replaced_the_old_one_first() -> None:
    ask = asked()
    there = world(ask, *running(ask, 0, 1))
    edited = tuple(replace(one, tampered=("it publishes other ports",)) for one in there.components)
    made = planned(ask, replace(there, components=edited), record=recorded(ask), before=ask)
    assert reasons(made) == [
        ("gateway", "+", "drifted"),
        ("monitoring/prometheus", "+", "drifted"),
    ]
    assert {change.detail for change in made.changes} == {"it publishes other ports"}
    kinds = [a.do.kind for a in made.actions]
    assert kinds == ["stop-gateway", "start-gateway", "stop-monitor", "start-monitor"]
    for start in (a for a in made.actions if a.do.kind.startswith("start-")):
        assert start.after


def test_a_protected_service_is_not_removed_and_the_rest_is_shown() -> None:
    ask = asked()
    record = replace(recorded(ask), protected=("chat",))
    made = planned(None, world(ask, *running(ask, 0, 1)), record=record, before=ask)
    assert [guard.address for guard in made.guards] == ["chat"]
    assert len([c for c in made.changes if c.symbol.value == "-"]) == 4


def test_destroy_drains_replicas_before_the_gateway_and_removes_files_last() -> None:
    ask = asked()
    made = planned(None, world(ask, *running(ask, 0, 1)), record=recorded(ask), before=ask)
    kinds = [a.do.kind for a in made.actions]
    assert kinds.index("stop-gateway") > max(
        i for i, kind in enumerate(kinds) if kind == "stop-replica"
    )
    assert kinds[-1] == "remove-stack"
    assert made.destroys


def test_devices_freed_by_one_service_are_waited_for_by_another() -> None:
    ask = asked(replicas=2)
    gone = tuple(
        replace(i, address=f"old/replica/{n}", id=f"old-{n}")
        for n, i in enumerate(running(ask, 0, 1))
    )
    made = planned(ask, world(ask, *gone), record=Record("world"), inventory=pool(2))
    stops = {a.id for a in made.actions if a.do.kind == "stop-replica"}
    starts = [a for a in made.actions if a.do.kind == "start-replica"]
    assert len(starts) == 2
    assert all(set(start.after) & stops for start in starts)


def test_a_lost_host_is_waited_for_unless_the_pool_says_replace() -> None:
    ask = asked(replicas=1)
    (lost,) = running(ask, 0, state=State.UNKNOWN)
    made = planned(ask, world(ask, lost), record=recorded(ask, chat=1), before=ask)
    assert made.is_empty


def test_more_than_the_budget_is_refused_and_less_never_is() -> None:
    def at(count: int) -> Ask:
        ask = asked(replicas=count)
        spec = load_document({**ask.document, "pool": {"budget": "10 USD/h"}})
        choice = replace(ask.choices["chat"], usd_per_hour=3.0 * count)
        return Ask(spec, ask.document, {"chat": choice})

    made = planned(at(4), Observed())
    assert [guard.address for guard in made.guards] == ["pool"]
    assert (made.cost.before, made.cost.after, made.cost.budget) == (0.0, 12.0, 10.0)
    assert not planned(at(3), Observed()).guards
