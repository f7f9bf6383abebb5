"""Which steps close the gap, in which order, and what is undone when one fails.

In: differences from ``compare`` and the room in the pool. Out: an action graph. The rules:

- A replica joins the gateway only after it served a token. The first new replica of a service
  proves the change; all others wait for it.
- Replacing starts the new one first while the pool has room and the rollout has surge; otherwise
  the old one is drained first, as far as ``max_unavailable`` allows.
- A replica leaves in the order drain, leave, stop. Adding comes before removing.
- A group is one replica coming or going. When a step of a coming replica fails, that replica is
  taken away again; what served goes on serving, because its going waits for the coming.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from enova.base import address as addresses
from enova.base.digest import digest
from enova.base.errors import Bug
from enova.stack.actions import (
    Action,
    ChangeGateway,
    ChangeMonitor,
    Do,
    Drain,
    Join,
    Leave,
    RemoveStack,
    StartGateway,
    StartMonitor,
    StartReconciler,
    StartReplica,
    StopGateway,
    StopMonitor,
    StopReconciler,
    StopReplica,
    WaitServing,
)
from enova.stack.compare import ComponentDifference, SlotDifference, Verdict
from enova.stack.observed import Component, Instance, Observed, Placement, State
from enova.stack.owners import Reason
from enova.stack.placement import Room, Taken
from enova.stack.resources import (
    GatewayResource,
    MonitorResource,
    ReconcilerResource,
    ServiceResource,
)

STOP_MARGIN_S = 15.0
"""Kill grace beyond the engine's own shutdown timeout, which equals the drain timeout."""

DRIFT_DRAIN_S = 10.0
"""For open requests of a gateway that was changed by hand: its port is closed meanwhile."""
HUNG_GRACE_S = 5.0
"""Kill grace of an engine that does no work. The sooner it ends, the sooner are the requests it
holds tried elsewhere."""


@dataclass
class Graph:
    """Actions being collected. ``salt`` makes the ids of new instances unique to this plan."""

    salt: str
    actions: list[Action] = field(default_factory=list)

    def add(
        self,
        address: str,
        do: Do,
        *,
        cause: str,
        group: str,
        after: Iterable[int] = (),
        timeout_s: float = 60.0,
        expects: str | None = None,
        undo: tuple[Do, ...] = (),
    ) -> int:
        """Append one action and return its id."""
        number = len(self.actions) + 1
        self.actions.append(
            Action(
                id=number,
                address=address,
                do=do,
                cause=cause,
                group=group,
                after=tuple(sorted(set(after))),
                timeout_s=timeout_s,
                expects=expects,
                undo=undo,
            )
        )
        return number

    def name(self, address: str, resource_digest: str) -> str:
        """An id for something this plan starts, unique among plans, the same for equal inputs."""
        suffix = digest([self.salt, address, resource_digest])[:6]
        return f"{address.replace('/', '-')}-{suffix}"


@dataclass(frozen=True)
class ServiceSchedule:
    """What scheduling a service found out beside its actions."""

    room: Room
    modes: tuple[tuple[str, str], ...] = ()
    """Address to ``start-first`` or ``stop-first``, for replaced slots."""
    unplaced: tuple[str, ...] = ()
    """Addresses for which the pool has no room."""
    blocked: tuple[str, ...] = ()
    """Addresses that could only be replaced by serving with fewer than the rollout allows."""
    most_missing: int = 0
    """Most serving replicas that are away at a time."""


def schedule_service(
    graph: Graph,
    service: ServiceResource,
    *,
    differences: Sequence[SlotDifference],
    observed: Observed,
    room: Room,
    gate: Sequence[int],
    deferred: frozenset[str],
) -> ServiceSchedule:
    """Add the actions of one service. ``gate``: what coming replicas wait for (the gateway)."""
    _leave_ghosts(graph, service.name, observed)
    cleared: dict[str, list[int]] = {}
    for difference in differences:
        for instance in difference.leftovers:
            if instance.state is State.EXITED and difference.verdict is not Verdict.REMOVE:
                cleared.setdefault(difference.address, []).append(
                    _clear(graph, instance, cause="it exited")
                )
    proof: list[int] = []
    unplaced: list[str] = []
    starts = [d for d in differences if d.verdict is Verdict.START and d.address not in deferred]
    finishes = [d for d in differences if d.verdict is Verdict.FINISH]
    for difference in finishes:
        if difference.instance is not None:
            proof.append(_finish(graph, service, difference, difference.instance, gate=gate))
    for difference in starts:
        taken = room.take(service.template.needs)
        if taken is None:
            unplaced.append(difference.address)
            continue
        room = taken.room
        after = [*cleared.get(difference.address, ()), *proof[:1], *taken.after]
        proof.append(_come(graph, service, difference, taken.placement, after=after, gate=gate))
    for difference in differences:
        if difference.verdict is Verdict.WEIGH and difference.instance is not None:
            graph.add(
                difference.address,
                Join(service.name, difference.instance.id, service.template.weight),
                cause=_cause(difference),
                group=f"{difference.address} weight",
                after=gate,
                expects=difference.instance.digest,
            )
    may_start = [d for d in differences if d.address not in deferred]
    replaced = _replace(graph, service, differences=may_start, room=room, gate=gate, before=proof)
    room = replaced.room
    removed_after = proof or list(gate)
    drain_s = service.template.drain_timeout_s
    for difference in differences:
        if difference.verdict is Verdict.REMOVE:
            going = [i for i in (difference.instance, *difference.leftovers) if i is not None]
            cause = _cause(difference)
        else:
            going = [i for i in difference.leftovers if i.state is not State.EXITED]
            cause = "a newer one holds its slot"
        for instance in going:
            room = _remove(
                graph,
                service.name,
                instance,
                cause=cause,
                after=removed_after,
                drain_s=drain_s,
                room=room,
            )
    return ServiceSchedule(
        room=room,
        modes=replaced.modes,
        unplaced=(*unplaced, *replaced.unplaced),
        blocked=replaced.blocked,
        most_missing=replaced.most_missing,
    )


