"""What an execution tells while it walks the actions: one frozen value an event.

``effects.execute`` emits them; views print them, the journal keeps them. ``at`` is seconds since
1970 (UTC), ``action`` the id in the plan, ``step`` the kind of the action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Result = Literal["succeeded", "failed", "interrupted"]


@dataclass(frozen=True)
class ExecutionStarted:
    """The first event. ``total`` counts the actions."""

    at: float
    total: int
    kind: Literal["execution-started"] = "execution-started"


@dataclass(frozen=True)
class ActionStarted:
    """A driver was told to perform the action."""

    at: float
    action: int
    address: str
    step: str
    cause: str
    group: str
    kind: Literal["action-started"] = "action-started"


@dataclass(frozen=True)
class ActionProgress:
    """A phase of a long action, or (``heartbeat``) that it still runs and said nothing new."""

    at: float
    action: int
    address: str
    step: str
    phase: str
    running_s: float
    heartbeat: bool = False
    kind: Literal["action-progress"] = "action-progress"


@dataclass(frozen=True)
class ActionDone:
    """The action ended well."""

    at: float
    action: int
    address: str
    step: str
    took_s: float
    kind: Literal["action-done"] = "action-done"


@dataclass(frozen=True)
class ActionFailed:
    """The action failed, or was refused because the world had moved (``performed`` False)."""

    at: float
    action: int
    address: str
    step: str
    reason: str
    log_tail: tuple[str, ...] = ()
    performed: bool = True
    kind: Literal["action-failed"] = "action-failed"


@dataclass(frozen=True)
class ActionUndone:
    """One undo step of ``action`` ran. ``failure`` says why it did not work, "" when it did."""

    at: float
    action: int
    address: str
    step: str
    failure: str = ""
    kind: Literal["action-undone"] = "action-undone"


@dataclass(frozen=True)
class ActionSkipped:
    """The action was never started."""

    at: float
    action: int
    address: str
    step: str
    why: str
    kind: Literal["action-skipped"] = "action-skipped"


@dataclass(frozen=True)
class ExecutionEnded:
    """The last event: every action is in exactly one of the three lists, sorted by id."""

    at: float
    result: Result
    done: tuple[int, ...]
    failed: tuple[int, ...]
    not_started: tuple[int, ...]
    kind: Literal["execution-ended"] = "execution-ended"


Event = (
    ExecutionStarted
    | ActionStarted
    | ActionProgress
    | ActionDone
    | ActionFailed
    | ActionUndone
    | ActionSkipped
    | ExecutionEnded
)
