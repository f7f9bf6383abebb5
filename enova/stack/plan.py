"""The plan: what would change, why, and in which steps. One pure function for every verb.

``plan``, ``diff``, ``apply``, ``rollback``, ``destroy`` and the reconciler all call ``plan``; they
differ only in the inputs. Equal inputs give an equal plan, byte for byte: no clock, no user, no
host name goes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from enova.base import address as addresses
from enova.base.digest import digest, plain
from enova.capacity.catalog import engines
from enova.capacity.inventory import Inventory
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.from_spec import goals_of
from enova.spec.lock import LockedImage
from enova.spec.model import Spec
from enova.stack import desired, edges
from enova.stack.actions import Action, RemoveStack
from enova.stack.changes import (
    TAKES,
    Change,
    Symbol,
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
    UnderWay,
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
    schedule_monitor,
    schedule_reconciler,
    schedule_removed,
    schedule_service,
)
from enova.stack.settings import POOL, Configured, compare_settings

SCHEMA = 2
"""1 had Prometheus as its only monitor."""
DESTROY_DRAIN_S = 30.0
MONITORING = "monitoring"
"""Address of whether the monitoring part is to run."""


@dataclass(frozen=True)
class Ask:
    """One configuration: the spec with its document, and a choice a service.

    ``document`` is the plain data ``spec`` was read from; the record keeps it for rollback.
    """

    spec: Spec
    document: Mapping[str, object]
    choices: Mapping[str, Choice]
    images: Mapping[str, str] = field(default_factory=dict)
    """By what it is for (``stack.images.used``), the image to run; empty on other targets."""


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
    monitors: frozenset[str]
    """Names of the monitors that the target can run, and ``reconciler`` if it can run that."""
    monitoring: Literal["start", "stop"] | None = None
    """Asks about the monitoring part alone: from now on it runs, or it does not. None: about the
    whole stack, of which that part stays stopped when the record says so."""
    intents: Intents = field(default_factory=Intents)
    under_way: UnderWay = field(default_factory=UnderWay)
    remove_models: bool = False
    """When everything ends: downloaded models too."""
    by_reconciler: bool = False
    """The reconciler asks: the plan leaves its own container alone, in whatever state it is."""
    spec_digest: str = ""
    lock_digest: str = ""
    recommendation: tuple[Mapping[str, object], ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Files the spec was read from, as the user named them."""
    demands: Mapping[str, str] = field(default_factory=dict)
    """By service, the demand its choice answers: under it the lock file keeps the choice."""
    locked_images: Mapping[str, LockedImage] = field(default_factory=dict)
    """By reference, what registries said of the images: the lock file keeps it."""

    @property
    def monitored(self) -> bool:
        """Whether the monitoring part is to run."""
        if self.monitoring is not None:
            return self.monitoring == "start"
        return not self.record.monitors_stopped


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
    next_images: Mapping[str, str] = field(default_factory=dict)
    next_protected: tuple[str, ...] = ()
    recommendation: tuple[Mapping[str, object], ...] = ()
    sources: tuple[str, ...] = ()
    demands: Mapping[str, str] = field(default_factory=dict)
    locked_images: Mapping[str, LockedImage] = field(default_factory=dict)
    monitoring: Literal["start", "stop"] | None = None
    """It is about the monitoring part alone."""
    reconciled: bool = False
    """A container of the stack reconciles it."""
    schema: int = SCHEMA

    @property
    def removes_models(self) -> bool:
        """Whether it takes downloaded models away too."""
        return any(
            isinstance(action.do, RemoveStack) and action.do.models for action in self.actions
        )

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
        return digest(
            [self.next_document, self.next_choices, self.next_images, sorted(map(repr, essence))]
        )


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
        wanted=_stack(inputs.ask, inputs, monitored=inputs.monitored),
        recorded=_stack(inputs.recorded, inputs, monitored=not inputs.record.monitors_stopped),
        graph=Graph(salt=digest([base, inputs.record.serial])),
        room=Room.of(_reachable(inputs), [*_held(inputs.observed), *inputs.under_way.placements]),
        notes=list(inputs.notes),
    )
    if inputs.monitoring is None:
        _add_all(draft)
    else:
        _add_monitors(draft, _monitors(draft))
        draft.changes += _switched(inputs)
    draft.notes += _monitoring_notes(inputs)
    cost = _cost(draft)
    ask = inputs.ask
    configured = ask or inputs.recorded
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
        # Those of the plan that was shown are among the inputs of the one carried out.
        notes=tuple(dict.fromkeys(draft.notes)),
        emulated=ask is not None and any(choice.emulated for choice in ask.choices.values()),
        target=configured.spec.pool.target if configured else "process",
        destroys=ask is None,
        next_document=ask.document if ask else None,
        next_choices={name: plain(choice) for name, choice in ask.choices.items()} if ask else {},
        next_images=dict(ask.images) if ask else {},
        next_protected=tuple(s.name for s in draft.wanted.services if s.protect),
        recommendation=inputs.recommendation,
        sources=inputs.sources,
        demands=inputs.demands,
        locked_images=inputs.locked_images,
        monitoring=inputs.monitoring,
        reconciled=draft.wanted.reconciler is not None,
    )