def schedule_removed(
    graph: Graph,
    service: str,
    *,
    differences: Sequence[SlotDifference],
    observed: Observed,
    after: Sequence[int],
    drain_s: float,
    room: Room,
) -> Room:
    """Add the actions that take a whole service away. Returns the room that leaves."""
    _leave_ghosts(graph, service, observed)
    for difference in differences:
        for instance in (difference.instance, *difference.leftovers):
            if instance is not None:
                room = _remove(
                    graph,
                    service,
                    instance,
                    cause=_cause(difference),
                    after=after,
                    drain_s=drain_s,
                    room=room,
                )
    return room


def schedule_gateway(
    graph: Graph, difference: ComponentDifference, wanted: GatewayResource | None
) -> tuple[int, ...]:
    """Add the gateway's actions. Returns those that everything else waits for."""
    cause = _cause(difference)
    # One that hangs holds the port, serves nobody and would never end its open requests.
    hangs = difference.reason is Reason.UNHEALTHY
    first = [
        old for old in difference.leftovers if hangs or old.tampered or old.state is State.EXITED
    ]
    stops = [
        _stop_component(
            graph, old, cause=cause, after=(), drain_s=DRIFT_DRAIN_S if old.tampered else 0.0
        )
        for old in first
    ]
    gate: tuple[int, ...] = ()
    current = difference.component
    if wanted is not None and difference.verdict is Verdict.START:
        name = graph.name(difference.address, wanted.digest)
        gate = (
            graph.add(
                difference.address,
                StartGateway(name, wanted),
                cause=cause,
                group=difference.address,
                after=stops,
                undo=(StopGateway(name, 0.0),),
            ),
        )
    elif wanted is not None and difference.verdict is Verdict.CHANGE and current is not None:
        gate = (
            graph.add(
                difference.address,
                ChangeGateway(current.id, wanted),
                cause=cause,
                group=difference.address,
                expects=current.digest,
            ),
        )
    for old in difference.leftovers:
        if old not in first:
            _stop_component(graph, old, cause="another gateway serves", after=gate)
    return gate


def schedule_monitor(
    graph: Graph,
    difference: ComponentDifference,
    wanted: MonitorResource | None,
    *,
    gate: Sequence[int],
) -> None:
    """Add a monitor's actions. The old one goes first, because both would write one database."""
    cause = _cause(difference)
    current = difference.component
    stops = []
    for old in (current, *difference.leftovers):
        stays = old is current and difference.verdict in (Verdict.KEEP, Verdict.CHANGE)
        if old is not None and not stays:
            stops.append(_stop_component(graph, old, cause=cause, after=()))
    if wanted is None:
        return
    if difference.verdict is Verdict.CHANGE and current is not None:
        graph.add(
            difference.address,
            ChangeMonitor(current.id, wanted),
            cause=cause,
            group=difference.address,
            after=[*stops, *gate],
            expects=current.digest,
        )
    elif difference.verdict in (Verdict.START, Verdict.REPLACE):
        name = graph.name(difference.address, wanted.digest)
        graph.add(
            difference.address,
            StartMonitor(name, wanted),
            cause=cause,
            group=difference.address,
            after=[*stops, *gate],
            undo=(StopMonitor(name),),
        )


