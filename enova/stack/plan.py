"""The plan: what would change, why, and in which steps. One pure function for every verb.

``plan``, ``diff``, ``apply``, ``rollback``, ``destroy`` and the reconciler all call ``plan``; they
differ only in the inputs. Equal inputs give an equal plan, byte for byte: no clock, no user, no
host name goes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from enova.base import address as addresses
from enova.base.digest import digest, plain
from enova.capacity.inventory import Inventory
from enova.capacity.sizing.choice import Choice
from enova.spec.model import Spec
from enova.stack import desired
from enova.stack.actions import Action
from enova.stack.compare import (
    ComponentDifference,
    FieldChange,
    Intents,
    Sides,
    SlotDifference,
    Verdict,
    compare_component,
    compare_removed,
    compare_service,
    removed_services,
    wanted_count,
)
from enova.stack.observed import Observed, Placement, State
from enova.stack.owners import Reason
from enova.stack.placement import Room
from enova.stack.record import Record
from enova.stack.resources import Stack
from enova.stack.schedule import (
    Graph,
    schedule_destroyed_components,
    schedule_gateway,
    schedule_prometheus,
    schedule_removed,
    schedule_service,
)
from enova.stack.settings import Configured, compare_settings

SCHEMA = 1
DESTROY_DRAIN_S = 30.0


@dataclass(frozen=True)
class Ask:
    """One configuration: the spec with its document, and a choice a service.

    ``document`` is the plain data ``spec`` was read from; the record keeps it for rollback.
    """

    spec: Spec
    document: Mapping[str, object]
    choices: Mapping[str, Choice]


@dataclass(frozen=True)
class Inputs:
    """Everything a plan depends on. ``ask`` None means nothing should run: ``destroy``.

    ``recorded`` is the record's own document and choices, read back. ``recommendation`` travels in
    the plan for people to read; no logic leans on it.
    """

    stack: str
    env: str
    ask: Ask | None
    record: Record
    recorded: Ask | None
    observed: Observed
    inventory: Inventory
    prometheus_available: bool
    intents: Intents = field(default_factory=Intents)
    spec_digest: str = ""
    lock_digest: str = ""
    recommendation: tuple[Mapping[str, object], ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Files the spec was read from, as the user named them."""
    demands: Mapping[str, str] = field(default_factory=dict)
    """By service, the demand its choice answers: under it the lock file keeps the choice."""


class Symbol(StrEnum):
    """What happens to an address."""

    ADD = "+"
    REMOVE = "-"
    UPDATE = "~"
    REPLACE_START_FIRST = "±"
    REPLACE_STOP_FIRST = "∓"
    WAIT = "…"


MEANING: Mapping[Symbol, str] = {
    Symbol.ADD: "add",
    Symbol.REMOVE: "remove",
    Symbol.UPDATE: "change in place",
    Symbol.REPLACE_START_FIRST: "replace, starting the new one first",
    Symbol.REPLACE_STOP_FIRST: "replace, stopping the old one first",
    Symbol.WAIT: "waits before it is tried again",
}


@dataclass(frozen=True)
class Change:
    """One difference with its reason."""

    address: str
    symbol: Symbol
    reason: Reason
    fields: tuple[FieldChange, ...] = ()
    detail: str = ""
    instance: str | None = None

    @property
    def is_count(self) -> bool:
        """True when the spec's bounds alone add or remove it."""
        return self.reason is Reason.SPEC_CHANGED and not self.fields


@dataclass(frozen=True)
class Guard:
    """Why this plan must not be applied as it is. It never hides the rest of the plan."""

    address: str
    message: str


@dataclass(frozen=True)
class Count:
    """Replicas of one service: now serving, wanted, and the bounds. Owned by the scaler."""

    service: str
    serving: int
    wanted: int
    least: int
    most: int


@dataclass(frozen=True)
class RolloutNote:
    """What the way costs: replicas in flight and the fewest that serve meanwhile."""

    service: str
    replaced: int
    at_a_time: int
    lowest_serving: int
    serving_before: int
    seconds_each: float


