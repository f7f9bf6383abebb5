"""The gateway in a container: one Envoy, changed in place; moved to another port by a second one.

In: gateway resources. Out: a running Envoy that is what they say. A published port cannot change
while its container lives, so a move starts a second container of the same gateway, waits until it
serves, and lets the requests of the first one end. Who is a member is in ``members``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from enova.base.address import GATEWAY
from enova.base.errors import ActionFailed, EnovaError
from enova.effects import trace_ring
from enova.effects.drivers import gateway_files
from enova.effects.drivers.docker_container import Container
from enova.effects.drivers.docker_envoy import Envoys
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.docker_notes import addresses_of, with_service, without_service
from enova.effects.drivers.docker_services import Seen, Services
from enova.effects.drivers.folder import Folder, Meta, check_same, folders
from enova.effects.drivers.gateway_files import READY_S
from enova.effects.drivers.members import Door
from enova.stack.actions import Action, ChangeGateway, StartGateway
from enova.stack.observed import Component, State
from enova.stack.render import compose
from enova.stack.resources import Fields, GatewayResource

Progress = Callable[[str], None]

MOVED_DRAIN_S = 60.0
"""How long requests at the former port may go on after a move."""
STOP_GRACE_S = 10.0

_CURRENT = "current"
"""In a meta's ``more``: the compose service of the container that takes new requests. The others
of its services are coming or going: a move was cut short."""


class Gateways:
    """The gateway of one stack in containers."""

    def __init__(self, ground: Ground, services: Services) -> None:
        self._ground = ground
        self._services = services
        self._envoys = Envoys(ground, services)

    def start(self, action: Action, do: StartGateway, progress: Progress) -> None:
        """Start Envoy. Nothing is left when it cannot run."""
        folder, services = self._folder(do.component), self._services
        known = folder.meta()
        if known is not None and self.runs(folder):
            check_same(known, do.gateway.digest, action)
            self._envoys.await_ready(folder, _current(known), known, action)
            return
        for other, _ in self._live(services.seen()):
            raise ActionFailed(action.address, "start", f"{other.id} runs already")
        self._clear(folder, known, action)
        gateway_files.check_port(action, do.gateway)

        def make(project: compose.Project, ip: str) -> Meta:
            meta = Meta(
                id=folder.id,
                address=action.address,
                digest=do.gateway.digest,
                fields=do.gateway.fields(),
                host=do.gateway.host,
                port=do.gateway.port,
                cause=action.cause,
                created_s=self._ground.clock.now(),
                more={_CURRENT: folder.id},
            )
            service = self._envoys.service(project, folder, folder.id, do.gateway, ip)
            return with_service(meta, folder.id, service, ip)

        meta = services.notes.note(folder, action.address, make)
        try:
            self._envoys.bring(folder, folder.id, meta, do.gateway, action, progress)
        except EnovaError:
            self._remove(folder, meta, action)
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
        before = self._settle(folder, before, action, progress)
        if (before.host, before.port, *_made_with(before.fields)) != (
            wanted.host,
            wanted.port,
            *_made_with(wanted.fields()),
        ):
            self._move(folder, before, wanted, action, progress)
            return
        admin = self._envoys.admin(folder, _current(before))
        if not admin.wait_ready(READY_S):
            late = f"{do.component} does not answer within {READY_S:.0f} s"
            raise ActionFailed(action.address, gateway_files.step(action), late)
        name = _current(before)
        files = self._envoys.files(folder, name, action, wanted, before)
        progress("changing")
        gateway_files.change(action, self._envoys.config(folder, name), files, admin)
        folder.write_meta(_told(before, wanted, action))

    def stop(self, action: Action, component: str, drain_s: float, progress: Progress) -> None:
        """Let open requests end, at most ``drain_s`` seconds, then stop this Envoy."""
        folder = self._folder(component)
        self._services.remove_orphans(component, grace_s=STOP_GRACE_S)
        if not folder.path.exists():
            return
        meta = folder.meta()
        if meta is not None and drain_s > 0:
            for name, container in self._containers(meta, self._services.seen()):
                if self._services.ended(folder, container) is None:
                    self._envoys.drain(folder, name, drain_s, progress)
        self._remove(folder, meta, action)

    def observe(self) -> tuple[Component, ...]:
        """Every gateway, sorted by id."""
        seen = self._services.seen()
        found = []
        for folder in self._folders():
            meta = folder.meta()
            if meta is None or meta.address != GATEWAY:
                continue
            name = _current(meta)
            container = seen.by_service.get(name)
            ended = self._services.ended(folder, container)
            state = State.EXITED
            tampered: tuple[str, ...] = ()
            if ended is None and container is not None:
                tampered = self._services.tampered(folder, meta, container)
                ready = self._envoys.admin(folder, name).ready()
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
                    exit_reason=ended,
                    tampered=tampered,
                )
            )
        return tuple(found)

    def metrics_endpoints(self) -> tuple[tuple[str, str], ...]:
        """Component id and ``host:port`` of every running gateway's ``/metrics``."""
        return tuple(
            (meta.id, f"{addresses_of(meta)[_current(meta)]}:{compose.METRICS_PORT}")
            for _, meta in reversed(self._live(self._services.seen()))
        )

    def metrics_endpoint(self) -> str | None:
        """``host:port`` of the ``/metrics`` of the gateway that takes new requests."""
        found = self.metrics_endpoints()
        return found[-1][1] if found else None

    def bound_access_log(self) -> None:
        """Rotate the access log when it is time; every running gateway reopens it."""
        reopen = [door.admin.reopen_logs for door in self.doors()]
        trace_ring.keep_bounded(
            self._ground.gateway, reopen, max_bytes=self._ground.access_log_bytes
        )

    def doors(self) -> list[Door]:
        """Running gateways, the one that takes new requests first."""
        seen = self._services.seen()
        return [
            Door(
                meta,
                self._envoys.admin(folder, name),
                runs=partial(self._runs, folder, name),
                lines=partial(self._services.lines, container),
            )
            for folder, meta in self._live(seen)
            for name, container in self._containers(meta, seen)
            if self._services.ended(folder, container) is None
        ]

    def runs(self, folder: Folder) -> bool:
        """Whether this gateway runs."""
        meta = folder.meta()
        return meta is not None and self._runs(folder, _current(meta))

    # --- one container --------------------------------------------------------------------------

    def _runs(self, folder: Folder, name: str) -> bool:
        return self._services.ended(folder, self._services.find(name)) is None

    def _live(self, seen: Seen) -> list[tuple[Folder, Meta]]:
        """Running gateways, the newest first."""
        found = [
            (folder, meta)
            for folder in self._folders()
            if (meta := folder.meta()) is not None
            and meta.address == GATEWAY
            and self._services.ended(folder, seen.by_service.get(_current(meta))) is None
        ]
        return sorted(found, key=lambda pair: pair[1].created_s, reverse=True)

    def _containers(self, meta: Meta, seen: Seen) -> list[tuple[str, Container]]:
        """Its containers by service, the one that takes new requests first."""
        names = sorted(addresses_of(meta), key=lambda name: (name != _current(meta), name))
        return [(name, seen.by_service[name]) for name in names if name in seen.by_service]

    # --- moving ---------------------------------------------------------------------------------

    def _move(
        self,
        folder: Folder,
        before: Meta,
        wanted: GatewayResource,
        action: Action,
        progress: Progress,
    ) -> None:
        """Start a second container, then let go of the first. On failure the first stays."""
        services, old = self._services, _current(before)
        overlaps = before.port == wanted.port
        if not overlaps:
            gateway_files.check_port(action, wanted)
        name = _next_name(folder, old)

        def make(project: compose.Project, ip: str) -> Meta:
            return with_service(
                before, name, self._envoys.service(project, folder, name, wanted, ip), ip
            )

        both = services.notes.note(folder, action.address, make)
        try:
            self._envoys.files(folder, name, action, wanted, both)
            if overlaps:
                services.bring_image(both, name, progress)
                # Two containers cannot publish one port, so the first has to let go of it.
                progress("the gateway moves: its port is closed for a moment")
                self._envoys.drain(folder, old, MOVED_DRAIN_S, progress)
                services.down(old, grace_s=STOP_GRACE_S, address=action.address)
            else:
                progress("starting a second gateway")
            self._envoys.bring(folder, name, both, wanted, action, progress)
        except EnovaError:
            self._drop(folder, both, name, action)
            if overlaps and services.find(old) is None:
                services.up(folder, before, old, progress=progress)
            raise
        moved = _told(both, wanted, action)
        moved = replace(moved, more={**moved.more, _CURRENT: name})
        services.notes.rewrite(folder, moved)
        self._settle(folder, moved, action, progress)

    def _settle(self, folder: Folder, meta: Meta, action: Action, progress: Progress) -> Meta:
        """Remove containers beside the current one: they are left of a move."""
        for name in sorted(set(addresses_of(meta)) - {_current(meta)}):
            if self._runs(folder, name):
                self._envoys.drain(folder, name, MOVED_DRAIN_S, progress)
            meta = self._drop(folder, meta, name, action)
        return meta

    def _drop(self, folder: Folder, meta: Meta, name: str, action: Action) -> Meta:
        """Take one container of the gateway down and forget it."""
        self._services.down(name, grace_s=STOP_GRACE_S, address=action.address)
        left = without_service(meta, name)
        self._services.notes.rewrite(folder, left)
        shutil.rmtree(self._envoys.config(folder, name), ignore_errors=True)
        return left

    def _clear(self, folder: Folder, known: Meta | None, action: Action) -> None:
        """Remove what an ended gateway of this id left, before it is started again."""
        if known is not None:
            self._remove(folder, known, action)

    def _remove(self, folder: Folder, meta: Meta | None, action: Action) -> None:
        if meta is not None:
            for name in sorted(addresses_of(meta)):
                self._services.down(name, grace_s=STOP_GRACE_S, address=action.address)
        self._services.notes.forget(folder, lambda: shutil.rmtree(folder.path, ignore_errors=True))

    def _folder(self, component: str) -> Folder:
        return Folder(self._ground.components / component)

    def _folders(self) -> tuple[Folder, ...]:
        return folders(self._ground.components)


def _current(meta: Meta) -> str:
    return str(meta.more.get(_CURRENT, meta.id))


def _next_name(folder: Folder, old: str) -> str:
    """The name of the next container: ``gateway-77aa10``, then ``gateway-77aa10-2`` and so on."""
    count = old.removeprefix(folder.id).removeprefix("-")
    return f"{folder.id}-{int(count) + 1 if count.isdigit() else 2}"


def _told(before: Meta, wanted: GatewayResource, action: Action) -> Meta:
    return replace(
        before,
        digest=wanted.digest,
        fields=wanted.fields(),
        host=wanted.host,
        port=wanted.port,
        cause=action.cause,
    )


def _made_with(fields: Fields) -> tuple[object, ...]:
    """What a container has from its beginning: its image, and what is mounted."""
    values = dict(fields)
    return tuple(values.get(path) for path in ("image", "tls.certificate", "tls.key"))
