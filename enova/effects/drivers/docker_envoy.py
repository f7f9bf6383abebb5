"""One Envoy in a container: its files, its start, whether it serves, how it lets go.

In: a gateway's resource and the name of its compose service. Out: a container that serves it.
``docker_gateway`` says which containers there are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from enova.base.errors import ActionFailed, Unreachable
from enova.capacity.catalog import images
from enova.effects import gateway
from enova.effects.drivers import gateway_files
from enova.effects.drivers.docker_ground import Ground
from enova.effects.drivers.docker_notes import addresses_of
from enova.effects.drivers.docker_services import Services
from enova.effects.drivers.folder import TAIL_LINES, Folder, Meta
from enova.effects.drivers.gateway_files import READY_S, Documents
from enova.effects.gateway_admin import GatewayAdmin
from enova.stack.actions import Action
from enova.stack.render import compose
from enova.stack.render.envoy import BOOTSTRAP
from enova.stack.resources import GatewayResource

Progress = Callable[[str], None]

_LOOK_S = 0.05
_CONNECT_S = 1.0


class Envoys:
    """The Envoys of one stack, one container each."""

    def __init__(self, ground: Ground, services: Services) -> None:
        self._ground = ground
        self._services = services

    def bring(
        self,
        folder: Folder,
        name: str,
        meta: Meta,
        resource: GatewayResource,
        action: Action,
        progress: Progress,
    ) -> None:
        """Write the files of one container, start it, wait until it serves."""
        config = self.config(folder, name)
        self._ground.prepare(config / "run")
        self._ground.prepare(self._ground.gateway)
        files = self.files(folder, name, action, resource, meta)
        gateway.write_files(config, files)
        self._services.up(folder, meta, name, progress=progress)
        self.await_ready(folder, name, replace(meta, port=resource.port), action)

    def service(
        self,
        project: compose.Project,
        folder: Folder,
        name: str,
        resource: GatewayResource,
        ip: str,
    ) -> compose.Document:
        bootstrap = Path(compose.gateway_places(ip).config_dir) / BOOTSTRAP
        run = self._ground.run
        return compose.gateway(
            project,
            component=folder.id,
            resource=resource,
            ip=ip,
            image=resource.image or images.program_image("envoy").reference,
            apply=folder.id.rpartition("-")[2],
            command=gateway.command_line(Path("envoy"), bootstrap),
            config=f"./{self.config(folder, name).relative_to(run)}",
            members=f"./{self._ground.members.relative_to(run)}",
            log=f"./{self._ground.gateway.relative_to(run)}",
        )

    def files(
        self, folder: Folder, name: str, action: Action, resource: GatewayResource, meta: Meta
    ) -> Documents:
        """Everything Envoy reads, once an Envoy found it good. Raises ActionFailed."""
        return gateway_files.documents(
            self._ground,
            action,
            resource,
            places=compose.gateway_places(addresses_of(meta)[name]),
            folder=self._ground.prepare(self.config(folder, name)),
            envoy=self._ground.envoy,
        )

    def await_ready(self, folder: Folder, name: str, meta: Meta, action: Action) -> None:
        clock, admin = self._ground.clock, self.admin(folder, name)
        ip = addresses_of(meta)[name]
        end = clock.monotonic() + READY_S
        reason = f"it did not get ready within {READY_S:.0f} s"
        while True:
            container = self._services.find(name)
            ended = self._services.ended(folder, container)
            if ended is not None:
                reason = ended
                break
            # Ready only means that the configuration is loaded, not that the port is bound.
            if admin.ready():
                if _listens(ip, meta.port):
                    return
                refused = admin.rejection_reasons()
                if refused:
                    reason = "; ".join(refused)
                    break
            if clock.monotonic() >= end:
                break
            clock.sleep(_LOOK_S)
        lines = self._services.lines(container, TAIL_LINES) if container else []
        raise ActionFailed(action.address, gateway_files.step(action), reason, lines)

    def drain(self, folder: Folder, name: str, drain_s: float, progress: Progress) -> None:
        progress("draining")
        admin = self.admin(folder, name)
        try:
            admin.drain_listeners()
            if not admin.wait_quiet(deadline_s=drain_s):
                progress(f"requests still open after {drain_s:.0f} s")
        except Unreachable as error:
            progress(f"not draining: {error}")

    def admin(self, folder: Folder, name: str) -> GatewayAdmin:
        return GatewayAdmin(self.config(folder, name) / "run" / "admin.sock")

    def config(self, folder: Folder, name: str) -> Path:
        """Where the files of one container are."""
        return folder.path / name


def _listens(ip: str, port: int) -> bool:
    try:
        with socket.create_connection((ip, port), timeout=_CONNECT_S):
            return True
    except OSError:
        return False
