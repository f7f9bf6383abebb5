"""Steps that change the world: single, nameable, checkable. Drivers know these and nothing else.

Each action carries its address, its cause in words, its place in the graph (``after``), its group
(what is undone together), the precondition that is checked again before it runs, and a time
allowance in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enova.stack.observed import Placement
from enova.stack.resources import (
    GatewayResource,
    MonitorResource,
    ReconcilerResource,
    ReplicaTemplate,
)


@dataclass(frozen=True)
class StartReplica:
    """Start an engine, detached. Returns when its process or container exists."""

    instance: str
    template: ReplicaTemplate
    placement: Placement
    kind: Literal["start-replica"] = "start-replica"


@dataclass(frozen=True)
class WaitServing:
    """Wait until the instance answered one token. Fails as soon as it is certain it never will."""

    instance: str
    kind: Literal["wait-serving"] = "wait-serving"


@dataclass(frozen=True)
class Join:
    """Put a serving instance into the gateway's membership."""

    service: str
    instance: str
    weight: int
    kind: Literal["join"] = "join"


@dataclass(frozen=True)
class Drain:
    """Send nothing new to the instance and wait until its open requests ended, or the timeout."""

    service: str
    instance: str
    timeout_s: float
    kind: Literal["drain"] = "drain"


@dataclass(frozen=True)
class Leave:
    """Take the instance out of the membership."""

    service: str
    instance: str
    kind: Literal["leave"] = "leave"


@dataclass(frozen=True)
class StopReplica:
    """Stop the instance: SIGTERM, then SIGKILL after the grace; remove what belongs to it.

    ``grace_s`` must be longer than the engine's own shutdown timeout.
    """

    instance: str
    grace_s: float
    kind: Literal["stop-replica"] = "stop-replica"


@dataclass(frozen=True)
class StartGateway:
    """Start Envoy with this configuration."""

    component: str
    gateway: GatewayResource
    kind: Literal["start-gateway"] = "start-gateway"


@dataclass(frozen=True)
class ChangeGateway:
    """Change a running gateway in place: no listener closes, no open request notices.

    When the new configuration is rejected the old one stays in force.
    """

    component: str
    gateway: GatewayResource
    kind: Literal["change-gateway"] = "change-gateway"


@dataclass(frozen=True)
class StopGateway:
    """Drain the listeners of this Envoy, wait for open requests up to ``drain_s``, stop it."""

    component: str
    drain_s: float
    kind: Literal["stop-gateway"] = "stop-gateway"


@dataclass(frozen=True)
class StartMonitor:
    """Write this program's files and start it. Returns when it is ready."""

    component: str
    monitor: MonitorResource
    kind: Literal["start-monitor"] = "start-monitor"


@dataclass(frozen=True)
class ChangeMonitor:
    """Write a running program's files anew and have it read them: only fields that it takes over
    so (``MonitorResource.in_place``).

    When it rejects them the old ones stay in force.
    """

    component: str
    monitor: MonitorResource
    kind: Literal["change-monitor"] = "change-monitor"


@dataclass(frozen=True)
class StopMonitor:
    """Stop this program. What it has stored stays until the stack is removed."""

    component: str
    kind: Literal["stop-monitor"] = "stop-monitor"


@dataclass(frozen=True)
class StartReconciler:
    """Start the stack's own reconciler. Returns when it looks after the stack."""

    component: str
    reconciler: ReconcilerResource
    kind: Literal["start-reconciler"] = "start-reconciler"


@dataclass(frozen=True)
class StopReconciler:
    """Stop the stack's own reconciler, once it has ended the steps it is at."""

    component: str
    kind: Literal["stop-reconciler"] = "stop-reconciler"


@dataclass(frozen=True)
class RemoveStack:
    """Remove every file of the stack on the target except the journal.

    ``models``: also the volume of downloaded models, where the target has one.
    """

    models: bool = False

    kind: Literal["remove-stack"] = "remove-stack"


Do = (
    StartReplica
    | WaitServing
    | Join
    | Drain
    | Leave
    | StopReplica
    | StartGateway
    | ChangeGateway
    | StopGateway
    | StartMonitor
    | ChangeMonitor
    | StopMonitor
    | StartReconciler
    | StopReconciler
    | RemoveStack
)


@dataclass(frozen=True)
class Action:
    """One step of a plan.

    ``undo`` runs, in order, when a later action of the same group fails: it is written here so
    that what is reviewed is also what happens on failure.
    """

    id: int
    address: str
    do: Do
    cause: str
    group: str
    after: tuple[int, ...] = ()
    timeout_s: float = 60.0
    expects: str | None = None
    """Digest the instance or component must still have when the action runs; None: must exist
    for stops and drains, must not exist for starts."""
    undo: tuple[Do, ...] = ()

    def line(self) -> str:
        """The action on one line, the same every time."""
        waits = ",".join(str(i) for i in self.after) or "-"
        return f"[{waits}] {self.id} {self.do.kind} {self.address} ({self.cause}) <{self.group}>"
