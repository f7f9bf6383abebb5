"""Prometheus, Alertmanager and node exporter on this machine: each under a shim on loopback.

In: resources; what there is to scrape. Out: running programs, the files they read, and the target
files by which Prometheus finds replicas, gateways and the other monitors.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from enova.base.address import parse_monitor
from enova.base.errors import ActionFailed
from enova.effects.drivers import (
    monitor_files,
    monitor_targets,
    ports,
    probe,
    process_launch,
    process_log,
    process_table,
)
from enova.effects.drivers.folder import TAIL_LINES, Meta, check_same
from enova.effects.drivers.ground import LOOPBACK
from enova.effects.drivers.probe import Health
from enova.effects.drivers.process_folder import Folder, Life, folders
from enova.effects.drivers.process_ground import Ground
from enova.stack import monitoring
from enova.stack.actions import Action, ChangeMonitor, StartMonitor
from enova.stack.observed import Component, State
from enova.stack.render import monitors, prometheus
from enova.stack.render.monitors import MonitorPlaces
from enova.stack.resources import MonitorResource

Progress = Callable[[str], None]

READY_S = 30.0
STOP_GRACE_S = 20.0
_LOOK_S = 0.1
_PROBE_S = 2.0
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


class Monitors:
    """The monitors of one stack on this machine."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def start(self, action: Action, do: StartMonitor, progress: Progress) -> None:
        """Write a monitor's files and start it; a running one of that id is left alone."""
        folder, wanted = Folder(self._ground.components / do.component), do.monitor
        known = folder.meta()
        if known is not None and self._runs(folder):
            check_same(known, wanted.digest, action)
            self._await_ready(folder, known, action)
            return
        program = self._ground.programs.monitors.get(wanted.name)
        if program is None:
            names = " or ".join(monitoring.PROGRAMS.get(wanted.name, (wanted.name,)))
            raise ActionFailed(action.address, "start", f"there is no {names} on PATH")
        if wanted.port is not None and not ports.is_free(wanted.port, host=wanted.host):
            raise ActionFailed(
                action.address,
                "start",
                f"port {wanted.port} is taken by {ports.owner(wanted.port)}. "
                f"Stop it, or set monitoring.{monitoring.KEYS[wanted.name]}.port to a free one",
            )
        with self._ground.choosing_ports() as taken:
            meta = Meta(
                id=do.component,
                address=action.address,
                digest=wanted.digest,
                fields=wanted.fields(),
                host=LOOPBACK if wanted.host in _EVERYWHERE else wanted.host,
                port=wanted.port or ports.free_port(taken, seed=do.component),
                secret_env=wanted.secrets,
                cause=action.cause,
                created_s=self._ground.clock.now(),
            )
            self._ground.prepare(folder.path)
            folder.write_meta(meta)
        places = self._places(action, wanted, meta)
        monitor_files.write(Path(places.config), monitors.files(wanted, places))
        progress(f"port {meta.port}")
        process_launch.start(
            self._ground,
            folder,
            monitors.command(wanted, str(program), places),
            environment=self._ground.environment(folder.id, {}),
            address=action.address,
        )
        self._await_ready(folder, meta, action)
        folder.write_served({"at": self._ground.clock.now()})

    def change(self, action: Action, do: ChangeMonitor, progress: Progress) -> None:
        """Have a running monitor read new files; it keeps the ones it has when it rejects them."""
        folder, wanted = Folder(self._ground.components / do.component), do.monitor
        before = folder.meta()
        if before is None or not self._runs(folder):
            raise ActionFailed(action.address, "change", f"{do.component} does not run")
        after = replace(
            before,
            digest=wanted.digest,
            fields=wanted.fields(),
            secret_env=wanted.secrets,
            cause=action.cause,
        )
        places = self._places(action, wanted, after)
        progress("changing")
        monitor_files.change(
            action,
            Path(places.config),
            monitors.files(wanted, places),
            monitor_files.Running(
                host=before.host,
                port=before.port,
                reloaded=monitors.PROGRAMS[wanted.name].reloaded,
                reload=lambda: _hang_up(folder),
                tail=lambda: tuple(process_log.tail(folder.log, TAIL_LINES)),
                clock=self._ground.clock,
            ),
        )
        folder.write_meta(after)

    def stop(self, action: Action, component: str, progress: Progress) -> None:
        """Stop it. What it has stored stays until the stack is removed."""
        folder = Folder(self._ground.components / component)
        if not folder.path.exists():
            return
        process_launch.stop(
            self._ground, folder, grace_s=STOP_GRACE_S, address=action.address, progress=progress
        )
        shutil.rmtree(folder.path, ignore_errors=True)

    def observe(self) -> tuple[Component, ...]:
        """Every monitor of the stack, sorted by id."""
        found = []
        for folder, meta in self._known():
            runs = self._runs(folder)
            state = State.EXITED
            if runs:
                ready = _ready(meta) is Health.OK
                served = folder.served() is not None
                state = State.SERVING if ready else State.UNHEALTHY if served else State.STARTING
            found.append(
                Component(
                    id=meta.id,
                    address=meta.address,
                    digest=meta.digest,
                    fields=meta.fields,
                    state=state,
                    endpoint=meta.endpoint,
                    exit_reason=None if runs else process_launch.ended_reason(folder),
                )
            )
        return tuple(found)

    def write_targets(self, gateways: Iterable[tuple[str, str]]) -> None:
        """Bring the target files up to what is there; without a Prometheus there are none."""
        programs = [
            (name, prometheus.Target(meta.endpoint, meta.id, meta.address))
            for _, meta in self._known()
            if (name := parse_monitor(meta.address)) is not None
        ]
        monitor_targets.write(self._ground, gateways=gateways, programs=programs)

    def _known(self) -> list[tuple[Folder, Meta]]:
        return [
            (folder, meta)
            for folder in folders(self._ground.components)
            if (meta := folder.meta()) is not None and parse_monitor(meta.address) is not None
        ]

    def _places(self, action: Action, wanted: MonitorResource, meta: Meta) -> MonitorPlaces:
        """Where everything is, with the folders made. Raises ActionFailed for a secret."""
        base = self._ground.monitor(wanted.name)
        places = MonitorPlaces(
            stack=self._ground.stack,
            config=str(self._ground.prepare(base / "config")),
            data=str(self._ground.prepare(base / "data")),
            targets=str(self._ground.targets),
            listen=f"{_in_url(wanted.host)}:{meta.port}",
            secrets=self._ground.secrets(wanted.secrets, action.address),
        )
        if wanted.name == monitoring.PROMETHEUS:
            self._ground.prepare(Path(places.targets))
        return places

    def _runs(self, folder: Folder) -> bool:
        return folder.life(self._ground.marks(folder.id)) is Life.RUNNING

    def _await_ready(self, folder: Folder, meta: Meta, action: Action) -> None:
        clock = self._ground.clock
        end = clock.monotonic() + READY_S
        while self._runs(folder) and clock.monotonic() < end:
            if _ready(meta) is Health.OK:
                return
            clock.sleep(_LOOK_S)
        reason = f"it did not get ready within {READY_S:.0f} s"
        if not self._runs(folder):
            process_launch.await_note(folder)
            reason = process_launch.ended_reason(folder)
        raise ActionFailed(
            action.address, "start", reason, process_log.tail(folder.log, TAIL_LINES)
        )


def _ready(meta: Meta) -> Health:
    name = parse_monitor(meta.address) or ""
    path = monitors.PROGRAMS[name].ready
    return probe.health(meta.host, meta.port, path=path, timeout_s=_PROBE_S)


def _hang_up(folder: Folder) -> None:
    process = folder.process()
    if process is not None:
        process_table.send(process, signal.SIGHUP)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
