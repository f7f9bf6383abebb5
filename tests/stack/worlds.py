"""Small worlds for the tests of planning: what was asked, applied and seen, in a few words."""

from __future__ import annotations

from dataclasses import replace

from enova.capacity.inventory import Inventory
from enova.stack import desired
from enova.stack.compare import Intents
from enova.stack.observed import Component, Instance, Member, Observed, Placement, State
from enova.stack.plan import Ask, Inputs, Plan, plan
from enova.stack.record import Record
from tests.property.worlds import Wish, ask_for, pool

WISH = Wish("chat", replicas=2, seqs=32, weight=100, surge=1, unavailable=0, priority=100)


def asked(**changes: object) -> Ask:
    """A spec of one service, ``chat``, with two replicas; ``changes`` are fields of ``Wish``."""
    port = changes.pop("port", 9199)
    assert isinstance(port, int)
    return ask_for((replace(WISH, **changes),), port=port)


def recorded(ask: Ask, *, serial: int = 3, **counts: int) -> Record:
    """The record after ``ask`` was applied."""
    return Record(
        "world",
        serial=serial,
        document=ask.document,
        choices={},
        counts=counts or {"chat": 2},
        protected=(),
    )


def running(
    ask: Ask, *slots: int, state: State = State.SERVING, suffix: str = "old"
) -> tuple[Instance, ...]:
    """Instances of ``chat`` as ``ask`` wants them, one GPU each by slot."""
    template = desired.build(ask.spec, ask.choices, monitors={"prometheus"}).services[0].template
    return tuple(
        Instance(
            id=f"chat-replica-{slot}-{suffix}",
            address=f"chat/replica/{slot}",
            digest=template.digest,
            fields=template.fields(),
            placement=Placement("local", gpus=(slot,)),
            state=state,
            endpoint=f"127.0.0.1:{20000 + slot}",
        )
        for slot in slots
    )


def world(ask: Ask, *instances: Instance, draining: frozenset[str] = frozenset()) -> Observed:
    """Those instances behind the gateway and Prometheus that ``ask`` wants."""
    stack = desired.build(ask.spec, ask.choices, monitors={"prometheus"})
    assert stack.gateway is not None
    parts = [("gateway", stack.gateway), *((m.address, m) for m in stack.monitors)]
    return Observed(
        instances=instances,
        components=tuple(
            Component(
                f"{address.replace('/', '-')}-old",
                address,
                resource.digest,
                resource.fields(),
                State.SERVING,
            )
            for address, resource in parts
        ),
        members={
            "chat": tuple(
                Member(i.id, i.endpoint or "", 100, draining=i.id in draining)
                for i in instances
                if i.state in (State.SERVING, State.UNHEALTHY)
            )
        },
    )


def planned(
    ask: Ask | None,
    observed: Observed,
    *,
    record: Record | None = None,
    before: Ask | None = None,
    intents: Intents | None = None,
    inventory: Inventory | None = None,
) -> Plan:
    """The plan, on a pool of eight GPUs unless said otherwise."""
    return plan(
        Inputs(
            stack="world",
            env="",
            ask=ask,
            record=record or Record("world"),
            recorded=before,
            observed=observed,
            inventory=inventory or pool(8),
            monitors=frozenset({"prometheus"}),
            intents=intents or Intents(),
        )
    )


def lines(made: Plan) -> list[str]:
    """Every action on a line, with ids of instances left out."""
    return [action.line() for action in made.actions]


def reasons(made: Plan) -> list[tuple[str, str, str]]:
    """Address, symbol and reason of every change."""
    return [(c.address, c.symbol.value, c.reason.value) for c in made.changes]
