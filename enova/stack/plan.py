"""The plan: what would change, why, and in which steps. One pure function for every verb.

``plan``, ``diff``, ``apply``, ``rollback``, ``destroy`` and the reconciler all call ``plan``; they
differ only in the inputs. Equal inputs give an equal plan, byte for byte: no clock, no user, no
host name goes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from enova.base import address as addresses
from enova.base.digest import digest, plain
from enova.capacity.inventory import Inventory
from enova.capacity.sizing.choice import Choice
from enova.spec.model import Spec
from enova.stack import desired
from enova.stack.actions import Action
from enova.stack.changes import (
    TAKES,
    Change,
    component_changes,
    order,
    settings_change,
    slot_change,
)
from enova.stack.compare import (
    ComponentDifference,
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
from enova.stack.cost import ROUNDING, per_hour
from enova.stack.observed import Observed, Placement, State
from enova.stack.owners import Reason
from enova.stack.placement import Room
from enova.stack.record import Record
from enova.stack.resources import ServiceResource, Stack
from enova.stack.schedule import (
    Graph,
    schedule_destroyed_components,
    schedule_gateway,
    schedule_prometheus,
    schedule_removed,
    schedule_service,
)
from enova.stack.settings import POOL, Configured, compare_settings

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
class Cost:
    """USD per hour of what was last ordered and of what this plan orders; None without a price."""

    before: float | None
    after: float | None
    budget: float | None = None


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
    cost: Cost
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


@dataclass
class _Draft:
    """A plan being put together."""

    inputs: Inputs
    wanted: Stack
    recorded: Stack
    graph: Graph
    room: Room
    gate: tuple[int, ...] = ()
    """Actions that Joins and removals wait for: the gateway's."""
    changes: list[Change] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rollouts: list[RolloutNote] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)


def plan(inputs: Inputs) -> Plan:
    """The plan for ``inputs``. Never raises for what users or the world did: see ``guards``."""
    base = _base(inputs)
    draft = _Draft(
        inputs=inputs,
        wanted=_stack(inputs.ask, inputs),
        recorded=_stack(inputs.recorded, inputs),
        graph=Graph(salt=digest([base, inputs.record.serial])),
        room=Room.of(_reachable(inputs), _held(inputs.observed)),
        notes=list(inputs.notes),
    )
    components = _components(draft)
    if inputs.ask is not None:
        draft.gate = schedule_gateway(draft.graph, components[0], draft.wanted.gateway)
        schedule_prometheus(draft.graph, components[1], draft.wanted.prometheus, gate=draft.gate)
    draft.changes += [c for d in components for c in component_changes(d)]
    _add_removed(draft)
    draft.changes += _settings(draft)
    _add_services(draft)
    if inputs.ask is None and (
        draft.graph.actions or inputs.observed.components or inputs.record.serial
    ):
        schedule_destroyed_components(draft.graph, components, drain_s=DESTROY_DRAIN_S)
    cost = _cost(draft)
    ask = inputs.ask
    return Plan(
        stack=inputs.stack,
        env=inputs.env,
        base=base,
        serial=inputs.record.serial + 1,
        changes=tuple(sorted(draft.changes, key=lambda c: (order(c.address), c.symbol.value))),
        actions=tuple(draft.graph.actions),
        counts=tuple(sorted(draft.counts, key=lambda c: c.service)),
        cost=cost,
        guards=tuple(draft.guards),
        rollouts=tuple(draft.rollouts),
        notes=tuple(draft.notes),
        emulated=ask is not None and any(choice.emulated for choice in ask.choices.values()),
        target=ask.spec.pool.target if ask else "process",
        destroys=ask is None,
        next_document=ask.document if ask else None,
        next_choices={name: plain(choice) for name, choice in ask.choices.items()} if ask else {},
        next_protected=tuple(s.name for s in draft.wanted.services if s.protect),
        recommendation=inputs.recommendation,
        sources=inputs.sources,
        demands=inputs.demands,
    )


def _components(draft: _Draft) -> tuple[ComponentDifference, ComponentDifference]:
    """The differences of gateway and Prometheus."""
    inputs = draft.inputs
    gateway = compare_component(
        addresses.GATEWAY,
        wanted=draft.wanted.gateway,
        recorded=draft.recorded.gateway,
        observed=inputs.observed,
        destroyed=inputs.ask is None,
    )
    prometheus = compare_component(
        addresses.PROMETHEUS,
        wanted=draft.wanted.prometheus,
        recorded=draft.recorded.prometheus,
        observed=inputs.observed,
        destroyed=inputs.ask is None,
    )
    return gateway, prometheus


