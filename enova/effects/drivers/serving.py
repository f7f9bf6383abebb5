"""Whether an engine serves: waiting for its first token, telling late from dead, whatever runs it.

In: an engine that was started, as its target sees it. Out: the time to the first token, a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from enova.base.errors import ActionFailed, Unreachable
from enova.effects.clock import Clock
from enova.effects.drivers import log_words, probe
from enova.effects.drivers.folder import TAIL_LINES, Folder, Meta
from enova.effects.drivers.probe import Health
from enova.stack.actions import Action
from enova.stack.observed import State
from enova.stack.render import engine

TOKEN_TIMEOUT_S = 60.0
HEALTH_TIMEOUT_S = 2.0
SILENT_TIMES = 3
"""Health probes in a row without an answer that make a serving engine unhealthy: late under load
is not dead."""

_STEP = "wait until it serves"
_LOOK_S = 0.1
_LOOK_LATER_S = 0.5
_EARLY_S = 5.0
_RETRIED = (408, 425, 429)
_LINES = 400


class Coming(Protocol):
    """An engine on its way, as its target sees it."""

    def check(self) -> Meta:
        """Where it is to answer now. Raises ActionFailed with its reason once it ended."""
        ...

    def lines(self, count: int) -> list[str]:
        """Its last lines."""
        ...

    def pause(self, seconds: float) -> None:
        """Return after so long, or as soon as it ended."""
        ...


def wait_serving(
    action: Action, coming: Coming, *, clock: Clock, progress: Callable[[str], None]
) -> float:
    """Seconds until it answered one token. Raises ActionFailed as soon as it cannot."""
    begin = clock.monotonic()
    end = begin + action.timeout_s
    told: list[str] = []

    def tell(words: Iterable[str]) -> None:
        for word in words:
            if word not in told:
                told.append(word)
                progress(word)

    tell(["process"])
    listens_at = ""
    while True:
        meta = coming.check()
        lines = coming.lines(_LINES)
        tell(log_words.phases(lines))
        if listens_at != meta.endpoint:
            found = probe.health(
                meta.host, meta.port, path=engine.HEALTH_PATH, timeout_s=HEALTH_TIMEOUT_S
            )
            listens_at = meta.endpoint if found is Health.OK else ""
        if listens_at:
            tell(["http"])
            left = max(1.0, end - clock.monotonic())
            if _answers(meta, action, lines, timeout_s=min(left, TOKEN_TIMEOUT_S)):
                tell(["first token"])
                return clock.monotonic() - begin
        if clock.monotonic() >= end:
            raise ActionFailed(
                action.address,
                _STEP,
                f"no token within {action.timeout_s:.0f} s; reached: {', '.join(told)}",
                lines[-TAIL_LINES:],
            )
        early = clock.monotonic() - begin < _EARLY_S
        coming.pause(_LOOK_S if early else _LOOK_LATER_S)


def _answers(meta: Meta, action: Action, lines: Sequence[str], *, timeout_s: float) -> bool:
    """Whether it answers one token now. Raises ActionFailed when it says it never will."""
    try:
        reply = probe.one_token(meta.host, meta.port, model=meta.served_name, timeout_s=timeout_s)
    except Unreachable:
        return False
    if probe.answered(reply):
        return True
    if 400 <= reply.status < 500 and reply.status not in _RETRIED:
        raise ActionFailed(
            action.address,
            _STEP,
            f"it refuses a one-token request with {reply.status}: {reply.body[:300].strip()}",
            lines[-TAIL_LINES:],
        )
    return False


class Watch:
    """Health of engines that run, over several looks."""

    def __init__(self) -> None:
        self._silent: dict[str, int] = {}

    def look(self, running: Iterable[tuple[Folder, Meta]]) -> dict[str, State]:
        """The state of each by id. One that has not answered a token yet is starting."""
        running = list(running)
        served = [(folder, meta) for folder, meta in running if folder.served() is not None]
        answers = probe.health_of(
            [(meta.host, meta.port, engine.HEALTH_PATH) for _, meta in served],
            timeout_s=HEALTH_TIMEOUT_S,
        )
        states = {folder.id: State.STARTING for folder, _ in running}
        for (folder, _), health in zip(served, answers, strict=True):
            states[folder.id] = self._state(folder.id, health)
        return states

    def forget(self, instance: str) -> None:
        """It is gone."""
        self._silent.pop(instance, None)

    def _state(self, instance: str, health: Health) -> State:
        silent = self._silent.get(instance, 0) + 1 if health is Health.SILENT else 0
        self._silent[instance] = silent
        if health in (Health.REFUSED, Health.FAILING) or silent >= SILENT_TIMES:
            return State.UNHEALTHY
        return State.SERVING


def check_joinable(
    action: Action,
    folder: Folder,
    *,
    ended: Callable[[], str | None],
    lines: Callable[[], list[str]],
) -> Meta:
    """The meta of an instance that runs and has answered a token. Raises ActionFailed.

    ``ended`` says why it does not run, None while it does.
    """
    meta = folder.meta()
    if meta is None:
        raise ActionFailed(action.address, "join", f"{folder.id} does not exist")
    reason = ended()
    if reason is not None:
        raise ActionFailed(action.address, "join", f"{folder.id} does not run: {reason}", lines())
    if folder.served() is None:
        raise ActionFailed(action.address, "join", f"{folder.id} has not answered a token yet")
    return meta
