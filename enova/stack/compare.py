"""The differences between what should run and what runs, each with its reason.

In: the stack asked for, the stack last applied, what is observed, intents. Out: one ``Verdict`` a
slot and component. Comparing never schedules: ``stack.schedule`` turns verdicts into actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum

from enova.base import address as addresses
from enova.stack.images import by_tag
from enova.stack.observed import Component, Instance, Observed, Placement, State
from enova.stack.owners import IMAGES, Owner, Reason, owner, reason_for
from enova.stack.record import Record
from enova.stack.resources import (
    WATCHED,
    Fields,
    GatewayResource,
    MonitorResource,
    ReconcilerResource,
    Scalar,
    ServiceResource,
    Stack,
)


@dataclass(frozen=True)
class FieldChange:
    """One field that differs."""

    path: str
    before: Scalar
    after: Scalar
    owner: Owner


class Verdict(StrEnum):
    """What is to be done about one slot or component."""

    KEEP = "keep"
    START = "start"
    FINISH = "finish"
    """It runs and is the right one, but is not yet serving behind the gateway."""
    REPLACE = "replace"
    CHANGE = "change"
    """It takes over what differs while it runs."""
    REMOVE = "remove"
    WEIGH = "weigh"


@dataclass(frozen=True)
class SlotDifference:
    """One slot: the verdict, the instance it is about, leftovers to clear, and why."""

    address: str
    verdict: Verdict
    reason: Reason | None = None
    instance: Instance | None = None
    leftovers: tuple[Instance, ...] = ()
    fields: tuple[FieldChange, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class ComponentDifference:
    """A part of the stack itself: the verdict, the live one, leftovers to clear, and why."""

    address: str
    verdict: Verdict
    reason: Reason | None = None
    component: Component | None = None
    leftovers: tuple[Component, ...] = ()
    fields: tuple[FieldChange, ...] = ()
    detail: str = ""


@dataclass(frozen=True)
class Intents:
    """What policies want of this plan; empty for a person's plan."""

    counts: Mapping[str, int] = field(default_factory=dict)
    count_reasons: Mapping[str, str] = field(default_factory=dict)
    replace: Mapping[str, str] = field(default_factory=dict)
    """Id of an instance or component to the reason in words: hung, not answering."""
    deferred: Mapping[str, float] = field(default_factory=dict)
    """Address to seconds it must still wait before it is started again."""


@dataclass(frozen=True)
class UnderWay:
    """What is being carried out already: the plan leaves these addresses and places alone."""

    stays: Mapping[str, bool] = field(default_factory=dict)
    """Address to whether it holds a replica once that is done."""
    placements: tuple[Placement, ...] = ()
    """What is still going to be taken in the pool."""


def field_changes(
    before: Fields, after: Fields, *, pinned: frozenset[str] = frozenset()
) -> tuple[FieldChange, ...]:
    """The fields that differ, sorted by path. ``pinned``: what the spec states itself."""
    old, new = dict(before), dict(after)
    return tuple(
        FieldChange(path, was, becomes, _owner(path, was, becomes, pinned))
        for path in sorted(old.keys() | new.keys())
        if (was := old.get(path)) != (becomes := new.get(path))
    )


def _owner(path: str, before: Scalar, after: Scalar, pinned: frozenset[str]) -> Owner:
    """Of an image that the spec states, only the digest is locked."""
    if path in IMAGES and isinstance(before, str) and isinstance(after, str):
        return owner(path, pinned if by_tag(before) != by_tag(after) else frozenset())
    return owner(path, pinned)


def wanted_count(service: ServiceResource, record: Record, intents: Intents) -> int:
    """The replica count: the scaler's once the service exists, within the spec's bounds."""
    if service.name in intents.counts:
        count = intents.counts[service.name]
    else:
        count = record.counts.get(service.name, service.initial_count)
    return min(max(count, service.least), service.most)


def _count_reason(service: ServiceResource, record: Record, intents: Intents) -> tuple[Reason, str]:
    """Why a service has another number of replicas than wanted, with the words for it."""
    known, count = record.counts.get(service.name), wanted_count(service, record, intents)
    if known is None or count == known:
        return Reason.INTERRUPTED, ""
    if service.name in intents.counts:
        return Reason.SCALED, intents.count_reasons.get(service.name, "")
    bound = f"at least {service.least}" if count > known else f"at most {service.most}"
    return Reason.SPEC_CHANGED, f"{bound} instead of {known}"


@dataclass(frozen=True)
class Sides:
    """The three sides of a service's comparison, bar the live one."""

    service: ServiceResource
    recorded: ServiceResource | None
    choice_moved: bool

    @property
    def pinned(self) -> frozenset[str]:
        """Arguments the spec states itself, or did."""
        before = self.recorded.template.pinned if self.recorded else ()
        return frozenset((*self.service.template.pinned, *before))


