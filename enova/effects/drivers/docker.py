"""The ``compose`` target: engines, Envoy and monitors in containers of this machine's Docker.

In: actions. Out: containers of one Compose project, whose file and notes lie below the stack's
state folder, so that any later ``enova`` sees and ends them, and people can read and run them with
``docker compose``. Its parts: ``docker_services`` (the project), ``docker_replica``,
``docker_gateway``, ``docker_monitor``; ``docker_engine`` asks Docker, ``docker_call`` runs Compose.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import assert_never

from enova.base.address import RECONCILER
from enova.base.errors import ActionFailed, Refused
from enova.capacity.inventory import Inventory
from enova.effects import gateway, hosts
from enova.effects.drivers import docker_images, process_log
from enova.effects.drivers.base import ImageAnswer, Progress
from enova.effects.drivers.docker_container import PROJECT, Container
from enova.effects.drivers.docker_engine import Engine
from enova.effects.drivers.docker_gateway import Gateways
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.docker_monitor import Monitors
from enova.effects.drivers.docker_notes import services_of
from enova.effects.drivers.docker_reconciler import Reconcilers
from enova.effects.drivers.docker_replica import Replicas
from enova.effects.drivers.docker_services import Services
from enova.effects.drivers.folder import LOG, Folder
from enova.effects.drivers.members import Members
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


def open_driver(
    pool: Pool, *, stack: str, env: str, state: StateDir, environment: Mapping[str, str]
) -> ComposeDriver:
    """The driver of a stack on this machine's Docker engine. Opening it asks nobody."""
    ground = Ground(
        stack=f"{stack}.{env}" if env else stack,
        name=stack,
        env=env,
        state=state.folder,
        engine=Engine(environment),
        envoy=gateway.envoy_binary(),
        surroundings=environment,
        placed=tuple(host.name for host in pool.hosts),
    )

    def machine() -> tuple[int, int]:
        """The engine's: it is the same whoever asks, also from one of its containers."""
        return ground.engine.about.cores, ground.engine.about.memory_bytes

    return ComposeDriver(ground, probe=lambda: hosts.probe(pool, machine=machine))


