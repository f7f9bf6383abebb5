"""A plan in pieces: what belongs together stays together, and what runs is left alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from enova.stack.compare import Intents, UnderWay
from enova.stack.errands import Errand, split, under_way
from enova.stack.observed import Placement, State
from enova.stack.plan import Inputs, Plan, plan
from tests.property.worlds import pool
from tests.stack.worlds import asked, lines, planned, reasons, recorded, running, world


def scaled(count: int, *, dead: tuple[int, ...] = (), live: int = 4) -> Plan:
    """The plan that brings four replicas, some of them dead, to ``count``."""
    ask = asked(replicas=live)
    instances = tuple(
        replace(one, state=State.EXITED) if slot in dead else one
        for slot, one in enumerate(running(ask, *range(live)))
    )
    return planned(
        ask,
        world(ask, *instances),
        record=recorded(ask, chat=live),
        before=ask,
        intents=Intents(counts={"chat": count}),
    )


def beside(running_now: UnderWay, *, dead: tuple[int, ...], count: int, gpus: int = 8) -> Plan:
    """The plan for four replicas, some of them dead, while that is under way."""
    ask = asked(replicas=4)
    instances = tuple(
        replace(one, state=State.EXITED) if slot in dead else one
        for slot, one in enumerate(running(ask, 0, 1, 2, 3))
    )
    return plan(
        Inputs(
            stack="world",
            env="",
            ask=ask,
            record=recorded(ask, chat=count),
            recorded=ask,
            observed=world(ask, *instances),
            inventory=pool(gpus),
            monitors=frozenset({"prometheus"}),
            intents=Intents(counts={"chat": count}),
            under_way=running_now,
        )
    )


def test_every_replica_that_goes_is_an_errand_of_its_own() -> None:
    errands = split(scaled(2))
    assert [sorted(e.addresses) for e in errands] == [["chat/replica/2"], ["chat/replica/3"]]
    assert [e.leaving for e in errands] == [{"chat/replica/2"}, {"chat/replica/3"}]


def test_what_waits_for_the_first_new_replica_goes_with_it() -> None:
    (errand,) = split(scaled(6))
    assert errand.addresses == {"chat/replica/4", "chat/replica/5"}
    assert errand.leaving == set()


@given(
    count=st.integers(1, 8),
    dead=st.frozensets(st.integers(0, 3)).map(lambda slots: tuple(sorted(slots))),
)
def test_errands_are_the_whole_plan_and_need_nothing_of_each_other(
    count: int, dead: tuple[int, ...]
) -> None:
    made = scaled(count, dead=dead)
    errands = split(made)
    together = [action for errand in errands for action in errand.actions]
    assert sorted(together, key=lambda a: a.id) == list(made.actions)
    for errand in errands:
        own = {action.id for action in errand.actions}
        others = [action for action in together if action.id not in own]
        assert all(set(action.after) <= own for action in errand.actions)
        assert not errand.addresses & {action.address for action in others}
        assert not {a.group for a in errand.actions} & {a.group for a in others}


def test_only_what_is_left_to_do_is_under_way() -> None:
    (errand,) = split(scaled(6))
    done = {action.id for action in errand.actions if action.address == "chat/replica/4"}
    left = under_way([errand.without(done)])
    assert left.stays == {"chat/replica/5": True}
    assert left.placements == (Placement("local", gpus=(5,)),)
    assert under_way([errand.without({a.id for a in errand.actions})]) == UnderWay()


def test_one_that_drains_is_neither_counted_nor_touched() -> None:
    going = UnderWay({"chat/replica/3": False})
    made = beside(going, dead=(1,), count=3)
    assert reasons(made) == [("chat/replica/1", "+", "failed before")]
    assert all("chat/replica/3" not in line for line in lines(made))


def test_one_that_comes_counts_and_nobody_waits_for_it() -> None:
    coming = UnderWay({"chat/replica/0": True})
    made = beside(coming, dead=(0, 1), count=4)
    assert reasons(made) == [("chat/replica/1", "+", "failed before")]
    # The dead member of slot 0 is seen too, and left out when the errands are begun.
    (own,) = [e for e in split(made) if "chat/replica/0" not in e.addresses]
    assert own.addresses == {"chat/replica/1"}


def test_a_new_slot_is_none_under_way() -> None:
    going = UnderWay({"chat/replica/3": False})
    assert [c.address for c in beside(going, dead=(), count=4).changes] == ["chat/replica/4"]


def test_devices_still_to_be_taken_are_taken() -> None:
    others = UnderWay({"code/replica/0": True}, (Placement("local", gpus=(1,)),))
    made = beside(others, dead=(1,), count=4, gpus=5)
    places = [getattr(a.do, "placement", None) for a in made.actions]
    assert Placement("local", gpus=(4,)) in places
    full = beside(others, dead=(1,), count=4, gpus=4)
    assert "room for 3" in full.notes[0]


def test_nothing_is_nothing() -> None:
    assert split(scaled(4)) == ()
    assert Errand(()).addresses == frozenset()