def _add_all(draft: _Draft) -> None:
    """Gateway, monitors and services, or the end of all of them."""
    inputs = draft.inputs
    gateway, monitors = _gateway(draft), _monitors(draft)
    reconciler = _reconciler(draft)
    if inputs.ask is not None:
        draft.gate = schedule_gateway(draft.graph, gateway, draft.wanted.gateway)
    else:
        # First of all, so that nothing is healed that is meant to end.
        draft.gate = schedule_reconciler(draft.graph, reconciler, None)
    draft.changes += component_changes(gateway)
    _add_monitors(draft, monitors)
    _add_removed(draft)
    draft.changes += _settings(draft)
    _add_services(draft)
    if inputs.ask is not None:
        schedule_reconciler(draft.graph, reconciler, draft.wanted.reconciler)
    draft.changes += component_changes(reconciler)
    draft.changes += _unnoted(draft)
    draft.notes += _edge_notes(inputs.ask)
    if inputs.ask is None and (
        draft.graph.actions or inputs.observed.components or inputs.record.serial
    ):
        schedule_destroyed_components(
            draft.graph, (gateway, *monitors), drain_s=DESTROY_DRAIN_S, models=inputs.remove_models
        )


def _unnoted(draft: _Draft) -> list[Change]:
    """What is asked runs already, and the record does not say so: an apply ended before it could.

    The reconciler goes by the record, so it would go back to what was asked before.
    """
    ask, before = draft.inputs.ask, draft.inputs.recorded
    if ask is None or draft.changes or draft.graph.actions:
        return []
    if before is None:
        reason = Reason.INTERRUPTED
    elif ask.document != before.document:
        reason = Reason.SPEC_CHANGED
    elif (ask.choices, ask.images) != (before.choices, before.images):
        reason = Reason.CHOICE_CHANGED
    else:
        return []
    detail = "it runs as asked; only the record says otherwise"
    return [Change(addresses.STACK, Symbol.UPDATE, reason, detail=detail)]


def _gateway(draft: _Draft) -> ComponentDifference:
    inputs = draft.inputs
    return compare_component(
        addresses.GATEWAY,
        wanted=draft.wanted.gateway,
        recorded=draft.recorded.gateway,
        observed=inputs.observed,
        intents=inputs.intents,
        destroyed=inputs.ask is None,
    )


def _reconciler(draft: _Draft) -> ComponentDifference:
    inputs = draft.inputs
    if inputs.by_reconciler:
        return ComponentDifference(addresses.RECONCILER, Verdict.KEEP)
    return compare_component(
        addresses.RECONCILER,
        wanted=draft.wanted.reconciler,
        recorded=draft.recorded.reconciler,
        observed=inputs.observed,
        intents=inputs.intents,
        destroyed=inputs.ask is None,
    )


