"""One tick of the reconciler as a pure function of what was seen.

In: what was last applied, what runs, what is being carried out already, signals, the memory of
earlier ticks, the time. Out: a plan (the same ``stack.plan.plan`` every verb calls) for all that is
not under way, the decisions that led to it, the next memory. The reconciler is not a second engine:
it only supplies intents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from enova.base import address as addresses
from enova.capacity.inventory import Inventory
from enova.policy import healing, scaling
from enova.policy.signals import ReplicaSignals, Signals
from enova.spec.model import Service
from enova.stack.compare import Intents, UnderWay
from enova.stack.cost import affordable
from enova.stack.desired import MOST_REPLICAS
from enova.stack.observed import Component, Instance, Observed, State
from enova.stack.plan import Ask, Inputs, Plan, plan
from enova.stack.record import Record

UNHEALTHY_AFTER_S = 30.0
"""An engine, gateway or monitor that served and has not answered for this long is replaced."""


@dataclass(frozen=True)
class Memory:
    """What the reconciler carries from tick to tick."""

    scaling: Mapping[str, scaling.Memory] = field(default_factory=dict)
    healing: healing.Memory = field(default_factory=healing.Memory)
    unhealthy_since: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """Everything a tick looks at. ``now`` in seconds since the epoch."""

    record: Record
    applied: Ask
    observed: Observed
    inventory: Inventory
    signals: Mapping[str, Signals]
    tables: Mapping[str, scaling.CapacityTable]
    """What each service's replicas carry within its goals."""
    monitors: frozenset[str]
    """Names of the monitors that the target can run."""
    now: float
    under_way: UnderWay = field(default_factory=UnderWay)
    """As it was before the rest was looked at: what ended meanwhile counts as going on."""


@dataclass(frozen=True)
class Tick:
    """What a tick concluded."""

    plan: Plan
    decisions: Mapping[str, scaling.Decision]
    memory: Memory


def tick(seen: Seen, memory: Memory) -> Tick:
    """Decide counts and replacements from what was seen, and plan them."""
    counts: dict[str, int] = {}
    reasons: dict[str, str] = {}
    decisions: dict[str, scaling.Decision] = {}
    scaled: dict[str, scaling.Memory] = {}
    choices = seen.applied.choices
    ordered = {
        name: seen.record.counts.get(name, choice.replicas) for name, choice in choices.items()
    }
    services = seen.applied.spec.services
    for name in sorted(services, key=lambda n: (-services[n].priority, n)):
        service, current = services[name], ordered[name]
        affords = affordable(
            name,
            choices=choices,
            counts={**ordered, **counts},
            budget=seen.applied.spec.pool.budget,
        )
        instances = seen.observed.of_service(name)
        decision, scaled[name] = scaling.decide(
            memory.scaling.get(name, scaling.Memory()),
            seen.signals.get(name) or Signals(at_s=seen.now, window_s=0.0),
            table=seen.tables[name],
            bounds=_bounds(service, instances, affords=affords),
            supply=_supply(instances, seen.under_way),
            current=current,
            now=seen.now,
        )
        if decision.replicas < current and _some_come(name, seen.under_way):
            decision = replace(
                decision,
                replicas=current,
                reason=f"{decision.reason}: {current} are kept until those on their way serve",
            )
        counts[name], decisions[name] = decision.replicas, decision
        if decision.replicas != current:
            reasons[name] = decision.reason
    healed, useless, unhealthy = _heal(seen, memory)
    intents = Intents(
        counts=counts,
        count_reasons=reasons,
        replace=useless,
        deferred=healing.waiting(healed, now=seen.now),
    )
    made = plan(
        Inputs(
            stack=seen.record.stack,
            env=seen.record.env,
            ask=seen.applied,
            record=seen.record,
            recorded=seen.applied,
            observed=seen.observed,
            inventory=seen.inventory,
            monitors=seen.monitors,
            intents=intents,
            under_way=seen.under_way,
            by_reconciler=True,
        )
    )
    return Tick(made, decisions, Memory(scaled, healed, unhealthy))


def _bounds(
    service: Service, instances: tuple[Instance, ...], *, affords: int | None
) -> scaling.Bounds:
    """What the spec and the budget allow; the budget never takes away the spec's least."""
    scale = service.scale
    most = scale.max if scale.max is not None else max(MOST_REPLICAS, len(instances))
    if affords is not None:
        most = min(most, max(affords, scale.min, 1))
    return scaling.Bounds(
        least=scale.min,
        most=most,
        warm=scale.warm,
        hold_s=scale.hold,
        to_zero=scale.to_zero,
        idle_s=scale.idle,
    )


def _supply(instances: tuple[Instance, ...], under_way: UnderWay) -> scaling.Supply:
    """Without those that are on their way out."""
    states = [i.state for i in instances if under_way.stays.get(i.address, True)]
    return scaling.Supply(
        serving=states.count(State.SERVING), starting=states.count(State.STARTING)
    )


def _some_come(service: str, under_way: UnderWay) -> bool:
    """Whether replicas of the service start or are exchanged: adding comes before removing."""
    return any(
        stays and (parsed := addresses.parse_replica(address)) and parsed[0] == service
        for address, stays in under_way.stays.items()
    )


def _heal(seen: Seen, memory: Memory) -> tuple[healing.Memory, dict[str, str], dict[str, float]]:
    """Back-off of failed slots, and what to replace because it does no work.

    What fails at an address under way is noted when that ends, and only then.
    """
    replicas = [i for i in seen.observed.instances if addresses.parse_replica(i.address)]
    failed = {
        i.address: i.id
        for i in replicas
        if i.state is State.EXITED and i.address not in seen.under_way.stays
    }
    healed = healing.note_failures(memory.healing, failed, now=seen.now)
    steps = {
        instance: (numbers.steps, _open(numbers))
        for signals in seen.signals.values()
        for instance, numbers in signals.replicas.items()
    }
    stuck, healed = healing.hung(healed, steps, now=seen.now)
    seconds = f"{healing.HANG_AFTER_S:.0f} s"
    useless = dict.fromkeys(stuck, f"no engine step for {seconds} with requests open")
    others = [c for c in seen.observed.components if c.address != addresses.RECONCILER]
    judged: list[Instance | Component] = [*replicas, *others]
    unhealthy = {
        one.id: memory.unhealthy_since.get(one.id, seen.now)
        for one in judged
        if one.state is State.UNHEALTHY
    }
    for name, since in unhealthy.items():
        if seen.now - since >= UNHEALTHY_AFTER_S:
            useless[name] = f"it has not answered for {seen.now - since:.0f} s"
    return healed, useless, unhealthy


def _open(numbers: ReplicaSignals) -> float | None:
    """Requests in the engine, running or queued; None when neither is known."""
    known = [count for count in (numbers.running, numbers.waiting) if count is not None]
    return sum(known) if known else None