def schedule_reconciler(
    graph: Graph, difference: ComponentDifference, wanted: ReconcilerResource | None
) -> tuple[int, ...]:
    """Add the reconciler's actions; a new one comes after all others. Returns those that stop."""
    cause, everything = _cause(difference), tuple(action.id for action in graph.actions)
    replaced = wanted is not None and difference.verdict is Verdict.REPLACE
    stops = []
    for old in (difference.component, *difference.leftovers):
        stays = old is difference.component and difference.verdict is Verdict.KEEP
        if old is not None and not stays:
            after = everything if replaced else ()
            stops.append(_stop_component(graph, old, cause=cause, after=after))
    if wanted is not None and difference.verdict in (Verdict.START, Verdict.REPLACE):
        name = graph.name(difference.address, wanted.digest)
        graph.add(
            difference.address,
            StartReconciler(name, wanted),
            cause=cause,
            group=difference.address,
            after=[*everything, *stops],
            undo=(StopReconciler(name),),
        )
    return tuple(stops)


def schedule_destroyed_components(
    graph: Graph, differences: Sequence[ComponentDifference], *, drain_s: float, models: bool
) -> None:
    """Stop gateway and monitors after every replica went, then remove the stack's files.

    ``models``: downloaded models too.
    """
    after = tuple(action.id for action in graph.actions)
    stops = []
    for difference in differences:
        for old in (difference.component, *difference.leftovers):
            if old is not None:
                cause = _cause(difference)
                stops.append(_stop_component(graph, old, cause=cause, after=after, drain_s=drain_s))
    graph.add(
        addresses.STACK,
        RemoveStack(models),
        cause="destroyed",
        group=addresses.STACK,
        after=(*after, *stops),
    )


def _cause(difference: SlotDifference | ComponentDifference) -> str:
    words = difference.reason.value if difference.reason else "kept"
    return f"{words}: {difference.detail}" if difference.detail else words


def _come(
    graph: Graph,
    service: ServiceResource,
    difference: SlotDifference,
    placement: Placement,
    *,
    after: Sequence[int],
    gate: Sequence[int],
) -> int:
    """Start, wait until it serves, join. Returns the id of the Join.

    The gateway comes first: it takes a fraction of a second, and without it a replica is no use.
    """
    template = service.template
    name = graph.name(difference.address, template.digest)
    cause, group = _cause(difference), f"{difference.address} comes"
    stop = StopReplica(name, template.drain_timeout_s + STOP_MARGIN_S)
    start = graph.add(
        difference.address,
        StartReplica(name, template, placement),
        cause=cause,
        group=group,
        after=[*after, *gate],
        undo=(stop,),
    )
    wait = graph.add(
        difference.address,
        WaitServing(name),
        cause=cause,
        group=group,
        after=[start],
        timeout_s=template.start_timeout_s,
        expects=template.digest,
    )
    return graph.add(
        difference.address,
        Join(service.name, name, template.weight),
        cause=cause,
        group=group,
        after=[wait],
        expects=template.digest,
        undo=(Leave(service.name, name),),
    )


def _finish(
    graph: Graph,
    service: ServiceResource,
    difference: SlotDifference,
    instance: Instance,
    *,
    gate: Sequence[int],
) -> int:
    """Bring a right but unfinished replica behind the gateway. Returns the id of the Join."""
    cause, group = _cause(difference), f"{difference.address} comes"
    wait = graph.add(
        difference.address,
        WaitServing(instance.id),
        cause=cause,
        group=group,
        timeout_s=service.template.start_timeout_s,
        expects=instance.digest,
        undo=(
            (StopReplica(instance.id, STOP_MARGIN_S),) if instance.state is State.STARTING else ()
        ),
    )
    return graph.add(
        difference.address,
        Join(service.name, instance.id, service.template.weight),
        cause=cause,
        group=group,
        after=[wait, *gate],
        expects=instance.digest,
    )


def _go(
    graph: Graph,
    instance: Instance,
    service: str,
    *,
    cause: str,
    after: Sequence[int],
    drain_s: float,
    grace_s: float | None = None,
) -> int:
    """Drain, leave, stop. Returns the id of the stop. ``grace_s`` None: what draining takes."""
    grace_s = drain_s + STOP_MARGIN_S if grace_s is None else grace_s
    group = f"{instance.address} goes"
    if instance.state is State.UNKNOWN:
        return graph.add(
            instance.address,
            Leave(service, instance.id),
            cause=cause,
            group=group,
            after=after,
        )
    drain = graph.add(
        instance.address,
        Drain(service, instance.id, drain_s),
        cause=cause,
        group=group,
        after=after,
        timeout_s=drain_s + STOP_MARGIN_S,
        expects=instance.digest,
    )
    leave = graph.add(
        instance.address,
        Leave(service, instance.id),
        cause=cause,
        group=group,
        after=[drain],
        expects=instance.digest,
    )
    return graph.add(
        instance.address,
        StopReplica(instance.id, grace_s),
        cause=cause,
        group=group,
        after=[leave],
        timeout_s=grace_s + STOP_MARGIN_S,
        expects=instance.digest,
    )