@dataclass(frozen=True)
class Base:
    """What a saved plan was made from. ``observed`` leaves out counts, slots and health."""

    spec: str
    lock: str
    record: str
    observed: str


@dataclass(frozen=True)
class Plan:
    """What will be done. ``next_*`` is what the record will hold once it succeeded."""

    stack: str
    env: str
    base: Base
    serial: int
    changes: tuple[Change, ...]
    actions: tuple[Action, ...]
    counts: tuple[Count, ...]
    guards: tuple[Guard, ...] = ()
    rollouts: tuple[RolloutNote, ...] = ()
    notes: tuple[str, ...] = ()
    emulated: bool = False
    target: str = "process"
    destroys: bool = False
    next_document: Mapping[str, object] | None = None
    next_choices: Mapping[str, object] = field(default_factory=dict)
    next_protected: tuple[str, ...] = ()
    recommendation: tuple[Mapping[str, object], ...] = ()
    sources: tuple[str, ...] = ()
    demands: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def is_empty(self) -> bool:
        """True when nothing differs: the one place that decides it."""
        return not self.changes and not self.actions

    @property
    def essence(self) -> str:
        """Digest of what is changed about which service, without counts, slots and ids: a saved
        plan may be carried out later only if a fresh plan of the same configuration has the same.
        """
        essence = {
            (
                change.address.split("/replica/")[0],
                change.reason.value,
                tuple((f.path, f.before, f.after) for f in change.fields),
            )
            for change in self.changes
            if change.reason not in _LIVE_REASONS and not change.is_count
        }
        return digest([self.next_document, self.next_choices, sorted(map(repr, essence))])


_LIVE_REASONS = frozenset(
    {Reason.SCALED, Reason.FAILED_BEFORE, Reason.UNHEALTHY, Reason.MISSING, Reason.INTERRUPTED}
)
"""Reasons that come and go by themselves while a stack runs."""


_TAKES = frozenset({Verdict.START, Verdict.REPLACE})
"""Verdicts that need room in the pool."""