class ComposeDriver:
    """One stack in one environment on one engine. ``probe`` finds the pool's devices."""

    def __init__(self, ground: Ground, *, probe: Callable[[], Inventory]) -> None:
        self._ground = ground
        self._probe = probe
        self._services = Services(ground)
        self._replicas = Replicas(ground, self._services)
        self._gateways = Gateways(ground, self._services)
        self._monitors = Monitors(ground, self._services)
        self._reconcilers = Reconcilers(ground, self._services, sees_gpus=self._sees_gpus)
        self._members = Members(ground, self._gateways.doors)

    def inventory(self) -> Inventory:
        """Hosts and devices of the pool, and the GPUs that other stacks' containers hold."""
        found = self._probe()
        return replace(found, claims=(*found.claims, *self._services.claims()))

    def observe(self) -> Observed:
        """What of this stack runs now. Raises Unreachable when the engine does not answer."""
        return Observed(
            instances=self._replicas.observe(),
            components=tuple(
                sorted(
                    (
                        *self._gateways.observe(),
                        *self._monitors.observe(),
                        *self._reconcilers.observe(),
                    ),
                    key=lambda component: (component.address, component.id),
                )
            ),
            members=self._members.read(),
        )

    def runs_monitors(self) -> frozenset[str]:
        """Names of the monitors whose image is here, or can be pulled now; ``reconciler`` if its
        image is here."""
        own = {RECONCILER} if self._reconcilers.runnable else set()
        return self._monitors.runnable | own

    def ask_registries(self, references: Collection[str]) -> Mapping[str, ImageAnswer]:
        """What registries say of these images, asked through the engine."""
        return docker_images.digests(self._ground.engine, references)

    def gateway_metrics(self) -> str | None:
        """Where the newest running gateway shows its counters."""
        return self._gateways.metrics_endpoint()

    def tend(self) -> None:
        """Bound the gateway's access log."""
        self._gateways.bound_access_log()

    def perform(self, action: Action, progress: Progress) -> None:
        """Do one action. Raises ActionFailed, Unreachable; Refused where Docker is unusable."""
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
            case Join(service, instance, weight):
                target = self._replicas.serving(action, instance)
                self._members.join(action, service, target, weight)
            case Drain(service, instance, timeout_s):
                self._members.drain(action, service, instance, timeout_s, progress)
            case Leave(service, instance):
                self._members.leave(action, service, instance)
            case StopReplica(instance, grace_s):
                self._replicas.stop(action, instance, grace_s)
                self._write_targets()
            case StartGateway() as do:
                self._gateways.start(action, do, progress)
                self._write_targets()
            case ChangeGateway() as do:
                self._gateways.change(action, do, progress)
                self._write_targets()
            case StopGateway(component, drain_s):
                self._gateways.stop(action, component, drain_s, progress)
                self._write_targets()
            case StartMonitor() as do:
                self._monitors.start(action, do, progress)
                self._write_targets()
            case ChangeMonitor() as do:
                self._monitors.change(action, do, progress)
            case StopMonitor(component):
                self._monitors.stop(action, component)
                self._write_targets()
            case StartReconciler() as do:
                self._reconcilers.start(action, do, progress)
            case StopReconciler(component):
                self._reconcilers.stop(action, component)
            case RemoveStack(models):
                self._remove(action, models=models)
            case unknown:
                assert_never(unknown)

    def logs(self, instance: str, *, tail: int, follow: bool) -> Iterator[str]:
        """Output of an instance or component, oldest first. Raises Refused if there is none."""
        known = {folder.id: folder for folder in self._ground.owned()}
        folder = known.get(instance)
        container = self._container(folder) if folder is not None else None
        if container is not None:
            if follow:
                lines = self._ground.engine.follow(container, tail)
                return (self._services.blanked(container, line) for line in lines)
            return iter(self._services.lines(container, tail))
        kept = self._ground.last / instance / LOG if "/" not in instance else None
        if kept is not None and kept.exists():
            return iter(process_log.tail(kept, tail))
        raise Refused(
            f"there is no output of {instance}. Known: {', '.join(sorted(known)) or 'nothing runs'}"
        )

    def _sees_gpus(self) -> bool:
        """Whether the pool has GPUs that are there, and not only said to be."""
        found = self._probe()
        real = not found.emulated
        return real and any(d.kind == "gpu" for host in found.hosts for d in host.devices)

    def _write_targets(self) -> None:
        self._monitors.write_targets(self._gateways.metrics_endpoints())

    def _container(self, folder: Folder) -> Container | None:
        """The container whose output counts: that of the gateway's current service."""
        meta = folder.meta()
        by_service = self._services.seen().by_service
        names = services_of(meta) if meta is not None else {}
        return next((by_service[n] for n in sorted(names, reverse=True) if n in by_service), None)

    def _remove(self, action: Action, *, models: bool) -> None:
        """Remove networks, every file below ``run``, and containers that nothing there accounts
        for. The volume stays unless ``models``: it holds what was downloaded."""
        ground, services = self._ground, self._services
        seen = services.seen()
        running = []
        for folder in ground.owned():
            meta = folder.meta()
            for name in services_of(meta) if meta is not None else ():
                if services.ended(folder, seen.by_service.get(name)) is None:
                    running.append(folder.id)
        if running:
            names = ", ".join(sorted(set(running)))
            raise ActionFailed(action.address, "remove", f"{names} still runs")
        for container in (*seen.by_service.values(), *seen.orphans):
            ground.engine.remove(container)
        if models:
            ground.engine.remove_volumes(ground.project_name)
        if not ground.run.exists():
            return
        for network in ground.engine.networks():
            if network.labels.get(PROJECT) == ground.project_name:
                ground.engine.remove_network(network)
        shutil.rmtree(ground.run)
