"""What the reconciler is carrying out: errands, each in a thread of its own, under one lease.

In: the plans of ticks. Out: what is under way, which the next tick leaves alone, and how what
ended did. The rules:

- The lease is held from the first errand's beginning to the last one's end. While somebody waits
  for it nothing more begins, so ``apply`` never waits longer than for what ran when it came.
- What is under way is not touched: an errand begins only when no other one has still something to
  do at its addresses, and nothing begins while the gateway is being changed.
- When the lease is lost, every errand stops at its next step, and later ticks begin anew.
- The loop's thread alone takes the lease and writes record and memory; an errand's thread executes
  and tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from enova.base import address as addresses
from enova.base.errors import EnovaError, Refused
from enova.effects.execute import Outcome, StopFlag, execute
from enova.effects.state.journal import Kind
from enova.effects.state.lease import Held
from enova.policy import healing
from enova.services.reconciler.memory import read_memory, write_memory
from enova.services.reconciler.tick import Seen, Tick
from enova.stack.compare import UnderWay
from enova.stack.errands import Errand, split, under_way
from enova.stack.events import ActionDone, Event, Result
from enova.stack.owners import Reason
from enova.stack.record import Record
from enova.workflows.wiring import Site

_BADNESS: tuple[Result, ...] = ("succeeded", "interrupted", "failed")


@dataclass
class _Right:
    """The lease while errands run, and the record as it is under it."""

    here: Site
    held: Held
    record: Record
    written: bool = False


@dataclass
class _Running:
    """One errand in its thread, which fills ``done`` and at its end ``became``."""

    errand: Errand
    right: _Right
    serial: int
    done: set[int] = field(default_factory=set)
    became: Outcome | BaseException | None = None
    thread: threading.Thread | None = None

    @property
    def left(self) -> Errand:
        return self.errand.without(frozenset(self.done))


class Work:
    """All that is being carried out. Leaving it stops what runs after its present steps.

    ``emit`` is called by errands' threads, one at a time, under ``speaking``; ``wake`` when an
    errand ended, after which the loop's thread is to call ``settle``.
    """

    def __init__(
        self, emit: Callable[[Event], None], *, stop: StopFlag, wake: Callable[[], None]
    ) -> None:
        self.speaking = threading.Lock()
        self._emit = emit
        self._stop = stop
        self._wake = wake
        self._running: list[_Running] = []
        self._right: _Right | None = None
        self._results: list[Result] = []
        self._problems: list[str] = []

    def under_way(self) -> UnderWay:
        """What is still going to be done. Ask before looking at the world, never after."""
        return under_way(running.left for running in self._running)

    def begin(self, here: Site, seen: Seen, concluded: Tick) -> bool:
        """Begin what of a tick's plan can begin, and note what was ordered. False: nothing to do.

        Counts alone are something too. Raises Refused when somebody else applies, wants to, or
        did since the plan was made; errands that run go on then.
        """
        made = concluded.plan
        # Also what ended since: the plan does not know yet what became of it.
        busy = seen.under_way.stays.keys()
        errands = [errand for errand in split(made) if not errand.addresses & busy]
        ordered = {count.service: count.wanted for count in made.counts}
        if addresses.GATEWAY in busy or not (errands or ordered != seen.record.counts):
            return False
        right = self._take_right(here)
        try:
            if right.held.wanted:
                raise Refused("another command waits to apply: nothing is begun before its turn")
            if right.record.serial != made.serial - 1:
                raise Refused("something was applied meanwhile; the next tick looks again")
            _note_in_journal(here, right.record, concluded, errands)
            record = replace(right.record, serial=made.serial, counts=ordered, applying=True)
            here.state.write(record, right.held)
            right.record, right.written = record, True
            for errand in errands:
                self._start(_Running(errand, right, made.serial))
        finally:
            self._give_back()
        return True

    def settle(self) -> None:
        """See to errands that ended: failures count for back-off, after the last the lease is free.

        What went wrong is said by ``ended``. Raises only what is no error of ours.
        """
        for running in [one for one in self._running if one.became is not None]:
            self._running.remove(running)
            try:
                self._see_to(running)
            except EnovaError as error:
                self._note("failed", str(error))
        try:
            self._give_back()
        except EnovaError as error:
            self._note("failed", str(error))

    def wait(self) -> None:
        """Until everything that runs has ended."""
        for running in self._running:
            if running.thread is not None:
                running.thread.join()
        self.settle()

    def ended(self) -> tuple[Result | None, str]:
        """How what ended since the last call did, and what went wrong; None when nothing ended."""
        results, self._results = self._results, []
        problems, self._problems = self._problems, []
        worst = max(results, key=_BADNESS.index, default=None)
        return worst, "; ".join(dict.fromkeys(problems))

    def __enter__(self) -> Work:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._running and not self._stop.requested:
            self._stop.request()
        self.wait()

    def _take_right(self, here: Site) -> _Right:
        """The right to act, ours already while something runs. Raises Refused."""
        if self._right is None:
            held = here.lease("enova reconcile").acquire()
            try:
                self._right = _Right(here, held, here.state.read())
            except EnovaError:
                held.release()
                raise
        self._right.held.check()
        return self._right

    def _give_back(self) -> None:
        """End the right unless something runs under it."""
        if self._right is None or self._running:
            return
        right, self._right = self._right, None
        with right.held:
            if right.written:
                right.here.state.write(replace(right.record, applying=False), right.held)

    def _start(self, running: _Running) -> None:
        self._running.append(running)
        running.thread = threading.Thread(
            target=self._carry_out, args=(running,), name="errand", daemon=True
        )
        running.thread.start()

    def _carry_out(self, running: _Running) -> None:
        """In the errand's thread."""
        here = running.right.here

        def tell(event: Event) -> None:
            if isinstance(event, ActionDone):
                running.done.add(event.action)
            with self.speaking:
                here.journal.note(event)
                self._emit(event)

        try:
            running.became = execute(
                running.errand.actions,
                here.driver,
                clock=here.clock,
                emit=tell,
                stop=self._stop,
                permitted=running.right.held.check,
            )
        except BaseException as error:  # noqa: BLE001 - handed to the loop's thread, every kind
            running.became = error
        self._wake()

    def _see_to(self, running: _Running) -> None:
        outcome = running.became
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is None or outcome.result == "succeeded":
            self._results.append("succeeded")
            return
        reasons = [failure.reason for failure in outcome.failures]
        self._note(outcome.result, "; ".join(reasons) or outcome.result)
        broken = {failure.action for failure in outcome.failures if failure.performed}
        failed = {
            action.address: f"{action.address}@{running.serial}"
            for action in running.errand.actions
            if action.id in broken
        }
        here = running.right.here
        memory = read_memory(here.state)
        healed = healing.note_failures(memory.healing, failed, now=here.clock.now())
        write_memory(here.state, replace(memory, healing=healed))

    def _note(self, result: Result, problem: str) -> None:
        self._results.append(result)
        self._problems.append(problem)


def _note_in_journal(
    here: Site, record: Record, concluded: Tick, errands: Sequence[Errand]
) -> None:
    """Every count that moves with the numbers it rests on, and what is healed."""
    counts = {count.service: count.wanted for count in concluded.plan.counts}
    for service, decision in sorted(concluded.decisions.items()):
        if counts.get(service) not in (None, record.counts.get(service)):
            detail = {
                "replicas": decision.replicas,
                "before": record.counts.get(service),
                "reason": decision.reason,
                "inputs": dict(decision.inputs),
            }
            here.journal.append(Kind.DECISION, service, detail)
    touched = frozenset[str]().union(*(errand.addresses for errand in errands))
    for change in concluded.plan.changes:
        if change.address in touched and change.reason is not Reason.SCALED:
            healed = {"reason": change.reason.value, "detail": change.detail}
            here.journal.append(Kind.HEAL, change.address, healed)
