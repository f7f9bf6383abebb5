"""The ``process`` target: engines, Envoy and monitors as detached processes on this machine.

In: actions. Out: processes on loopback, each under a shim, with everything known about them below
the stack's state folder, so that any later ``enova`` sees and ends them. Needs Linux (``/proc``,
pidfd). Its parts: ``process_replica``, ``process_gateway``, ``process_monitor``; what
is the same on every target: ``members``, ``gateway_files``, ``serving``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import assert_never

from enova.base.errors import ActionFailed, Refused
from enova.capacity.inventory import Inventory
from enova.effects import hosts
from enova.effects.drivers import process_launch, process_log, process_table
from enova.effects.drivers.base import ImageAnswer, Progress
from enova.effects.drivers.members import Members
from enova.effects.drivers.process_folder import Folder, Life
from enova.effects.drivers.process_gateway import Gateways
from enova.effects.drivers.process_ground import Ground, find_programs
from enova.effects.drivers.process_monitor import Monitors
from enova.effects.drivers.process_replica import Replicas
from enova.effects.state.store import StateDir
from enova.spec.model import Pool
from enova.stack.actions import (
    Action,
    ChangeGateway,
    ChangeMonitor,
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
from enova.stack.observed import Observed

_FOLLOW_S = 0.2


def open_driver(
    pool: Pool, *, stack: str, env: str, state: StateDir, environment: Mapping[str, str]
) -> ProcessDriver:
    """The driver of a stack on this machine. Opening it changes nothing."""
    ground = Ground(
        stack=f"{stack}.{env}" if env else stack,
        state=state.folder,
        programs=find_programs(environment),
        surroundings=environment,
    )
    return ProcessDriver(ground, probe=lambda: hosts.probe(pool))


class ProcessDriver:
    """One stack in one environment on this machine. ``probe`` finds the pool's devices."""

    def __init__(self, ground: Ground, *, probe: Callable[[], Inventory]) -> None:
        self._ground = ground
        self._probe = probe
        self._replicas = Replicas(ground)
        self._gateways = Gateways(ground)
        self._members = Members(ground, self._gateways.doors)
        self._monitors = Monitors(ground)

    def inventory(self) -> Inventory:
        """Hosts and devices of the pool."""
        return self._probe()

    def observe(self) -> Observed:
        """What of this stack runs now."""
        return Observed(
            instances=self._replicas.observe(),
            components=tuple(
                sorted(
                    (*self._gateways.observe(), *self._monitors.observe()),
                    key=lambda component: (component.address, component.id),
                )
            ),
            members=self._members.read(),
        )

    def runs_monitors(self) -> frozenset[str]:
        """Names of the monitors whose programs are here."""
        return frozenset(self._ground.programs.monitors)

    def ask_registries(self, references: Collection[str]) -> Mapping[str, ImageAnswer]:
        """Programs have no images."""
        del references
        return {}

    def gateway_metrics(self) -> str | None:
        """Where the newest running gateway shows its counters."""
        return self._gateways.metrics_endpoint()

    def tend(self) -> None:
        """Bound the gateway's access log."""
        self._gateways.bound_access_log()

    def perform(self, action: Action, progress: Progress) -> None:
        """Do one action. Raises ActionFailed or Unreachable."""
        try:
            self._do(action, progress)
        except OSError as error:
            raise ActionFailed(action.address, action.do.kind, str(error)) from error

    def _do(self, action: Action, progress: Progress) -> None:
        match action.do:
            case StartReplica() as do:
                self._replicas.start(action, do, progress)
                self._write_targets()
            case WaitServing(instance):
                self._replicas.wait_serving(action, instance, progress)
                self._write_targets()
            case Join(service, instance, weight):
                target = self._replicas.serving(action, instance)
                self._members.join(action, service, target, weight)
            case Drain(service, instance, timeout_s):
                self._members.drain(action, service, instance, timeout_s, progress)
            case Leave(service, instance):
                self._members.leave(action, service, instance)
            case StopReplica(instance, grace_s):
                self._replicas.stop(action, instance, grace_s, progress)
                self._write_targets()
            case StartGateway() as do:
                self._gateways.start(action, do, progress)
                self._write_targets()
            case ChangeGateway() as do:
                self._gateways.change(action, do, progress)
            case StopGateway(component, drain_s):
                self._gateways.stop(action, component, drain_s, progress)
                self._write_targets()
            case StartMonitor() as do:
                self._monitors.start(action, do, progress)
                self._write_targets()
            case ChangeMonitor() as do:
                self._monitors.change(action, do, progress)
            case StopMonitor(component):
                self._monitors.stop(action, component, progress)
                self._write_targets()
            case StartReconciler() | StopReconciler():
                reason = "target process has no reconciler of its own. Run: enova reconcile"
                raise ActionFailed(action.address, action.do.kind, reason)
            case RemoveStack():
                self._remove(action)
            case unknown:
                assert_never(unknown)

    def logs(self, instance: str, *, tail: int, follow: bool) -> Iterator[str]:
        """Output of an instance or component, oldest first. Raises Refused if there is none."""
        folder = self._with_output(instance)
        if not follow:
            return iter(process_log.tail(folder.log, tail))

        def wait() -> bool:
            process = folder.process()
            if process is None or not process.alive():
                return folder.life(self._ground.marks(instance)) is Life.RUNNING
            process_table.wait_gone([process], timeout_s=_FOLLOW_S)
            return True

        return process_log.follow(folder.log, tail_lines=tail, wait=wait)

    def _with_output(self, instance: str) -> Folder:
        known = {folder.id: folder for folder in self._ground.owned()}
        kept = Folder(self._ground.last / instance) if "/" not in instance else None
        folder = known.get(instance)
        if folder is None and kept is not None and kept.log.exists():
            folder = kept
        if folder is None:
            raise Refused(
                f"there is no output of {instance}. "
                f"Known: {', '.join(sorted(known)) or 'nothing runs'}"
            )
        return folder

    def _write_targets(self) -> None:
        self._monitors.write_targets(self._gateways.metrics_endpoints())

    def _remove(self, action: Action) -> None:
        """Remove every file below ``run``, and processes that nothing there accounts for."""
        owned = self._ground.owned()
        running = [f.id for f in owned if f.life(self._ground.marks(f.id)) is Life.RUNNING]
        if running:
            raise ActionFailed(action.address, "remove", f"{', '.join(sorted(running))} still runs")
        process_launch.kill(process_table.marked(self._ground.marks()), address=action.address)
        if self._ground.run.exists():
            shutil.rmtree(self._ground.run)
