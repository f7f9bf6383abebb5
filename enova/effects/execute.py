"""Walks an action graph and decides nothing: order, preconditions and undo are in the actions.

In: actions, a driver, a clock, a stop flag. Out: events while it goes, an ``Outcome`` at the end.
The rules:

- An action starts when all it comes after are done, up to ``parallel`` at a time. Before that its
  precondition is checked against a fresh look at the world; if the world moved, it is refused.
- When an action fails, nothing more of its service is started. Actions of other services go on as
  far as they do not come after something that did not happen: a broken model is no reason to leave
  a healthy one half rolled out.
- Once nothing of the failed group, or that builds on it, runs any more, its performed actions, the
  failed one included, are undone, the latest first. A refused action was not performed and has
  nothing to undo.
- ``StopFlag.request``: running actions end, nothing starts, nothing is undone; what serves goes on
  serving and the next plan resumes from what it finds. An undo that began is brought to its end.
  A second request returns at once and counts what still ran as failed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from queue import SimpleQueue

from enova.base import errors
from enova.effects.clock import Clock
from enova.effects.drivers.base import Driver
from enova.effects.outcome import Failure, Outcome, Row
from enova.effects.stop import StopFlag
from enova.stack import events
from enova.stack.actions import Action, Do, Drain, StopGateway, StopReplica
from enova.stack.precondition import unmet

__all__ = ["HEARTBEAT_S", "Failure", "Outcome", "Row", "StopFlag", "execute"]

HEARTBEAT_S = 30.0
"""A running action that said nothing for so long is reported as still running."""
UNDO_MARGIN_S = 30.0
"""Allowance of an undo step beyond the grace or drain time it names itself."""


def execute(
    actions: Sequence[Action],
    driver: Driver,
    *,
    clock: Clock,
    emit: Callable[[events.Event], None],
    stop: StopFlag,
    parallel: int = 4,
    permitted: Callable[[], None] = lambda: None,
) -> Outcome:
    """Perform the actions and say what became of each; never raises because one of them failed.

    ``emit`` is called in the caller's thread, in order. ``permitted`` is called before anything
    starts and raises Refused when this process may not act any more (``Held.check``): that ends
    the execution like a stop request. Raises Bug when the actions are no graph.
    """
    _require_graph(actions)
    walk = _Walk(
        actions,
        driver,
        clock=clock,
        emit=emit,
        stop=stop,
        parallel=parallel,
        permitted=permitted,
    )
    stop.listen(walk.wake_up)
    try:
        return walk.run()
    finally:
        stop.forget(walk.wake_up)


@dataclass(frozen=True)
class _WakeUp:
    """The stop flag moved."""


@dataclass(frozen=True)
class _Said:
    action: int
    phase: str


@dataclass(frozen=True)
class _Ended:
    action: int
    error: BaseException | None


@dataclass(frozen=True)
class _UndoStep:
    action: int
    step: str
    error: Exception | None


@dataclass(frozen=True)
class _UndoEnded:
    error: BaseException | None


_Message = _WakeUp | _Said | _Ended | _UndoStep | _UndoEnded


@dataclass
class _Running:
    started: float
    last_said: float
    phase: str = ""


class _Walk:
    """The state of one execution; everything but ``perform`` happens in the caller's thread."""

    def __init__(
        self,
        actions: Sequence[Action],
        driver: Driver,
        *,
        clock: Clock,
        emit: Callable[[events.Event], None],
        stop: StopFlag,
        parallel: int,
        permitted: Callable[[], None],
    ) -> None:
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._actions = {action.id: action for action in sorted(actions, key=lambda a: a.id)}
        self._driver = driver
        self._clock = clock
        self._emit = emit
        self._stop = stop
        self._parallel = max(1, parallel)
        self._permitted = permitted
        self._forbidden = ""
        self._running: dict[int, _Running] = {}
        self._done: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._performed: list[int] = []
        """In the order they ended: the reverse is a safe order to undo."""
        self._stopped_services: dict[str, int] = {}
        """With the action that failed."""
        self._failed_groups: dict[str, int] = {}
        self._undo_due: list[str] = []
        self._undoing = False
        self._undone: set[int] = set()
        self._undo_failures: list[tuple[int, str]] = []

    def wake_up(self) -> None:
        """Look at the stop flag again. Safe in a signal handler."""
        self._inbox.put(_WakeUp())

    def run(self) -> Outcome:
        """Until nothing runs and nothing can start, or until told to stop now."""
        self._emit(events.ExecutionStarted(self._clock.now(), len(self._actions)))
        while not self._stop.now:
            self._begin_undo()
            while self._start_ready():
                # A refusal may free nothing but block much: look again before waiting.
                self._begin_undo()
            if not self._running and not self._undoing:
                break
            self._wait()
        self._give_up_running()
        return self._end()

    def _start_ready(self) -> bool:
        """Start what may start. True when something was refused, so that more may have changed."""
        ready = self._ready()[: self._parallel - len(self._running)]
        if not ready or not self._may_act():
            return False
        try:
            observed = self._driver.observe()
        except Exception as error:  # noqa: BLE001 - reported as the failure of each ready action
            for action in ready:
                self._fail(action, _as_ours(action, error), performed=False)
            return True
        refused = False
        for action in ready:
            reason = unmet(action, observed)
            if self._is_blocked(action):
                continue
            if reason is None:
                self._start(action)
            else:
                refused = True
                self._fail(action, errors.Refused(_moved(action, reason)), performed=False)
        return refused

    def _ready(self) -> list[Action]:
        if self._stop.requested or self._forbidden:
            return []
        return [
            action
            for action in self._actions.values()
            if action.id not in self._done
            and action.id not in self._failures
            and action.id not in self._running
            and not self._is_blocked(action)
        ]

    def _is_blocked(self, action: Action) -> bool:
        """Whether its service or group failed, or something it comes after did not happen."""
        if self._service(action) in self._stopped_services or action.group in self._failed_groups:
            return True
        return bool(self._missing(action))

    def _missing(self, action: Action) -> list[int]:
        """What it comes after that is not done, or is going to be undone."""
        return [
            before
            for before in action.after
            if before not in self._done or self._actions[before].group in self._failed_groups
        ]

    def _may_act(self) -> bool:
        try:
            self._permitted()
        except errors.Refused as error:
            self._forbidden = str(error)
        return not self._forbidden

    def _start(self, action: Action) -> None:
        now = self._clock.monotonic()
        self._running[action.id] = _Running(now, now)
        self._emit(
            events.ActionStarted(
                self._clock.now(),
                action.id,
                action.address,
                action.do.kind,
                action.cause,
                action.group,
            )
        )
        _in_background(f"action-{action.id}", lambda: self._perform(action))

    def _perform(self, action: Action) -> None:
        error: BaseException | None = None
        try:
            self._driver.perform(action, lambda phase: self._inbox.put(_Said(action.id, phase)))
        except BaseException as raised:  # noqa: BLE001 - handed to the caller's thread, every kind
            error = raised
        self._inbox.put(_Ended(action.id, error))

    def _wait(self) -> None:
        """Take one message, or report what has been silent for too long."""
        now = self._clock.monotonic()
        due = [running.last_said + HEARTBEAT_S for running in self._running.values()]
        message = self._clock.take(self._inbox, max(min(due, default=now + HEARTBEAT_S) - now, 0.0))
        match message:
            case _Said():
                self._said(message)
            case _Ended():
                self._ended(message)
            case _UndoStep():
                self._undo_step(message)
            case _UndoEnded():
                self._undoing = False
                if message.error is not None:
                    raise message.error
            case _:
                self._beat()

    def _said(self, message: _Said) -> None:
        running = self._running[message.action]
        running.phase = message.phase
        running.last_said = self._clock.monotonic()
        self._progress(message.action, running, heartbeat=False)

    def _beat(self) -> None:
        now = self._clock.monotonic()
        for identity, running in sorted(self._running.items()):
            if now - running.last_said >= HEARTBEAT_S:
                running.last_said = now
                self._progress(identity, running, heartbeat=True)

    def _progress(self, identity: int, running: _Running, *, heartbeat: bool) -> None:
        action = self._actions[identity]
        self._emit(
            events.ActionProgress(
                self._clock.now(),
                action.id,
                action.address,
                action.do.kind,
                running.phase,
                self._clock.monotonic() - running.started,
                heartbeat,
            )
        )

    def _ended(self, message: _Ended) -> None:
        action = self._actions[message.action]
        running = self._running.pop(action.id)
        self._performed.append(action.id)
        if message.error is None:
            self._done.add(action.id)
            took = self._clock.monotonic() - running.started
            self._emit(
                events.ActionDone(
                    self._clock.now(), action.id, action.address, action.do.kind, took
                )
            )
        elif isinstance(message.error, Exception):
            self._fail(action, _as_ours(action, message.error), performed=True)
        else:
            raise message.error

    def _fail(self, action: Action, error: errors.EnovaError, *, performed: bool) -> None:
        reason = str(error)
        tail: tuple[str, ...] = ()
        if isinstance(error, errors.ActionFailed):
            reason, tail = error.reason, error.log_tail
        self._failures[action.id] = Failure(action.id, reason, tail, performed, error)
        self._stopped_services.setdefault(self._service(action), action.id)
        if action.group not in self._failed_groups:
            self._failed_groups[action.group] = action.id
            self._undo_due.append(action.group)
        self._emit(
            events.ActionFailed(
                self._clock.now(),
                action.id,
                action.address,
                action.do.kind,
                reason,
                tail,
                performed,
            )
        )

    def _begin_undo(self) -> None:
        """Undo failed groups once nothing of them, or that builds on them, runs any more.

        One undo at a time, so that what was done later is also undone first across groups.
        """
        if self._undoing or not self._undo_due or self._stop.requested or not self._may_act():
            return
        due = {group for group in self._undo_due if not self._runs_downstream(group)}
        self._undo_due = [group for group in self._undo_due if group not in due]
        steps = [
            (action, do)
            for action in (self._actions[identity] for identity in reversed(self._performed))
            if action.group in due
            for do in action.undo
        ]
        if steps:
            self._undoing = True
            _in_background("undo", lambda: self._undo_all(steps))

    def _runs_downstream(self, group: str) -> bool:
        """Whether an action of the group, or one that comes after such an action, runs."""
        seen: set[int] = set()
        todo = list(self._running)
        while todo:
            identity = todo.pop()
            if self._actions[identity].group == group:
                return True
            if identity not in seen:
                seen.add(identity)
                todo.extend(self._actions[identity].after)
        return False

    def _undo_all(self, steps: Sequence[tuple[Action, Do]]) -> None:
        crash: BaseException | None = None
        try:
            for action, do in steps:
                if self._stop.now:
                    break
                self._undo(action, do)
        except BaseException as raised:  # noqa: BLE001 - handed to the caller's thread
            crash = raised
        self._inbox.put(_UndoEnded(crash))

    def _undo(self, action: Action, do: Do) -> None:
        failed: Exception | None = None
        try:
            self._driver.perform(_undoing(action, do), lambda phase: None)
        except Exception as error:  # noqa: BLE001 - reported; the other undo steps still run
            failed = error
        self._inbox.put(_UndoStep(action.id, do.kind, failed))

    def _undo_step(self, message: _UndoStep) -> None:
        action = self._actions[message.action]
        failure = "" if message.error is None else str(message.error)
        if failure:
            self._undo_failures.append((action.id, f"{message.step}: {failure}"))
        self._undone.add(action.id)
        self._emit(
            events.ActionUndone(self._clock.now(), action.id, action.address, message.step, failure)
        )

    def _give_up_running(self) -> None:
        """After a second stop request: what still runs in its thread counts as failed."""
        for identity in sorted(self._running):
            action = self._actions[identity]
            reason = "interrupted while it ran; the next plan looks at what became of it"
            error = errors.ActionFailed(action.address, action.do.kind, reason)
            self._fail(action, error, performed=True)
        self._running.clear()

    def _end(self) -> Outcome:
        not_started = tuple(
            (action.id, self._why_not(action))
            for action in self._actions.values()
            if action.id not in self._done and action.id not in self._failures
        )
        for identity, why in not_started:
            action = self._actions[identity]
            self._emit(
                events.ActionSkipped(
                    self._clock.now(), action.id, action.address, action.do.kind, why
                )
            )
        result: events.Result = "succeeded"
        if self._failures or not_started:
            cut_short = self._stop.requested or self._forbidden
            result = "interrupted" if cut_short else "failed"
        failures = tuple(self._failures[identity] for identity in sorted(self._failures))
        outcome = Outcome(
            result=result,
            done=tuple(sorted(self._done)),
            failures=failures,
            not_started=not_started,
            undone=tuple(sorted(self._undone)),
            undo_failures=tuple(self._undo_failures),
        )
        self._emit(
            events.ExecutionEnded(
                self._clock.now(),
                result,
                outcome.done,
                tuple(failure.action for failure in failures),
                tuple(identity for identity, _ in not_started),
            )
        )
        return outcome

    def _why_not(self, action: Action) -> str:
        culprit = self._stopped_services.get(
            self._service(action), self._failed_groups.get(action.group)
        )
        if culprit is not None:
            return f"{self._actions[culprit].address} failed (action {culprit})"
        if self._forbidden:
            return self._forbidden
        missing = self._missing(action)
        if missing and not self._stop.requested:
            return f"it comes after {', '.join(str(identity) for identity in missing)}"
        return "interrupted"

    def _service(self, action: Action) -> str:
        return action.address.split("/", 1)[0]


