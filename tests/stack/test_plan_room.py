"""Short pools, lost hosts, changed bounds: what a plan may count on and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enova.base.digest import plain
from enova.capacity.inventory import Device, Host, Inventory
from enova.spec.load import load_document
from enova.stack import desired
from enova.stack.compare import Intents
from enova.stack.observed import Instance, Member, Observed, Placement, State
from enova.stack.plan import Ask
from enova.stack.record import Record
from tests.property.worlds import GPU, Wish, ask_for, pool
from tests.stack.worlds import asked, planned, reasons, recorded, running, world


def with_document(ask: Ask, **sections: object) -> Ask:
    """The same ask with other top-level sections."""
    document = {**ask.document, **sections}
    return Ask(load_document(document), document, ask.choices)


def with_scale(ask: Ask, **scale: object) -> Ask:
    """The same ask with other bounds for ``chat``."""
    services = ask.document["services"]
    assert isinstance(services, dict)
    return with_document(ask, services={"chat": {**services["chat"], "scale": scale}})


def two_hosts() -> Inventory:
    devices = tuple(Device(i, GPU, 80 * 2**30) for i in range(2))
    return Inventory((Host("a", devices), Host("b", devices)))


def on(instance: Instance, host: str, gpu: int) -> Instance:
    return replace(instance, placement=Placement(host, gpus=(gpu,)))


def lost_world(ask: Ask) -> Observed:
    """Replica 0 on a host that does not answer, replica 1 on one that does."""
    zero, one = running(ask, 0, 1)
    seen = world(ask, replace(on(zero, "a", 0), state=State.UNKNOWN), on(one, "b", 0))
    return replace(seen, unreachable_hosts=("a",))


def test_a_lost_replica_is_replaced_on_a_host_that_answers() -> None:
    ask = with_document(asked(), pool={"on_lost_host": "replace"})
    made = planned(ask, lost_world(ask), record=recorded(ask), before=ask, inventory=two_hosts())
    assert reasons(made) == [("chat/replica/0", "+", "host lost")]
    (start,) = (a.do for a in made.actions if a.do.kind == "start-replica")
    assert start.placement.host == "b"


@pytest.mark.parametrize("policy", ["wait", "replace"])
def test_scaling_down_with_a_lost_host_keeps_the_replica_that_answers(policy: str) -> None:
    ask = with_document(asked(), pool={"on_lost_host": policy})
    seen = lost_world(ask)
    lost = Member("chat-replica-0-old", "a:1", 100)
    seen = replace(seen, members={"chat": (lost, *seen.members["chat"])})
    less = Intents(counts={"chat": 1}, count_reasons={"chat": "less"})
    made = planned(ask, seen, record=recorded(ask), before=ask, intents=less, inventory=two_hosts())
    assert [(a.address, a.do.kind) for a in made.actions] == [("chat/replica/0", "leave")]


def test_what_can_not_be_reached_and_is_no_member_leaves_nothing_to_do() -> None:
    ask = asked()
    seen = lost_world(ask)
    assert [m.instance for m in seen.members["chat"]] == ["chat-replica-1-old"]
    made = planned(ask, seen, record=recorded(ask, chat=1), before=ask, inventory=two_hosts())
    assert made.is_empty


def test_a_raised_minimum_says_that_the_spec_changed() -> None:
    before = with_scale(asked(), min=1, max=8)
    ask = with_scale(asked(), min=4, max=8)
    made = planned(ask, world(ask, *running(ask, 0, 1)), record=recorded(ask), before=before)
    assert reasons(made) == [
        ("chat/replica/2", "+", "spec changed"),
        ("chat/replica/3", "+", "spec changed"),
        ("chat", "~", "spec changed"),
    ]
    assert made.changes[0].detail == "at least 4 instead of 2"
    assert [(f.path, f.before, f.after) for f in made.changes[2].fields] == [("scale.min", 1, 4)]


def test_a_lowered_maximum_says_that_the_spec_changed() -> None:
    before = with_scale(asked(), min=1, max=8)
    ask = with_scale(asked(), min=1, max=1)
    made = planned(ask, world(ask, *running(ask, 0, 1)), record=recorded(ask), before=before)
    assert reasons(made)[0] == ("chat/replica/1", "-", "spec changed")
    assert made.changes[0].detail == "at most 1 instead of 2"


def test_replicas_beyond_the_recorded_count_were_left_by_something_interrupted() -> None:
    ask = asked()
    made = planned(ask, world(ask, *running(ask, 0, 1, 2)), record=recorded(ask), before=ask)
    assert reasons(made) == [("chat/replica/2", "-", "interrupted before")]


def test_a_service_at_zero_has_an_empty_plan() -> None:
    ask = with_scale(asked(), to_zero=True, max=4)
    made = planned(ask, world(ask), record=recorded(ask, chat=0), before=ask)
    assert made.is_empty
    assert [(c.wanted, c.least) for c in made.counts] == [(0, 0)]


def test_a_hung_replica_of_a_full_pool_is_replaced_though_none_may_be_missing() -> None:
    ask = asked()
    zero, one = running(ask, 0, 1)
    made = planned(
        ask,
        world(ask, zero, one),
        record=recorded(ask),
        before=ask,
        intents=Intents(counts={"chat": 2}, replace={zero.id: "no engine step"}),
        inventory=pool(2),
    )
    assert not made.guards
    assert reasons(made) == [("chat/replica/0", "∓", "unhealthy")]


def test_back_off_holds_a_replacement_too() -> None:
    ask = asked()
    zero, one = running(ask, 0, 1)
    made = planned(
        ask,
        world(ask, zero, one),
        record=recorded(ask),
        before=ask,
        intents=Intents(replace={zero.id: "hangs"}, deferred={"chat/replica/0": 4.0}),
    )
    assert reasons(made) == [("chat/replica/0", "…", "unhealthy")]
    assert not made.actions


def test_the_replacement_of_a_hung_replica_is_gone_on_with() -> None:
    ask = asked(replicas=1)
    (hung,) = running(ask, 0)
    (new,) = running(ask, 0, state=State.STARTING, suffix="znew")
    made = planned(
        ask,
        world(ask, hung, replace(new, placement=Placement("local", gpus=(1,)))),
        record=recorded(ask, chat=1),
        before=ask,
        intents=Intents(counts={"chat": 1}, replace={hung.id: "hangs"}),
    )
    assert "start-replica" not in [a.do.kind for a in made.actions]
    assert [a.do.kind for a in made.actions][-1] == "stop-replica"


def services(**counts: int) -> Ask:
    """Services by name, the first with the highest priority; ``counts`` to begin with."""
    return ask_for(
        tuple(
            Wish(name, count, 32, 100, 1, 0, priority=200 - n)
            for n, (name, count) in enumerate(counts.items())
        ),
        port=9199,
    )


def replicas(ask: Ask, service: str, gpus: list[int]) -> tuple[Instance, ...]:
    found = desired.build(ask.spec, ask.choices, monitors={"prometheus"}).service(service)
    assert found is not None
    template = found.template
    return tuple(
        Instance(
            f"{service}-{slot}",
            f"{service}/replica/{slot}",
            template.digest,
            template.fields(),
            Placement("local", gpus=(gpu,)),
            State.SERVING,
            f"127.0.0.1:{21000 + gpu}",
        )
        for slot, gpu in enumerate(gpus)
    )


def behind_gateway(ask: Ask, *instances: Instance) -> Observed:
    members: dict[str, tuple[Member, ...]] = {}
    for one in instances:
        service = one.address.split("/")[0]
        members[service] = (*members.get(service, ()), Member(one.id, one.endpoint or "", 100))
    return replace(world(ask, *instances), members=members)


def test_room_that_one_service_gives_back_goes_to_another_in_the_same_plan() -> None:
    ask = services(alpha=1, beta=3)
    seen = behind_gateway(ask, *replicas(ask, "alpha", [0]), *replicas(ask, "beta", [1, 2, 3]))
    made = planned(
        ask,
        seen,
        record=Record("world", 3, document=ask.document, counts={"alpha": 1, "beta": 3}),
        before=ask,
        intents=Intents(counts={"alpha": 2, "beta": 2}),
        inventory=pool(4),
    )
    assert not made.notes
    assert reasons(made) == [("alpha/replica/1", "+", "scaled"), ("beta/replica/2", "-", "scaled")]
    stop = next(a for a in made.actions if a.do.kind == "stop-replica")
    start = next(a for a in made.actions if a.do.kind == "start-replica")
    assert stop.id in start.after


def test_a_short_pool_goes_to_the_service_of_higher_priority() -> None:
    ask = services(zeta=2, alpha=2)
    made = planned(ask, Observed(), inventory=pool(3))
    wanted = {c.service: c.wanted for c in made.counts}
    assert wanted == {"zeta": 2, "alpha": 1}
    assert "alpha: 2 replicas are wanted, the pool has room for 1" in made.notes
    none_left = planned(ask, Observed(), inventory=pool(2))
    assert [g.address for g in none_left.guards] == ["alpha"]


def test_a_service_takes_the_place_of_a_removed_one_on_a_full_pool() -> None:
    before, ask = services(alpha=2), services(beta=2)
    made = planned(
        ask,
        behind_gateway(before, *replicas(before, "alpha", [0, 1])),
        record=Record("world", 3, document=before.document, counts={"alpha": 2}),
        before=before,
        inventory=pool(2),
    )
    assert not made.guards
    stops = {a.id for a in made.actions if a.do.kind == "stop-replica"}
    assert all(set(a.after) & stops for a in made.actions if a.do.kind == "start-replica")


def test_an_argument_the_spec_states_is_changed_by_the_spec() -> None:
    services_of = {
        "model": "org/model",
        "engine": {"name": "emulator", "args": {"max-num-seqs": 64}},
        "traffic": {"peak": "1/s"},
    }
    before = asked(seqs=32)
    pinned = with_document(asked(seqs=64), services={"chat": services_of})
    choices = {"chat": plain_choice(before)}
    record = replace(recorded(before), choices=choices)
    made = planned(pinned, world(before, *running(before, 0, 1)), record=record, before=before)
    assert made.changes[0].reason.value == "spec changed"
    assert made.changes[0].fields[0].owner.value == "spec"
    chosen = planned(
        asked(seqs=64), world(before, *running(before, 0, 1)), record=record, before=before
    )
    assert chosen.changes[0].reason.value == "choice changed"


def plain_choice(ask: Ask) -> dict[str, object]:
    data = plain(ask.choices["chat"])
    assert isinstance(data, dict)
    return data