def _monitors(draft: _Draft) -> tuple[ComponentDifference, ...]:
    """The differences of every monitor that runs or should, by address."""
    inputs = draft.inputs
    wanted = {monitor.address: monitor for monitor in draft.wanted.monitors}
    recorded = {monitor.address: monitor for monitor in draft.recorded.monitors}
    others = {addresses.GATEWAY, addresses.RECONCILER}
    live = {c.address for c in inputs.observed.components} - others
    found = (
        compare_component(
            address,
            wanted=wanted.get(address),
            recorded=recorded.get(address),
            observed=inputs.observed,
            intents=inputs.intents,
            destroyed=inputs.ask is None,
        )
        for address in sorted(wanted.keys() | live)
    )
    return tuple(
        replace(one, reason=Reason.REQUESTED) if _on_request(one, inputs) else one for one in found
    )


def _on_request(difference: ComponentDifference, inputs: Inputs) -> bool:
    """Whether it is the stopping or starting of the whole part that moves it."""
    if difference.reason is Reason.REMOVED:
        return not inputs.monitored
    return difference.reason is Reason.NEW and inputs.monitoring == "start"


def _add_monitors(draft: _Draft, differences: tuple[ComponentDifference, ...]) -> None:
    for difference in differences:
        name = addresses.parse_monitor(difference.address)
        wanted = draft.wanted.monitor(name) if name is not None else None
        if draft.inputs.ask is not None:
            schedule_monitor(draft.graph, difference, wanted, gate=draft.gate)
        draft.changes += component_changes(difference)


def _switched(inputs: Inputs) -> list[Change]:
    """That the monitoring part is to run or not from now on, where that is new."""
    if inputs.monitored != inputs.record.monitors_stopped:
        return []
    detail = "runs from now on" if inputs.monitored else "stays stopped until it is started again"
    return [Change(MONITORING, Symbol.UPDATE, Reason.REQUESTED, detail=detail)]


def _monitoring_notes(inputs: Inputs) -> list[str]:
    """What stays stopped, for those who would expect it to run."""
    stopped = inputs.record.monitors_stopped and not inputs.monitored
    if inputs.ask is None or not stopped:
        return []
    env = f" --env {inputs.env}" if inputs.env else ""
    return [f"monitoring is stopped; start it with: enova mon start {inputs.stack}{env}"]


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
            under_way=inputs.under_way,
            replace_lost=replace_lost,
        )
        for service in draft.wanted.services
    }

    def place(service: ServiceResource) -> tuple[bool, int, str]:
        takes = any(d.verdict in TAKES for d in compared[service.name])
        return takes, -service.priority, service.name

    for service in sorted(draft.wanted.services, key=place):
        _add_service(draft, service, compared[service.name])


def _edge_notes(ask: Ask | None) -> list[str]:
    """Which goals an engine can only count nearly."""
    if ask is None:
        return []
    return [
        note
        for name, service in sorted(ask.spec.services.items())
        for note in edges.notes(
            name,
            engines.facts(ask.choices[name].engine, ask.choices[name].engine_version),
            goals_of(service.goals).goals,
        )
    ]


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
    if inputs.monitoring is not None:
        return Cost(None, None)
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
    if made.monitoring is not None:
        stopped = made.monitoring == "stop"
        return replace(record, serial=made.serial, monitors_stopped=stopped, applying=False)
    counts = {count.service: count.wanted for count in made.counts}
    return Record(
        stack=record.stack,
        env=record.env,
        serial=made.serial,
        document=made.next_document,
        choices={
            name: value for name, value in made.next_choices.items() if isinstance(value, Mapping)
        },
        images=made.next_images,
        counts=counts,
        protected=made.next_protected,
        monitors_stopped=record.monitors_stopped,
        applying=False,
    )


def _stack(ask: Ask | None, inputs: Inputs, *, monitored: bool) -> Stack:
    if ask is None:
        return Stack(inputs.stack)
    stack = desired.build(ask.spec, ask.choices, monitors=inputs.monitors, images=ask.images)
    # Only then: services and gateway are the same whether their monitors run or not.
    return stack if monitored else replace(stack, monitors=())


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
        (c.address, c.digest, *c.tampered)
        for c in inputs.observed.components
        if c.state is not State.EXITED
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
    """Whether the lock says something else of a service than what was last applied."""
    before = inputs.record.choices.get(service)
    after = inputs.ask.choices.get(service) if inputs.ask else None
    if before is None or after is None or inputs.ask is None:
        return False
    image_moved = inputs.record.images.get(service) != inputs.ask.images.get(service)
    return image_moved or plain(before) != plain(after)