def _clear(graph: Graph, instance: Instance, *, cause: str) -> int:
    """Remove what an exited instance left behind."""
    return graph.add(
        instance.address,
        StopReplica(instance.id, STOP_MARGIN_S),
        cause=cause,
        group=f"{instance.address} clears",
        expects=instance.digest,
    )


def _remove(
    graph: Graph,
    service: str,
    instance: Instance,
    *,
    cause: str,
    after: Sequence[int],
    drain_s: float,
    room: Room,
) -> Room:
    """Take one instance away. Returns the room that leaves."""
    if instance.state is State.EXITED:
        _clear(graph, instance, cause=cause)
        return room
    gone = _go(graph, instance, service, cause=cause, after=after, drain_s=drain_s)
    return room.free(instance.placement, gone)


def _leave_ghosts(graph: Graph, service: str, observed: Observed) -> None:
    """Take members out of the gateway whose instance is not running any more."""
    for member in observed.members.get(service, ()):
        instance = observed.instance(member.instance)
        if instance is None or instance.state is State.EXITED:
            graph.add(
                instance.address if instance else f"{service}/replica",
                Leave(service, member.instance),
                cause="it is not running",
                group=f"{member.instance} leaves",
            )


def _stop_component(
    graph: Graph,
    component: Component,
    *,
    cause: str,
    after: Sequence[int],
    drain_s: float = 60.0,
) -> int:
    if component.address == addresses.GATEWAY:
        do: Do = StopGateway(component.id, 0.0 if component.state is State.EXITED else drain_s)
    elif component.address == addresses.RECONCILER:
        do = StopReconciler(component.id)
    else:
        do = StopMonitor(component.id)
    return graph.add(
        component.address,
        do,
        cause=cause,
        group=f"{component.id} goes",
        after=after,
        timeout_s=drain_s + STOP_MARGIN_S,
        expects=component.digest,
    )


def _replace(
    graph: Graph,
    service: ServiceResource,
    *,
    differences: Sequence[SlotDifference],
    room: Room,
    gate: Sequence[int],
    before: Sequence[int],
) -> ServiceSchedule:
    """Replace slots in batches: the first alone, then as many as surge or unavailability allow."""
    todo = [
        (d, d.instance)
        for d in differences
        if d.verdict is Verdict.REPLACE and d.instance is not None
    ]
    modes: list[tuple[str, str]] = []
    blocked: list[str] = []
    wait_for = list(before[:1])
    missing = 0
    size = 1 if service.rollout.surge else 0
    while todo:
        ends: list[int] = []
        batch: list[tuple[SlotDifference, Instance, Taken]] = []
        for difference, old in todo[:size]:
            taken = room.take(service.template.needs)
            if taken is None:
                break
            room = taken.room
            batch.append((difference, old, taken))
        for difference, old, taken in batch:
            after = [*wait_for, *taken.after]
            join = _come(graph, service, difference, taken.placement, after=after, gate=gate)
            gone = _old_goes(graph, service, difference, old, after=[join])
            room = room.free(old.placement, gone)
            ends.append(gone)
            modes.append((difference.address, "start-first"))
        if batch:
            todo = todo[len(batch) :]
            size = service.rollout.surge
        else:
            difference, old = todo.pop(0)
            # One that hangs answers /health but serves nobody.
            serves = old.state is State.SERVING and difference.reason is not Reason.UNHEALTHY
            fits = room.without(old.placement).take(service.template.needs) is not None
            if not fits or (serves and service.rollout.max_unavailable < 1):
                blocked.append(difference.address)
                continue
            gone = _old_goes(graph, service, difference, old, after=wait_for)
            in_its_place = room.free(old.placement, gone).take(service.template.needs)
            if in_its_place is None:
                raise Bug(f"{difference.address}: what fits without the old one must fit after it")
            room = in_its_place.room
            after = [gone, *in_its_place.after]
            place = in_its_place.placement
            ends.append(_come(graph, service, difference, place, after=after, gate=gate))
            modes.append((difference.address, "stop-first"))
            missing = max(missing, 1 if serves else 0)
        wait_for = ends or wait_for
    return ServiceSchedule(
        room=room, modes=tuple(modes), blocked=tuple(blocked), most_missing=missing
    )


def _old_goes(
    graph: Graph,
    service: ServiceResource,
    difference: SlotDifference,
    old: Instance,
    *,
    after: Sequence[int],
) -> int:
    """One that does no work is not waited for: no request it holds would end by itself."""
    hung = difference.reason is Reason.UNHEALTHY
    return _go(
        graph,
        old,
        service.name,
        cause=_cause(difference),
        after=after,
        drain_s=0.0 if hung else service.template.drain_timeout_s,
        grace_s=HUNG_GRACE_S if hung else None,
    )
