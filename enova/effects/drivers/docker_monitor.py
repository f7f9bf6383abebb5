"""Prometheus, Alertmanager, Grafana and what else watches a stack, in containers.

In: resources; what there is to scrape. Out: running programs, the files they read, and the target
files by which Prometheus finds everything. Each is known by its name in the stack's inner network,
so others find it after it was replaced.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from enova.base.address import parse_monitor
from enova.base.errors import ActionFailed
from enova.capacity.catalog import images
from enova.effects.drivers import docker_images, monitor_files, monitor_targets, ports, probe
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.docker_notes import addresses_of, with_service
from enova.effects.drivers.docker_services import Services
from enova.effects.drivers.folder import TAIL_LINES, Folder, Meta, check_same, folders
from enova.effects.drivers.ground import LOOPBACK
from enova.effects.drivers.probe import Health
from enova.effects.state.files import replace_file
from enova.stack import monitoring
from enova.stack.actions import Action, ChangeMonitor, StartMonitor
from enova.stack.observed import Component, State
from enova.stack.render import compose, compose_monitors, monitors, prometheus
from enova.stack.render.compose_monitors import WATCHERS
from enova.stack.render.monitors import MonitorPlaces
from enova.stack.resources import MonitorResource

Progress = Callable[[str], None]

READY_S = 60.0
STOP_GRACE_S = 20.0
_PROBE_S = 2.0
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


class Monitors:
    """The monitors of one stack in containers."""

    def __init__(self, ground: Ground, services: Services) -> None:
        self._ground = ground
        self._services = services

    @cached_property
    def runnable(self) -> frozenset[str]:
        """Names of the monitors whose image is here, or can be pulled now."""
        gpus = self._ground.engine.about.gpus
        names = [name for name in sorted(WATCHERS) if gpus or name != monitoring.DCGM_EXPORTER]
        wanted = {name: images.program_image(name).reference for name in names}
        here = [name for name in names if self._ground.engine.image(wanted[name]) is not None]
        away = [name for name in names if name not in here]
        answers = docker_images.digests(self._ground.engine, {wanted[name] for name in away})
        return frozenset([*here, *(name for name in away if answers[wanted[name]].digest)])

    def start(self, action: Action, do: StartMonitor, progress: Progress) -> None:
        """Write a monitor's files and start it; a running one of that id is left alone."""
        folder, wanted, services = self._folder(do.component), do.monitor, self._services
        known, container = folder.meta(), services.find(do.component)
        if known is not None and services.ended(folder, container) is None:
            check_same(known, wanted.digest, action)
            self._await_ready(folder, known, action)
            return
        if container is not None:
            services.down(do.component, grace_s=0, address=action.address)
        services.forget_run(folder)
        if wanted.port is not None and not ports.is_free(wanted.port, host=wanted.host):
            raise ActionFailed(
                action.address,
                "start",
                f"port {wanted.port} is taken by {ports.owner(wanted.port)}. "
                f"Stop it, or set monitoring.{monitoring.KEYS[wanted.name]}.port to a free one",
            )
        meta = services.notes.note(
            folder,
            action.address,
            lambda project, ip: self._meta(action, folder, wanted, project, ip),
        )
        places = self._places(action, wanted)
        config = self._config(wanted)
        monitor_files.write(config, monitors.files(wanted, places))
        services.up(
            folder, meta, folder.id, progress=progress, variables=self._variables(wanted, places)
        )
        self._await_ready(folder, meta, action)
        folder.write_served({"at": self._ground.clock.now()})

    def change(self, action: Action, do: ChangeMonitor, progress: Progress) -> None:
        """Have a running monitor read new files; it keeps the ones it has when it rejects them."""
        folder, wanted, services = self._folder(do.component), do.monitor, self._services
        before, container = folder.meta(), services.find(do.component)
        if before is None or container is None or services.ended(folder, container) is not None:
            raise ActionFailed(action.address, "change", f"{do.component} does not run")
        engine, running = self._ground.engine, container
        places = self._places(action, wanted)
        progress("changing")
        monitor_files.change(
            action,
            self._config(wanted),
            monitors.files(wanted, places),
            monitor_files.Running(
                host=addresses_of(before)[folder.id],
                port=WATCHERS[wanted.name].metrics_port,
                reloaded=monitors.PROGRAMS[wanted.name].reloaded,
                reload=lambda: engine.signal(running, "SIGHUP"),
                tail=lambda: tuple(services.lines(running, TAIL_LINES)),
                clock=self._ground.clock,
            ),
        )
        folder.write_meta(
            replace(
                before,
                digest=wanted.digest,
                fields=wanted.fields(),
                secret_env=wanted.secrets,
                cause=action.cause,
            )
        )

    def stop(self, action: Action, component: str) -> None:
        """Stop it. What it has stored stays until the stack is removed."""
        folder = self._folder(component)
        self._services.remove_orphans(component, grace_s=STOP_GRACE_S)
        if not folder.path.exists():
            return
        self._services.down(component, grace_s=STOP_GRACE_S, address=action.address)
        self._services.notes.forget(folder, lambda: shutil.rmtree(folder.path, ignore_errors=True))

    def observe(self) -> tuple[Component, ...]:
        """Every monitor of the stack, sorted by id."""
        seen = self._services.seen()
        found = []
        for folder, meta in self._known():
            container = seen.by_service.get(folder.id)
            ended = self._services.ended(folder, container)
            state = State.EXITED
            tampered: tuple[str, ...] = ()
            if ended is None and container is not None:
                tampered = self._services.tampered(folder, meta, container)
                ready = _ready(folder, meta) is Health.OK
                served = folder.served() is not None
                state = State.SERVING if ready else State.UNHEALTHY if served else State.STARTING
            found.append(
                Component(
                    id=meta.id,
                    address=meta.address,
                    digest=meta.digest,
                    fields=meta.fields,
                    state=state,
                    endpoint=self._endpoint(folder, meta),
                    exit_reason=ended,
                    tampered=tampered,
                )
            )
        return tuple(found)

    def _endpoint(self, folder: Folder, meta: Meta) -> str:
        """Where whoever asks reaches it."""
        name = parse_monitor(meta.address) or ""
        if not self._ground.inside:
            return meta.endpoint
        return f"{addresses_of(meta)[folder.id]}:{WATCHERS[name].port}"

    def write_targets(self, gateways: Iterable[tuple[str, str]]) -> None:
        """Bring the target files up to what is there, at the addresses inside."""
        programs = []
        for folder, meta in self._known():
            name = parse_monitor(meta.address)
            if name is not None:
                endpoint = f"{addresses_of(meta)[folder.id]}:{WATCHERS[name].metrics_port}"
                programs.append((name, prometheus.Target(endpoint, meta.id, meta.address)))
        monitor_targets.write(self._ground, gateways=gateways, programs=programs)

    def _meta(
        self,
        action: Action,
        folder: Folder,
        wanted: MonitorResource,
        project: compose.Project,
        ip: str,
    ) -> Meta:
        shown = LOOPBACK if wanted.host in _EVERYWHERE else wanted.host
        published = wanted.port is not None
        meta = Meta(
            id=folder.id,
            address=action.address,
            digest=wanted.digest,
            fields=wanted.fields(),
            host=shown if published else ip,
            port=wanted.port or WATCHERS[wanted.name].port,
            secret_env=wanted.secrets,
            cause=action.cause,
            created_s=self._ground.clock.now(),
        )
        service = compose_monitors.monitor(
            project,
            component=folder.id,
            resource=wanted,
            ip=ip,
            image=wanted.image or images.program_image(wanted.name).reference,
            apply=folder.id.rpartition("-")[2],
        )
        return with_service(meta, folder.id, service, ip)

    def _places(self, action: Action, wanted: MonitorResource) -> MonitorPlaces:
        """Where everything is in its container, with the folders made. Raises ActionFailed."""
        ground = self._ground
        for part in ("config", "data"):
            ground.prepare(ground.monitor(wanted.name) / part)
        if wanted.name == monitoring.PROMETHEUS:
            ground.prepare(ground.targets)
        return compose_monitors.monitor_places(
            ground.stack,
            wanted.name,
            peers={name: name for name in wanted.peers},
            secrets=ground.secrets(wanted.secrets, action.address),
        )

    def _variables(self, wanted: MonitorResource, places: MonitorPlaces) -> dict[str, str]:
        """Values of the secrets that its service takes from Compose's environment."""
        found = {}
        for key, _ in WATCHERS[wanted.name].secrets:
            value = places.secrets.get(key) or self._generated(wanted.name, key)
            found[compose.secret_variable(wanted.name, key)] = value
        return found

    def _generated(self, name: str, key: str) -> str:
        """A secret nobody gave: made once, for this user's eyes, gone with the stack."""
        path = self._ground.run / f"{name}-{key}"
        if not path.exists():
            replace_file(path, secrets.token_urlsafe(24).encode())
        return path.read_text()

    def _await_ready(self, folder: Folder, meta: Meta, action: Action) -> None:
        self._services.await_true(
            lambda: _ready(folder, meta) is Health.OK,
            folder,
            action,
            within_s=READY_S,
            otherwise="it did not get ready",
        )

    def _config(self, wanted: MonitorResource) -> Path:
        return self._ground.monitor(wanted.name) / "config"

    def _folder(self, component: str) -> Folder:
        return Folder(self._ground.components / component)

    def _known(self) -> list[tuple[Folder, Meta]]:
        return [
            (folder, meta)
            for folder in folders(self._ground.components)
            if (meta := folder.meta()) is not None and parse_monitor(meta.address) is not None
        ]


def _ready(folder: Folder, meta: Meta) -> Health:
    """Asked at its address inside: a published port answers before the program does."""
    name = parse_monitor(meta.address) or ""
    watcher = WATCHERS[name]
    path = "/metrics" if watcher.metrics is not None else monitors.PROGRAMS[name].ready
    host = addresses_of(meta)[folder.id]
    return probe.health(host, watcher.metrics_port, path=path, timeout_s=_PROBE_S)
