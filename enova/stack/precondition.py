"""What an action needs the world to be like, checked again right before it runs.

In: an action and what is observed now. Out: why it must not run, or None. ``effects.execute``
refuses the action when the world has moved since the plan was made.
"""

from __future__ import annotations

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
from enova.stack.observed import Component, Instance, Observed, State


def unmet(action: Action, observed: Observed) -> str | None:
    """Why the action must not run in this world, in words; None when it may."""
    do = action.do
    match do:
        case StartReplica() | WaitServing() | StopReplica() | Drain():
            return _unmet_at(do, do.instance, observed.instance(do.instance), action.expects)
        case Join():
            found = observed.instance(do.instance)
            if found is not None and found.state is State.EXITED:
                reason = f": {found.exit_reason}" if found.exit_reason else ""
                return f"{do.instance} exited meanwhile{reason}"
            return _unmet_at(do, do.instance, found, action.expects)
        case Leave():
            if action.expects is None:
                return None  # a member may outlive its instance
            return _unmet_at(do, do.instance, observed.instance(do.instance), action.expects)
        case (
            StartGateway()
            | ChangeGateway()
            | StopGateway()
            | StartMonitor()
            | ChangeMonitor()
            | StopMonitor()
            | StartReconciler()
            | StopReconciler()
        ):
            component = next((c for c in observed.components if c.id == do.component), None)
            return _unmet_at(do, do.component, component, action.expects)
        case RemoveStack():
            everything: list[Instance | Component] = [*observed.instances, *observed.components]
            left = sorted(one.id for one in everything if one.state is not State.EXITED)
            return f"{', '.join(left)} still there" if left else None


def _unmet_at(
    do: Do, name: str, found: Instance | Component | None, expects: str | None
) -> str | None:
    starts = (StartReplica, StartGateway, StartMonitor, StartReconciler)
    if expects is None and isinstance(do, starts):
        return f"{name} exists already" if found is not None else None
    if found is None:
        return f"{name} is not there any more"
    if expects is not None and found.digest != expects:
        return f"{name} is not the one that was planned for: {found.digest} instead of {expects}"
    return None
