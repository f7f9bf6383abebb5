"""The loop around ``tick``: look, read signals, decide, carry out, remember, wait.

Level-based: every tick starts from what is, so a missed event costs one interval. The lease is
held only while executing. A stack that was destroyed ends the loop; a lease held by somebody else,
an unreachable target or a failed action ends only the tick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue

from enova.base.errors import EnovaError, Refused
from enova.effects.execute import Outcome, StopFlag
from enova.effects.state.journal import Kind
from enova.policy import healing
from enova.policy.scaling import Decision
from enova.services.reconciler.capacity import capacity_tables
from enova.services.reconciler.memory import memory_from_plain, memory_to_plain
from enova.services.reconciler.sources import RING, SignalReader
from enova.services.reconciler.tick import Memory, Seen, Tick, tick
from enova.stack.events import Event
from enova.stack.plan import Plan
from enova.workflows.apply import carry_out_held
from enova.workflows.wiring import Gathered, Site, ask_of, gather, site

INTERVAL_S = 5.0


@dataclass(frozen=True)
class Report:
    """One tick in brief, for printing. ``problem`` when it could not end as planned."""

    decisions: dict[str, Decision]
    plan: Plan | None = None
    outcome: Outcome | None = None
    problem: str = ""
    ended: bool = False


@dataclass(frozen=True)
class Parts:
    """What the loop works with beside the site."""

    signals: SignalReader
    emit: Callable[[Event], None]
    tell: Callable[[Report], None]
    housekeeping: Callable[[], None]
    """Run once a tick: rotating the gateway's log."""


def run(here: Site, parts: Parts, *, stop: StopFlag, interval_s: float = INTERVAL_S) -> None:
    """Tick until told to stop or the stack is gone."""
    asked: SimpleQueue[bool] = SimpleQueue()
    stop.listen(lambda: asked.put(True))
    while not stop.requested:
        here = _at_its_pool(here)
        report = once(here, parts, stop=stop)
        parts.tell(report)
        if report.ended:
            return
        here.clock.take(asked, interval_s)


def once(here: Site, parts: Parts, *, stop: StopFlag) -> Report:
    """One tick. Errors that end only the tick are in the report."""
    try:
        seen = gather(here)
        if seen.recorded is None:
            if seen.record.serial == 0:
                _leave_nothing(here)
            return Report({}, problem="nothing is applied any more", ended=True)
        concluded = _conclude(here, seen, _remembered(here), parts)
        outcome, memory = _act(here, seen, concluded, parts, stop=stop)
        here.state.write_memory(memory_to_plain(memory))
        parts.housekeeping()
    except EnovaError as error:
        return Report({}, problem=str(error))
    problem = ""
    if outcome is not None and outcome.result != "succeeded":
        problem = "; ".join(failure.reason for failure in outcome.failures) or outcome.result
    return Report(dict(concluded.decisions), concluded.plan, outcome, problem)


def _at_its_pool(here: Site) -> Site:
    """The site with the pool last applied, which may have moved since it was opened."""
    try:
        applied = ask_of(here.state.read())
    except EnovaError:
        return here  # the tick says it
    if applied is None or applied.spec.pool == here.pool:
        return here
    return site(here.surroundings, here.state.stack, env=here.state.env, pool=applied.spec.pool)


def _leave_nothing(here: Site) -> None:
    """Remove what a tick wrote while the stack was destroyed beside it."""
    lease = here.lease("enova reconcile")
    with lease.acquire() as held:
        if here.state.read().serial == 0:
            here.state.forget(held)
            (here.state.run_folder / RING).unlink(missing_ok=True)
            if here.state.run_folder.exists() and not any(here.state.run_folder.iterdir()):
                here.state.run_folder.rmdir()
    lease.clear()


def _remembered(here: Site) -> Memory:
    """What earlier ticks left; when it is damaged nothing, for healing must not wait for people."""
    try:
        return memory_from_plain(here.state.read_memory())
    except Refused:
        return Memory()


def _conclude(here: Site, seen: Gathered, memory: Memory, parts: Parts) -> Tick:
    if seen.recorded is None:
        raise Refused("nothing is applied")
    now = here.clock.now()
    signals = parts.signals.read(seen.recorded, seen.observed)
    return tick(
        Seen(
            record=seen.record,
            applied=seen.recorded,
            observed=seen.observed,
            inventory=seen.inventory,
            signals=signals,
            tables=capacity_tables(seen.recorded),
            prometheus_available=seen.prometheus_available,
            now=now,
        ),
        memory,
    )


def _act(
    here: Site, before: Gathered, concluded: Tick, parts: Parts, *, stop: StopFlag
) -> tuple[Outcome | None, Memory]:
    """Carry out the tick's plan, when there is anything in it and nobody else is applying.

    Counts alone are something too: those of a tick that failed in part are recorded by the next.
    """
    made = concluded.plan
    counts = {count.service: count.wanted for count in made.counts}
    if not made.actions and counts == before.record.counts:
        return None, concluded.memory
    with here.lease("enova reconcile").acquire() as held:
        seen = gather(here)
        if seen.record.serial != made.serial - 1:
            raise Refused("something was applied meanwhile; the next tick looks again")
        for service, decision in sorted(concluded.decisions.items()):
            counted = next((c for c in made.counts if c.service == service), None)
            if counted is not None and counted.wanted != seen.record.counts.get(service):
                detail = {
                    "replicas": decision.replicas,
                    "before": seen.record.counts.get(service),
                    "reason": decision.reason,
                    "inputs": dict(decision.inputs),
                }
                here.journal.append(Kind.DECISION, service, detail)
        for change in made.changes:
            if change.reason.value not in ("scaled",):
                detail = {"reason": change.reason.value, "detail": change.detail}
                here.journal.append(Kind.HEAL, change.address, detail)
        with _own(stop) as mine:
            outcome = carry_out_held(made, here, seen, held=held, emit=parts.emit, stop=mine)
    broken = {failure.action for failure in outcome.failures if failure.performed}
    failed = {
        action.address: f"{action.address}@{made.serial}"
        for action in made.actions
        if action.id in broken
    }
    healed = healing.note_failures(concluded.memory.healing, failed, now=here.clock.now())
    return outcome, replace(concluded.memory, healing=healed)


@contextmanager
def _own(stop: StopFlag) -> Iterator[StopFlag]:
    """A flag for one execution that follows ``stop``: losing the lease must not end the loop."""
    mine = StopFlag()
    stop.listen(mine.request)
    try:
        if stop.requested and not mine.requested:
            mine.request()
        yield mine
    finally:
        stop.forget(mine.request)