def _add_removed(draft: _Draft) -> None:
    """Services that run and should not be there, and those that are protected from that."""
    inputs = draft.inputs
    for name in removed_services(draft.wanted, inputs.observed):
        reason = Reason.DESTROYED if inputs.ask is None else Reason.REMOVED
        if draft.recorded.service(name) is None and inputs.ask is not None:
            reason = Reason.ORPHANED
        gone = compare_removed(name, inputs.observed, reason=reason)
        draft.room = schedule_removed(
            draft.graph,
            name,
            differences=gone,
            observed=inputs.observed,
            after=draft.gate,
            drain_s=DESTROY_DRAIN_S,
            room=draft.room,
        )
        draft.changes += [slot_change(difference) for difference in gone]
    for name in inputs.record.protected:
        if draft.wanted.service(name) is None:
            message = "it is protected. Apply a spec with `protect: false` for it first, then "
            draft.guards.append(Guard(name, message + "remove it."))


def _add_services(draft: _Draft) -> None:
    """The services asked for, those first that only give room back, then by priority."""
    inputs = draft.inputs
    replace_lost = inputs.ask is not None and inputs.ask.spec.pool.on_lost_host == "replace"
    compared = {
        service.name: compare_service(
            Sides(
                service,
                draft.recorded.service(service.name),
                _choice_moved(service.name, inputs),
            ),
            inputs.observed,
            record=inputs.record,
            intents=inputs.intents,
            replace_lost=replace_lost,
        )
        for service in draft.wanted.services
    }

    def place(service: ServiceResource) -> tuple[bool, int, str]:
        takes = any(d.verdict in TAKES for d in compared[service.name])
        return takes, -service.priority, service.name

    for service in sorted(draft.wanted.services, key=place):
        _add_service(draft, service, compared[service.name])


def _add_service(
    draft: _Draft, service: ServiceResource, differences: tuple[SlotDifference, ...]
) -> None:
    inputs = draft.inputs
    scheduled = schedule_service(
        draft.graph,
        service,
        differences=differences,
        observed=inputs.observed,
        room=draft.room,
        gate=draft.gate,
        deferred=frozenset(inputs.intents.deferred),
    )
    draft.room = scheduled.room
    modes = dict(scheduled.modes)
    draft.changes += [
        slot_change(d, modes.get(d.address, ""), waits=inputs.intents.deferred.get(d.address))
        for d in differences
        if (d.verdict is not Verdict.KEEP or d.leftovers) and d.address not in scheduled.unplaced
    ]
    serving = sum(
        1 for d in differences if d.instance is not None and d.instance.state is State.SERVING
    )
    wanted = wanted_count(service, inputs.record, inputs.intents)
    placed = wanted - len(scheduled.unplaced)
    if placed < wanted:
        message = f"{service.name}: {wanted} replicas are wanted, the pool has room for {placed}"
        if placed < max(service.least, 1) and not inputs.intents.counts:
            draft.guards.append(Guard(service.name, message))
        else:
            draft.notes.append(message)
    draft.guards += [Guard(address, _NO_ROOM) for address in scheduled.blocked]
    if modes:
        draft.rollouts.append(
            RolloutNote(
                service=service.name,
                replaced=len(modes),
                at_a_time=max(1, service.rollout.surge),
                lowest_serving=max(0, serving - scheduled.most_missing),
                serving_before=serving,
                seconds_each=service.template.start_timeout_s,
            )
        )
    draft.counts.append(Count(service.name, serving, placed, service.least, service.most))


_NO_ROOM = (
    "the pool has no room to start its replacement first, and rollout.max_unavailable is 0. Set "
    "it to 1 to drain the old one first, or add devices to the pool."
)


def _settings(draft: _Draft) -> list[Change]:
    """What moves nothing that runs: bounds, goals, traffic, pool."""
    asked, before = draft.inputs.ask, draft.inputs.recorded
    if asked is None or before is None:
        return []
    templates = {service.name: service.template.digest for service in draft.recorded.services}
    same = {s.name for s in draft.wanted.services if templates.get(s.name) == s.template.digest}
    differences = compare_settings(
        Configured(before.spec, before.choices),
        Configured(asked.spec, asked.choices),
        same_template=frozenset(same),
    )
    return [settings_change(difference) for difference in differences]


def _cost(draft: _Draft) -> Cost:
    """What the stack costs before and after; beyond the budget it may only get cheaper."""
    inputs = draft.inputs
    old = inputs.recorded.choices if inputs.recorded is not None else {}
    new = inputs.ask.choices if inputs.ask is not None else {}
    before = per_hour(old, inputs.record.counts)
    after = per_hour(new, {count.service: count.wanted for count in draft.counts})
    budget = inputs.ask.spec.pool.budget if inputs.ask is not None else None
    if budget is not None and after is not None and after > max(budget, before or 0.0) + ROUNDING:
        draft.guards.append(
            Guard(POOL, f"it would cost {after:.2f} USD/h, pool.budget is {budget:.2f} USD/h")
        )
    return Cost(before, after, budget)


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
