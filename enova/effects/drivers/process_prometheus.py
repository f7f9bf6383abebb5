"""Prometheus on this machine: started under a shim on loopback, its target files kept current.

In: the resource; what there is to scrape. Out: a running Prometheus, files it watches.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable

from enova.base.address import PROMETHEUS
from enova.base.errors import ActionFailed
from enova.effects import gateway
from enova.effects.drivers import ports, process_launch, process_log, process_probe
from enova.effects.drivers.process_folder import Folder, Life, Meta, folders, locked
from enova.effects.drivers.process_ground import LOOPBACK, Ground
from enova.effects.drivers.process_probe import Health
from enova.effects.state.files import replace_file
from enova.stack.actions import Action, StartPrometheus
from enova.stack.observed import Component, State
from enova.stack.render import prometheus as render

Progress = Callable[[str], None]

READY_S = 30.0
READY_PATH = "/-/ready"
STOP_GRACE_S = 20.0
_LOOK_S = 0.1
_PROBE_S = 2.0


class Prometheuses:
    """The Prometheus of one stack on this machine."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def start(self, action: Action, do: StartPrometheus, progress: Progress) -> None:
        """Start Prometheus; a running one of that id is left alone."""
        folder = Folder(self._ground.components / do.component)
        known = folder.meta()
        if known is not None and self._runs(folder):
            process_launch.check_same(known, do.prometheus.digest, action)
            self._await_ready(folder, known, action)
            return
        program = self._ground.programs.prometheus
        if program is None:
            raise ActionFailed(
                action.address, "start", "there is no Prometheus on this machine's PATH"
            )
        wanted = do.prometheus
        if wanted.port is not None and not ports.is_free(wanted.port):
            raise ActionFailed(
                action.address,
                "start",
                f"port {wanted.port} is taken by {ports.owner(wanted.port)}. "
                "Stop it, or set monitoring.port to a free one",
            )
        base = self._ground.prepare(self._ground.prometheus)
        self._ground.prepare(base / "targets")
        self._ground.prepare(base / "data")
        with self._ground.choosing_ports() as taken:
            port = wanted.port or ports.free_port(taken, seed=do.component)
            meta = Meta(
                id=do.component,
                address=action.address,
                digest=wanted.digest,
                fields=wanted.fields(),
                host=LOOPBACK,
                port=port,
                cause=action.cause,
                created_s=self._ground.clock.now(),
            )
            self._ground.prepare(folder.path)
            folder.write_meta(meta)
        config = base / "prometheus.yml"
        gateway.write_document(
            config,
            render.config(wanted, stack=self._ground.stack, targets_dir=str(base / "targets")),
        )
        progress(f"port {port}")
        process_launch.start(
            self._ground,
            folder,
            render.command(
                str(program),
                config_path=str(config),
                data_dir=str(base / "data"),
                port=port,
                retention_s=wanted.retention_s,
            ),
            environment=self._ground.environment(folder.id, {}),
            address=action.address,
        )
        self._await_ready(folder, meta, action)
        folder.write_served({"at": self._ground.clock.now()})

    def stop(self, action: Action, component: str, progress: Progress) -> None:
        """Stop it. Its samples stay until the stack is removed."""
        folder = Folder(self._ground.components / component)
        if not folder.path.exists():
            return
        process_launch.stop(
            self._ground, folder, grace_s=STOP_GRACE_S, address=action.address, progress=progress
        )
        shutil.rmtree(folder.path, ignore_errors=True)

    def observe(self) -> tuple[Component, ...]:
        """Every Prometheus of the stack, sorted by id."""
        found = []
        for folder in folders(self._ground.components):
            meta = folder.meta()
            if meta is None or meta.address != PROMETHEUS:
                continue
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
        directory = self._ground.prometheus / "targets"
        if not directory.is_dir():
            return
        with locked(directory):
            engines = [
                render.Target(meta.endpoint, meta.id, meta.address, meta.service)
                for folder in folders(self._ground.instances)
                if (meta := folder.meta()) is not None
            ]
            doors = [render.Target(endpoint, name, "gateway") for name, endpoint in gateways]
            for job, found in ((render.ENGINES, engines), (render.GATEWAY, doors)):
                text = json.dumps(render.targets(self._ground.stack, found), indent=1)
                path = directory / f"{job}.json"
                if not path.exists() or path.read_text() != text:
                    replace_file(path, text.encode())

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
            action.address,
            "start",
            reason,
            process_log.tail(folder.log, process_launch.TAIL_LINES),
        )


def _ready(meta: Meta) -> Health:
    return process_probe.health(meta.host, meta.port, path=READY_PATH, timeout_s=_PROBE_S)