def compare_service(
    sides: Sides,
    observed: Observed,
    *,
    record: Record,
    intents: Intents,
    under_way: UnderWay,
    replace_lost: bool,
) -> tuple[SlotDifference, ...]:
    """A verdict for every slot that has an instance or should have one, sorted by slot.

    Slots under way get none; those of them that stay count as replicas.
    """
    service = sides.service
    count = wanted_count(service, record, intents)
    busy = {
        parsed[1]: stays
        for address, stays in under_way.stays.items()
        if (parsed := addresses.parse_replica(address)) and parsed[0] == service.name
    }
    slots: dict[int, list[Instance]] = {}
    for instance in observed.of_service(service.name):
        parsed = addresses.parse_replica(instance.address)
        if parsed is not None and parsed[1] not in busy:
            slots.setdefault(parsed[1], []).append(instance)
    live = {
        slot: alive
        for slot, instances in slots.items()
        if (alive := [i for i in instances if not _gone(i, replace_lost=replace_lost)])
    }
    count = max(count - sum(busy.values()), 0)
    kept = _kept_slots(live, count, service.template.digest, intents, busy=busy.keys())
    differences = []
    for slot in sorted(slots.keys() | kept):
        here = slots.get(slot, [])
        differences.append(
            _slot_difference(
                addresses.replica(service.name, slot),
                here,
                live.get(slot, []),
                wanted=slot in kept,
                sides=sides,
                observed=observed,
                record=record,
                intents=intents,
            )
        )
    return tuple(differences)


def compare_removed(
    service: str, observed: Observed, *, reason: Reason
) -> tuple[SlotDifference, ...]:
    """Every slot of a service that should not be there at all."""
    slots: dict[str, list[Instance]] = {}
    for instance in observed.of_service(service):
        slots.setdefault(instance.address, []).append(instance)
    return tuple(
        SlotDifference(
            address=address,
            verdict=Verdict.REMOVE,
            reason=reason,
            instance=instances[0],
            leftovers=tuple(instances[1:]),
        )
        for address, instances in sorted(slots.items())
    )


def compare_component(
    address: str,
    *,
    wanted: GatewayResource | MonitorResource | ReconcilerResource | None,
    recorded: GatewayResource | MonitorResource | ReconcilerResource | None,
    observed: Observed,
    intents: Intents,
    destroyed: bool,
) -> ComponentDifference:
    """The difference of the one component at an address."""
    digest = wanted.digest if wanted else None
    there = sorted(
        (c for c in observed.components if c.address == address),
        key=lambda c: (c.state is State.EXITED, c.digest != digest, c.id),
    )
    runs = [c for c in there if c.state is not State.EXITED]
    live = [c for c in runs if c.id not in intents.replace and not c.tampered]
    if wanted is None:
        if not there:
            return ComponentDifference(address, Verdict.KEEP)
        reason = Reason.DESTROYED if destroyed else Reason.REMOVED
        return ComponentDifference(address, Verdict.REMOVE, reason, there[0], tuple(there[1:]))
    if not live:
        detail = ""
        if any(c.id in intents.replace for c in runs):
            (detail, *_) = (intents.replace[c.id] for c in runs if c.id in intents.replace)
            reason = Reason.UNHEALTHY
        elif runs:
            reason, detail = Reason.DRIFTED, "; ".join(runs[0].tampered)
        elif there:
            reason, detail = Reason.FAILED_BEFORE, there[0].exit_reason or ""
        else:
            reason = Reason.NEW if recorded is None else Reason.MISSING
        fields = field_changes((), wanted.fields()) if reason is Reason.NEW else ()
        fields = _with_whole_services(fields)
        return ComponentDifference(
            address, Verdict.START, reason, None, tuple(there), fields, detail
        )
    current, leftovers = live[0], tuple(c for c in there if c is not live[0])
    if current.digest == digest:
        left = Reason.INTERRUPTED if leftovers else None
        return ComponentDifference(address, Verdict.KEEP, left, current, leftovers)
    stated = (one.pinned for one in (wanted, recorded) if isinstance(one, MonitorResource))
    changes = field_changes(
        current.fields,
        wanted.fields(),
        pinned=frozenset(path for paths in stated for path in paths),
    )
    reason = reason_for(
        {change.path: change.owner for change in changes},
        asked_moved=recorded is None or recorded.digest != digest,
        # Chosen are its image, and what is predicted of the services it watches.
        choice_moved=bool(changes),
        live_moved=recorded is None or recorded.digest != current.digest,
    )
    changed = wanted.in_place(change.path for change in changes)
    verdict = Verdict.CHANGE if changed else Verdict.REPLACE
    told = _with_whole_services(changes)
    return ComponentDifference(address, verdict, reason, current, leftovers, told)


def _with_whole_services(changes: tuple[FieldChange, ...]) -> tuple[FieldChange, ...]:
    """A service that a monitor begins or ends to watch as one field: the rest is its own."""
    found: dict[str, FieldChange] = {}
    for change in changes:
        if change.path.startswith(WATCHED) and change.path.endswith(".engine"):
            path = change.path.removesuffix(".engine")
            if change.before is None or change.after is None:
                found[path] = replace(change, path=path, owner=Owner.SPEC)
    kept = [
        change
        for change in changes
        if not any(change.path.startswith(f"{path}.") for path in found)
    ]
    return tuple(sorted([*kept, *found.values()], key=lambda change: change.path))