def _undoing(action: Action, do: Do) -> Action:
    """The undo step as an action of its own, with time for the grace or drain it names."""
    own = {
        StopReplica: lambda: do.grace_s if isinstance(do, StopReplica) else 0.0,
        StopGateway: lambda: do.drain_s if isinstance(do, StopGateway) else 0.0,
        Drain: lambda: do.timeout_s if isinstance(do, Drain) else 0.0,
    }.get(type(do), lambda: 0.0)()
    return Action(
        id=action.id,
        address=action.address,
        do=do,
        cause=f"undo of {action.do.kind}",
        group=action.group,
        timeout_s=max(action.timeout_s, own + UNDO_MARGIN_S),
    )


def _as_ours(action: Action, error: Exception) -> errors.EnovaError:
    """The error as one of the six, with what the driver raised as its cause."""
    if isinstance(error, errors.EnovaError):
        return error
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    wrapped = errors.ActionFailed(action.address, action.do.kind, reason)
    wrapped.__cause__ = error
    return wrapped


def _moved(action: Action, reason: str) -> str:
    return f"{action.address}: the world has moved since the plan was made: {reason}. Plan again."


def _in_background(name: str, work: Callable[[], None]) -> None:
    """Daemon threads: after a second interrupt nobody waits for them."""
    threading.Thread(target=work, name=name, daemon=True).start()


def _require_graph(actions: Sequence[Action]) -> None:
    before = {action.id: action.after for action in actions}
    if len(before) != len(actions):
        raise errors.Bug("two actions of a plan have the same id")
    unknown = {identity for after in before.values() for identity in after} - set(before)
    if unknown:
        raise errors.Bug(f"the plan has no action {min(unknown)}, but some come after it")
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        raise errors.Bug(f"actions come after each other: {error.args[1]}") from error
