"""The loop around ``tick``: look, read signals, decide, begin, remember, wait.

Level-based: every tick starts from what is, so a missed event costs one interval. What a tick
begins goes on beside the loop (``work``), so a replica that takes minutes to start or to drain
keeps no other from being looked after; later ticks leave alone what is under way. A stack that was
destroyed ends the loop; a lease held by somebody else, an unreachable target or a failed action
ends only the tick or what failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

from enova.base.errors import EnovaError
from enova.effects.execute import StopFlag
from enova.effects.state.keeper import Keeper, leave, write_keeper
from enova.effects.state.lease import this_process
from enova.policy.scaling import Decision
from enova.services.reconciler.capacity import capacity_tables
from enova.services.reconciler.memory import read_memory, write_memory
from enova.services.reconciler.sources import RING, SignalReader
from enova.services.reconciler.tick import Seen, tick
from enova.services.reconciler.work import Work
from enova.stack.compare import UnderWay
from enova.stack.events import Event, Result
from enova.stack.monitoring import RECONCILE_INTERVAL_S
from enova.stack.plan import Ask, Plan
from enova.workflows.wiring import Gathered, Site, ask_of, gather, site

INTERVAL_S = RECONCILE_INTERVAL_S
FIRST_APPLY_LOOK_S = 1.0
COMMAND = "enova reconcile"


@dataclass(frozen=True)
class Report:
    """One tick in brief, for printing. ``problem`` when something did not go as planned."""

    decisions: Mapping[str, Decision] = field(default_factory=dict)
    plan: Plan | None = None
    begun: bool = False
    """Whether something of the plan began now."""
    result: Result | None = None
    """How what ended since the tick before did, the worst of it; None when nothing ended."""
    problem: str = ""
    ended: bool = False


@dataclass(frozen=True)
class Parts:
    """What the loop works with beside the site. ``emit`` and ``tell`` are never called at once."""

    signals: SignalReader
    emit: Callable[[Event], None]
    tell: Callable[[Report], None]
    housekeeping: Callable[[], None]
    """Run once a tick: rotating the gateway's log."""


def await_applied(here: Site, *, stop: StopFlag, interval_s: float = INTERVAL_S) -> bool:
    """Wait for the end of a first apply, of which this reconciler may be the last step: before that
    nobody knows the pool. Whether something is applied then."""
    news: SimpleQueue[bool] = SimpleQueue()
    stop.listen(lambda: news.put(True))
    waits = Report(problem="it is being applied for the first time")
    record = here.state.read()
    while record.document is None and record.applying and not stop.requested:
        _noted(here, waits, interval_s=interval_s)
        here.clock.take(news, min(interval_s, FIRST_APPLY_LOOK_S))
        record = here.state.read()
    if record.document is None:
        leave(here.state, this_process(COMMAND))
    return record.document is not None


def run(here: Site, parts: Parts, *, stop: StopFlag, interval_s: float = INTERVAL_S) -> None:
    """Tick until told to stop or the stack is gone. What runs then ends its present steps."""
    news: SimpleQueue[bool] = SimpleQueue()
    stop.listen(lambda: news.put(True))
    with Work(parts.emit, stop=stop, wake=lambda: news.put(True)) as work:
        ended = False
        while not (stop.requested or ended):
            here = _at_its_pool(here)
            report = _with_ended(_look(here, parts, work), work)
            if not report.ended:
                report = _noted(here, report, interval_s=interval_s)
            with work.speaking:
                parts.tell(report)
            ended = report.ended
            if not ended:
                _wait(here, work, news, stop=stop, interval_s=interval_s)
    leave(here.state, this_process(COMMAND))
    last = _with_ended(Report(), work)
    if last.result is not None:
        parts.tell(last)


def once(here: Site, parts: Parts, *, stop: StopFlag) -> Report:
    """One tick, carried out to its end. Errors that end only the tick are in the report."""
    with Work(parts.emit, stop=stop, wake=lambda: None) as work:
        report = _look(here, parts, work)
        work.wait()
    return _with_ended(report, work)


def _look(here: Site, parts: Parts, work: Work) -> Report:
    """One tick: what it begins goes on after it."""
    try:
        under_way = work.under_way()
        found = gather(here)
        if found.recorded is None:
            if found.record.serial == 0:
                _leave_nothing(here)
            return Report(problem="nothing is applied any more", ended=True)
        seen = _seen(here, found, found.recorded, under_way, parts)
        concluded = tick(seen, read_memory(here.state))
        write_memory(here.state, concluded.memory)
        begun = work.begin(here, seen, concluded)
        parts.housekeeping()
    except EnovaError as error:
        return Report(problem=str(error))
    return Report(concluded.decisions, concluded.plan, begun)


def _wait(
    here: Site, work: Work, news: SimpleQueue[bool], *, stop: StopFlag, interval_s: float
) -> None:
    """Until the next tick is due or stopping was asked for, seeing to what ends meanwhile."""
    end = here.clock.monotonic() + interval_s
    while True:
        here.clock.take(news, end - here.clock.monotonic())
        work.settle()
        if stop.requested or here.clock.monotonic() >= end:
            return


def _with_ended(report: Report, work: Work) -> Report:
    """The report with how what ended since the last one did."""
    result, problem = work.ended()
    problems = "; ".join(filter(None, (report.problem, problem)))
    return replace(report, result=result, problem=problems)


def _at_its_pool(here: Site) -> Site:
    """The site with the pool last applied, which may have moved since it was opened."""
    try:
        applied = ask_of(here.state.read())
    except EnovaError:
        return here  # the tick says it
    if applied is None or applied.spec.pool == here.pool:
        return here
    return site(here.surroundings, here.state.stack, env=here.state.env, pool=applied.spec.pool)


def _noted(here: Site, report: Report, *, interval_s: float) -> Report:
    """The report, after noting that this one looks after the stack. A disk that refuses that ends
    no tick: it is one more problem to report."""
    keeper = Keeper(this_process(COMMAND), here.clock.now(), interval_s, report.problem)
    try:
        write_keeper(here.state, keeper)
    except EnovaError as error:
        return replace(report, problem="; ".join(filter(None, (report.problem, str(error)))))
    return report


def _leave_nothing(here: Site) -> None:
    """Remove what a tick wrote while the stack was destroyed beside it."""
    lease = here.lease(COMMAND)
    with lease.acquire() as held:
        if here.state.read().serial == 0:
            here.state.forget(held)
            (here.state.run_folder / RING).unlink(missing_ok=True)
            if here.state.run_folder.exists() and not any(here.state.run_folder.iterdir()):
                here.state.run_folder.rmdir()
    lease.clear()


def _seen(here: Site, found: Gathered, applied: Ask, under_way: UnderWay, parts: Parts) -> Seen:
    now = here.clock.now()
    return Seen(
        record=found.record,
        applied=applied,
        observed=found.observed,
        inventory=found.inventory,
        signals=parts.signals.read(applied, found.observed),
        tables=capacity_tables(applied),
        monitors=found.monitors,
        now=now,
        under_way=under_way,
    )