def _gone(instance: Instance, *, replace_lost: bool) -> bool:
    return instance.state is State.EXITED or (instance.state is State.UNKNOWN and replace_lost)


def _kept_slots(
    live: Mapping[int, list[Instance]],
    count: int,
    digest: str,
    intents: Intents,
    *,
    busy: Set[int],
) -> set[int]:
    """Which slots should hold a replica: the best of those that live, then the lowest free."""

    def badness(slot: int) -> tuple[bool, bool, bool, int]:
        instances = live[slot]
        return (
            all(i.state is not State.SERVING for i in instances),
            any(i.id in intents.replace for i in instances),
            all(i.digest != digest for i in instances),
            slot,
        )

    kept = set(sorted(live, key=badness)[:count])
    free = 0
    while len(kept) < count:
        if free not in live and free not in busy:
            kept.add(free)
        free += 1
    return kept


def _slot_difference(
    address: str,
    here: list[Instance],
    live: list[Instance],
    *,
    wanted: bool,
    sides: Sides,
    observed: Observed,
    record: Record,
    intents: Intents,
) -> SlotDifference:
    service = sides.service
    digest = service.template.digest
    gone = tuple(i for i in here if i not in live and i.state is State.EXITED)
    if not wanted:
        members = {m.instance for m in observed.members.get(service.name, ())}
        # Of one whose host does not answer, nothing but its membership can be taken away.
        going = [i for i in here if i.state is not State.UNKNOWN or i.id in members]
        going.sort(key=lambda i: i.state is State.EXITED)
        if not going:
            return SlotDifference(address, Verdict.KEEP)
        reason, detail = Reason.ORPHANED, ""
        if going[0].state is not State.EXITED:
            reason, detail = _count_reason(service, record, intents)
        return SlotDifference(
            address, Verdict.REMOVE, reason, going[0], tuple(going[1:]), detail=detail
        )
    if not live:
        known = record.counts.get(service.name)
        if gone:
            reason, detail = Reason.FAILED_BEFORE, gone[0].exit_reason or ""
        elif any(i.state is State.UNKNOWN for i in here):
            reason, detail = Reason.HOST_LOST, ""
        elif known is None or sides.recorded is None:
            reason, detail = Reason.NEW, ""
        elif wanted_count(service, record, intents) > known:
            reason, detail = _count_reason(service, record, intents)
        else:
            reason, detail = Reason.MISSING, ""
        return SlotDifference(
            address,
            Verdict.START,
            reason,
            leftovers=gone,
            fields=field_changes((), service.template.fields(), pinned=sides.pinned)
            if reason is Reason.NEW
            else (),
            detail=detail,
        )
    best = sorted(
        live,
        key=lambda i: (
            i.id in intents.replace,
            i.digest != digest,
            i.state is not State.SERVING,
            i.id,
        ),
    )
    current, leftovers = best[0], (*best[1:], *gone)
    if current.id in intents.replace:
        return SlotDifference(
            address,
            Verdict.REPLACE,
            Reason.UNHEALTHY,
            current,
            leftovers,
            detail=intents.replace[current.id],
        )
    if current.state is State.UNKNOWN:
        return SlotDifference(address, Verdict.KEEP, None, current, leftovers)
    if current.digest != digest:
        changes = field_changes(current.fields, service.template.fields(), pinned=sides.pinned)
        recorded = sides.recorded.template.digest if sides.recorded else None
        reason = reason_for(
            {change.path: change.owner for change in changes},
            asked_moved=recorded != digest,
            choice_moved=sides.choice_moved,
            live_moved=recorded != current.digest,
        )
        return SlotDifference(address, Verdict.REPLACE, reason, current, leftovers, changes)
    if current.tampered:
        return SlotDifference(
            address,
            Verdict.REPLACE,
            Reason.DRIFTED,
            current,
            leftovers,
            detail="; ".join(current.tampered),
        )
    member = next(
        (m for m in observed.members.get(service.name, ()) if m.instance == current.id), None
    )
    if member is None or member.draining or current.state is State.STARTING:
        return SlotDifference(address, Verdict.FINISH, Reason.INTERRUPTED, current, leftovers)
    if member.weight != service.template.weight:
        changes = (FieldChange("weight", member.weight, service.template.weight, owner("weight")),)
        moved = sides.recorded is None or sides.recorded.template.weight != service.template.weight
        reason = Reason.CHOICE_CHANGED if moved else Reason.DRIFTED
        return SlotDifference(address, Verdict.WEIGH, reason, current, leftovers, changes)
    return SlotDifference(
        address,
        Verdict.KEEP,
        Reason.INTERRUPTED if leftovers else None,
        current,
        leftovers,
    )


def removed_services(stack: Stack, observed: Observed) -> tuple[str, ...]:
    """Services of which something runs or is a member, but which the stack does not have."""
    seen = {i.address.split("/", 1)[0] for i in observed.instances if "/" in i.address}
    seen |= {service for service, members in observed.members.items() if members}
    return tuple(sorted(seen - {service.name for service in stack.services}))