def plan(inputs: Inputs) -> Plan:
    """The plan for ``inputs``. Never raises for what users or the world did: see ``guards``."""
    stack = _stack(inputs.ask, inputs)
    recorded = _stack(inputs.recorded, inputs)
    base = _base(inputs)
    graph = Graph(salt=digest([base, inputs.record.serial]))
    room = Room.of(_reachable(inputs), _held(inputs.observed))
    destroyed = inputs.ask is None
    changes: list[Change] = []
    guards: list[Guard] = []
    notes = list(inputs.notes)
    rollouts: list[RolloutNote] = []
    counts: list[Count] = []

    gateway = compare_component(
        addresses.GATEWAY,
        wanted=stack.gateway,
        recorded=recorded.gateway,
        observed=inputs.observed,
        destroyed=destroyed,
    )
    prometheus = compare_component(
        addresses.PROMETHEUS,
        wanted=stack.prometheus,
        recorded=recorded.prometheus,
        observed=inputs.observed,
        destroyed=destroyed,
    )
    gate: tuple[int, ...] = ()
    if not destroyed:
        gate = schedule_gateway(graph, gateway, stack.gateway)
        schedule_prometheus(graph, prometheus, stack.prometheus, gate=gate)
    changes += [c for d in (gateway, prometheus) for c in _component_changes(d)]

    for name in removed_services(stack, inputs.observed):
        reason = Reason.DESTROYED if destroyed else Reason.REMOVED
        if recorded.service(name) is None and not destroyed:
            reason = Reason.ORPHANED
        gone = compare_removed(name, inputs.observed, reason=reason)
        room = schedule_removed(
            graph,
            name,
            differences=gone,
            observed=inputs.observed,
            after=gate,
            drain_s=DESTROY_DRAIN_S,
            room=room,
        )
        changes += [_slot_change(difference) for difference in gone]
        if name in inputs.record.protected:
            guards.append(_protection(name))
    for name in inputs.record.protected:
        if stack.service(name) is None and not any(g.address == name for g in guards):
            guards.append(_protection(name))

    changes += _settings_changes(inputs, stack, recorded)
    replace_lost = inputs.ask is not None and inputs.ask.spec.pool.on_lost_host == "replace"
    compared = {
        service.name: compare_service(
            Sides(service, recorded.service(service.name), _choice_moved(service.name, inputs)),
            inputs.observed,
            record=inputs.record,
            intents=inputs.intents,
            replace_lost=replace_lost,
        )
        for service in stack.services
    }
    # Those that only give room back come first, so that the others can have it.
    in_order = sorted(
        stack.services,
        key=lambda s: (any(d.verdict in _TAKES for d in compared[s.name]), -s.priority, s.name),
    )
    for service in in_order:
        differences = compared[service.name]
        scheduled = schedule_service(
            graph,
            service,
            differences=differences,
            observed=inputs.observed,
            room=room,
            gate=gate,
            deferred=frozenset(inputs.intents.deferred),
        )
        room = scheduled.room
        modes = dict(scheduled.modes)
        unplaced = set(scheduled.unplaced)
        changes += [
            _slot_change(d, modes.get(d.address, ""), waits=inputs.intents.deferred.get(d.address))
            for d in differences
            if (d.verdict is not Verdict.KEEP or d.leftovers) and d.address not in unplaced
        ]
        wanted = wanted_count(service, inputs.record, inputs.intents)
        serving = sum(
            1 for d in differences if d.instance is not None and d.instance.state is State.SERVING
        )
        placed = wanted - len(unplaced)
        if unplaced:
            message = (
                f"{service.name}: {wanted} replicas are wanted, the pool has room for {placed}"
            )
            if placed < max(service.least, 1) and not inputs.intents.counts:
                guards.append(Guard(service.name, message))
            else:
                notes.append(message)
        for address in scheduled.blocked:
            guards.append(
                Guard(
                    address,
                    "the pool has no room to start its replacement first, and "
                    "rollout.max_unavailable is 0. Set it to 1 to drain the old one first, or add "
                    "devices to the pool.",
                )
            )
        if modes:
            rollouts.append(
                RolloutNote(
                    service=service.name,
                    replaced=len(modes),
                    at_a_time=max(1, service.rollout.surge),
                    lowest_serving=max(0, serving - scheduled.most_missing),
                    serving_before=serving,
                    seconds_each=service.template.start_timeout_s,
                )
            )
        counts.append(Count(service.name, serving, placed, service.least, service.most))
    if destroyed and (graph.actions or inputs.observed.components or inputs.record.serial):
        schedule_destroyed_components(graph, (gateway, prometheus), drain_s=DESTROY_DRAIN_S)
    ask = inputs.ask
    return Plan(
        stack=inputs.stack,
        env=inputs.env,
        base=base,
        serial=inputs.record.serial + 1,
        changes=tuple(sorted(changes, key=lambda c: (_order(c.address), c.symbol.value))),
        actions=tuple(graph.actions),
        counts=tuple(sorted(counts, key=lambda c: c.service)),
        guards=tuple(guards),
        rollouts=tuple(rollouts),
        notes=tuple(notes),
        emulated=ask is not None and any(choice.emulated for choice in ask.choices.values()),
        target=ask.spec.pool.target if ask else "process",
        destroys=destroyed,
        next_document=ask.document if ask else None,
        next_choices={name: plain(choice) for name, choice in ask.choices.items()} if ask else {},
        next_protected=tuple(s.name for s in stack.services if s.protect),
        recommendation=inputs.recommendation,
        sources=inputs.sources,
        demands=inputs.demands,
    )


def next_record(made: Plan, record: Record) -> Record:
    """The record once ``made`` succeeded."""
    counts = {count.service: count.wanted for count in made.counts}
    return Record(
        stack=record.stack,
        env=record.env,
        serial=made.serial,
        document=made.next_document,
        choices={
            name: value for name, value in made.next_choices.items() if isinstance(value, Mapping)
        },
        counts=counts,
        protected=made.next_protected,
        applying=False,
    )


def _stack(ask: Ask | None, inputs: Inputs) -> Stack:
    if ask is None:
        return Stack(inputs.stack)
    return desired.build(ask.spec, ask.choices, prometheus=inputs.prometheus_available)


def _base(inputs: Inputs) -> Base:
    """Digests of the inputs, without what changes by itself while the stack runs."""
    live = sorted(
        {
            (i.address.split("/")[0], i.digest, i.tampered)
            for i in inputs.observed.instances
            if i.state is not State.EXITED
        }
    )
    components = sorted(
        (c.address, c.digest) for c in inputs.observed.components if c.state is not State.EXITED
    )
    return Base(
        spec=inputs.spec_digest,
        lock=inputs.lock_digest,
        record=inputs.record.content_digest,
        observed=digest([live, components, sorted(inputs.observed.unreachable_hosts)]),
    )


def _reachable(inputs: Inputs) -> Inventory:
    """The pool without hosts on which nothing can be started now."""
    lost = inputs.observed.unreachable_hosts
    kept = tuple(host for host in inputs.inventory.hosts if host.name not in lost)
    return replace(inputs.inventory, hosts=kept)


def _held(observed: Observed) -> list[Placement]:
    return [i.placement for i in observed.instances if i.state is not State.EXITED]


def _choice_moved(service: str, inputs: Inputs) -> bool:
    before = inputs.record.choices.get(service)
    after = inputs.ask.choices.get(service) if inputs.ask else None
    return before is not None and after is not None and plain(before) != plain(after)


def _protection(service: str) -> Guard:
    return Guard(
        service,
        "it is protected. Apply a spec with `protect: false` for it first, then remove it.",
    )


def _settings_changes(inputs: Inputs, stack: Stack, recorded: Stack) -> list[Change]:
    if inputs.ask is None or inputs.recorded is None:
        return []
    before = {service.name: service.template.digest for service in recorded.services}
    same = {s.name for s in stack.services if before.get(s.name) == s.template.digest}
    return [
        Change(difference.address, Symbol.UPDATE, difference.reason, difference.fields)
        for difference in compare_settings(
            Configured(inputs.recorded.spec, inputs.recorded.choices),
            Configured(inputs.ask.spec, inputs.ask.choices),
            same_template=frozenset(same),
        )
    ]


def _slot_change(
    difference: SlotDifference, mode: str = "", *, waits: float | None = None
) -> Change:
    symbols = {
        Verdict.START: Symbol.ADD,
        Verdict.REMOVE: Symbol.REMOVE,
        Verdict.FINISH: Symbol.UPDATE,
        Verdict.WEIGH: Symbol.UPDATE,
        Verdict.KEEP: Symbol.UPDATE,
        Verdict.REPLACE: Symbol.REPLACE_STOP_FIRST
        if mode == "stop-first"
        else Symbol.REPLACE_START_FIRST,
    }
    symbol, detail = symbols[difference.verdict], difference.detail
    if waits is not None and difference.verdict in _TAKES:
        symbol = Symbol.WAIT
        detail = f"{detail}; " if detail else ""
        detail += "it failed repeatedly, back-off holds the next start"
    return Change(
        address=difference.address,
        symbol=symbol,
        reason=difference.reason or Reason.INTERRUPTED,
        fields=difference.fields,
        detail=detail,
        instance=difference.instance.id if difference.instance else None,
    )


def _component_changes(difference: ComponentDifference) -> list[Change]:
    symbols = {
        Verdict.START: Symbol.ADD,
        Verdict.REMOVE: Symbol.REMOVE,
        Verdict.REPLACE: Symbol.UPDATE
        if difference.address == addresses.GATEWAY
        else Symbol.REPLACE_STOP_FIRST,
        Verdict.KEEP: Symbol.UPDATE,
    }
    if difference.reason is None:
        return []
    return [
        Change(
            address=difference.address,
            symbol=symbols[difference.verdict],
            reason=difference.reason,
            fields=difference.fields,
            instance=difference.component.id if difference.component else None,
        )
    ]


def _order(address: str) -> tuple[int, str, int]:
    parsed = addresses.parse_replica(address)
    return (0, parsed[0], parsed[1]) if parsed else (1, address, 0)
